"""The base class of errors that the user can correct."""


class UserError(ValueError):
    """A config, path, file or argument of the user is refused.

    The message says what was got, what was wanted and what to type. Commands print it as one line and exit with code 2;
    every other exception prints its traceback and exits with code 1. It derives from ValueError so that pydantic
    reports one that is raised while a config is validated together with the name of the offending key.
    """
