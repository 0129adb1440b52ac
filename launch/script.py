"""Text of shell scripts: templates in which every value is quoted unless it is marked as shell.

The templates beside this file read as the scripts that they make. What stands in `{{ }}` is quoted for the shell by the
engine itself, so no value can be forgotten; a value's own kind of quoting or none is asked for by a type of its own.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import jinja2

from videomae.core.errors import UserError

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Shell(str):
    """Text that is shell already and stays as it is."""


def words(*parts: object) -> Shell:
    """`parts` as quoted words of one command."""
    return Shell(" ".join(quote(part) for part in parts))


def directive(value: object) -> Shell:
    """`value` for a line `#SBATCH --option=VALUE`, where sbatch reads quotes as a shell does, and backslashes too."""
    return Shell(quote(value).replace("\\", "\\\\"))


def quote(value: object) -> str:
    """`value` as one word of a shell, `Shell` as it is.

    Raises:
        UserError: the value holds a line break or another control character.
    """
    if isinstance(value, Shell):
        return value
    text = str(value)
    if _CONTROL.search(text):
        raise UserError(f"got {text!r}; line breaks and control characters cannot stand in a script, remove them")
    return shlex.quote(text)


def render(template: str, **values: Any) -> str:
    """The script that `template`, a file beside this module, makes of `values`."""
    engine = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        finalize=quote,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    engine.filters.update(directive=directive)
    return re.sub(r"\n{3,}", "\n\n", engine.get_template(template).render(**values))
