"""Read the text files that users write: lists, class names, groups."""

from __future__ import annotations

import codecs
import logging
import re
from pathlib import Path

from videomae.data.errors import SourceError

_log = logging.getLogger(__name__)


def read_lines(file: Path, wanted: str) -> list[str]:
    """The stripped lines of a text file in UTF-8, UTF-16 with its mark, or else Latin-1, which the log then says.

    Raises:
        SourceError: there is no such file, or it is not text; the message says what is `wanted`.
    """
    if not file.is_file():
        raise SourceError(f"no file at {file}; wanted {wanted}")
    content = file.read_bytes()
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if b"\0" in content and not marked:
        raise SourceError(f"{file} is not text; wanted {wanted}")
    try:
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        _log.warning("%s is not UTF-8 (byte %d); reading it as Latin-1", file, error.start)
        text = content.decode("latin-1")
    return [line.strip() for line in re.split(r"\r\n|\r|\n", text)]
