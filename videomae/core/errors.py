"""The base class of errors that the user can correct, and a part of their messages."""

from collections.abc import Iterable


class UserError(ValueError):
    """A config, path, file or argument of the user is refused.

    The message says what was got, what was wanted and what to type. Commands print it as one line and exit with code 2;
    every other exception prints its traceback and exits with code 1. It derives from ValueError so that pydantic
    reports one that is raised while a config is validated together with the name of the offending key.
    """


def listing(items: Iterable[object], limit: int = 12, *, separator: str = ", ") -> str:
    """Up to `limit` of `items`, and the number of further ones."""
    found = list(map(str, items))
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return separator.join(found[:limit]) + more
