"""Read list files: which separator they use, whether they have a header, and each line's path and label.

The separator is the one with which most paths of the file are found on disk or end in the suffix of a video. So a comma
in a name is no separator in a list with blanks, and a blank none in a CSV.
"""

from __future__ import annotations

import contextlib
import csv
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videomae.data.build.classes import Label, parse_label
from videomae.data.build.source_tree import frame_files
from videomae.data.build.text_files import read_lines
from videomae.data.errors import SourceError
from videomae.data.video import SUFFIXES

PATH_NAMES = frozenset((
    "path", "video_path", "videopath", "video", "video_file", "video_name", "file", "filename", "file_name",
    "filepath", "file_path", "name", "clip", "clip_path", "clip_name",
))  # fmt: skip
LABEL_NAMES = frozenset((
    "label", "labels", "label_id", "label_idx", "label_name", "class", "class_id", "class_idx", "class_index",
    "class_name", "classname", "category", "category_id", "target", "action", "activity",
))  # fmt: skip
_SPLIT_NAMES = frozenset(("split", "subset", "set", "partition", "fold"))
_BLANKS, _WHOLE_LINE = " ", ""
_SEPARATORS = ("\t", ",", ";", "|", _BLANKS, _WHOLE_LINE)
_SCORED_LINES = 200  # enough to tell the separator; each costs a few look-ups on disk
_SUFFIXED = re.compile(rf"(.*(?:{'|'.join(map(re.escape, SUFFIXES))}))(?:\s+(.*))?", re.IGNORECASE)


@dataclass(frozen=True)
class ListRow:
    """A listed source: its path below the folder, its label, and the file and line that name it."""

    path: str
    label: Label | None
    place: str


@dataclass(frozen=True)
class _Line:
    """A line's path and its other columns."""

    number: int
    path: str
    rest: tuple[str, ...]


def read_list(file: Path, folder: Path) -> list[ListRow]:
    """Read the rows of a list whose paths are relative to `folder`.

    Raises:
        SourceError: the list is missing, empty, or a line has no path or too many columns.
        LabelError: a label is neither a class number nor a name.
    """
    lines = list(enumerate(read_lines(file, "a list of `path label` lines"), 1))
    lines = [(number, line) for number, line in lines if line and not _is_comment(line, folder)]
    if not lines:
        raise SourceError(f"{file} is empty; wanted `path label` lines")
    separator = max(_SEPARATORS, key=lambda each: _score(lines[:_SCORED_LINES], each, folder))
    header = _header(_columns(lines[0][1], separator, f"{file} line {lines[0][0]}"), folder)
    if header:
        lines = [(number, line) for number, line in lines[1:] if line != lines[0][1]]
        if separator in (_BLANKS, _WHOLE_LINE) and header[0] in LABEL_NAMES:
            raise SourceError(f"{file}: the label stands before the path; separate them by commas, or swap them")
    place = f"{file} line"
    if header and separator not in (_BLANKS, _WHOLE_LINE):
        found = _named_columns(lines, separator, header, place, folder)
    else:
        found = [_parse(number, line, separator, folder, place) for number, line in lines]
    if not found:
        raise SourceError(f"{file} holds only a header; wanted `path label` lines")
    frames = _frame_ranges(found, folder)
    return [
        ListRow(
            path=_on_disk(line.path, folder),
            label=None if frames else parse_label(_label(line, place), f"{place} {line.number}"),
            place=f"{place} {line.number}",
        )
        for line in found
    ]


def is_video_name(path: str) -> bool:
    """Whether the path ends in the suffix of a video."""
    return path.lower().endswith(SUFFIXES)


def _is_comment(line: str, folder: Path) -> bool:
    """Whether a line starts with # and neither names a file nor looks like a header."""
    if not line.startswith("#") or set(re.split(r"[^a-z_]+", line.lower())) & PATH_NAMES:
        return False
    match = _SUFFIXED.match(line)
    return not (match and (folder / match[1]).exists())


def _score(lines: Sequence[tuple[int, str]], separator: str, folder: Path) -> tuple[int, int, bool]:
    """How many lines have a path that exists or ends in the suffix of a video, and whether there is a header."""
    existing = named = 0
    for number, line in lines:
        try:
            paths = {_parse(number, line, separator, folder, "").path}
            if separator not in (_BLANKS, _WHOLE_LINE):  # a header may name any column as the path
                paths.update(_columns(line, separator, ""))
        except SourceError:
            continue
        named += any(map(is_video_name, paths))
        existing += any(path and (folder / _on_disk(path, folder)).exists() for path in paths)
    with contextlib.suppress(SourceError):
        return existing, named, len(_header(_columns(lines[0][1], separator, ""), folder)) > 1
    return existing, named, False


def _columns(line: str, separator: str, place: str) -> list[str]:
    """The fields of a line, without quotes and outer blanks."""
    if separator == _WHOLE_LINE:
        return [line]
    if separator == _BLANKS:
        return line.split()
    try:
        (fields,) = csv.reader([line], delimiter=separator, skipinitialspace=True, strict=True)
    except csv.Error as error:
        raise SourceError(f"{place} is {line!r}: {error}; quote a name whole, or not at all") from None
    return [field.strip() for field in fields]


def _header(fields: Sequence[str], folder: Path) -> list[str]:
    """The column names, if the first line is a header; else nothing."""
    names = [re.sub(r"[\s-]+", "_", field.lstrip("#").strip().lower()) for field in fields]
    if any(is_video_name(field) or (field and (folder / field).exists()) for field in fields):
        return []
    is_header = bool(PATH_NAMES & set(names)) or names[-1] in LABEL_NAMES or names[0] in LABEL_NAMES
    return names if is_header else []


def _named_columns(
    lines: Sequence[tuple[int, str]], separator: str, header: list[str], place: str, folder: Path
) -> list[_Line]:
    """The lines of a list whose header names the columns of path and label."""
    file = place.removesuffix(" line")
    rows = [(number, _columns(line, separator, f"{place} {number}")) for number, line in lines]
    for number, row in rows:
        if len(row) != len(header):
            raise SourceError(
                f"{place} {number} has {len(row)} columns, its header {len(header)}; quote names with commas"
            )
    for column in (column for column, name in enumerate(header) if name in _SPLIT_NAMES):
        if len(splits := sorted({row[column] for _, row in rows})) > 1:
            raise SourceError(
                f"{file}: its column {header[column]} has {', '.join(splits[:3])}; give each split its list"
            )
    labels = [column for column, name in enumerate(header) if name in LABEL_NAMES]
    paths = [column for column, name in enumerate(header) if name in PATH_NAMES]
    found = [c for c in paths if any(is_video_name(row[c]) or (folder / row[c]).exists() for _, row in rows[:9])]
    paths = (found or paths)[:1] or [column for column in range(len(header)) if column not in labels][:1]
    if len(labels) > 1:
        raise SourceError(f"{file}: its header has the labels {', '.join(header[c] for c in labels)}; keep one of them")
    if not paths:
        raise SourceError(f"{file}: its header {', '.join(header)} names no path; name the columns path and label")
    return [_Line(number, row[paths[0]], tuple(row[column] for column in labels)) for number, row in rows]


def _parse(number: int, line: str, separator: str, folder: Path, place: str) -> _Line:
    if separator == _WHOLE_LINE:
        return _Line(number, line, ())
    if separator == _BLANKS:
        return _parse_blanks(number, line, folder)
    fields = _columns(line, separator, f"{place} {number}")
    while len(fields) > 2 and not fields[-1]:
        fields.pop()
    if len(fields) > 2 and not is_video_name(fields[0]) and '"' not in line:  # the name may hold separators
        raw = line.split(separator)
        for count in range(len(raw), 1, -1):
            path = separator.join(raw[:count]).strip()
            if is_video_name(path) or (folder / path).is_dir():
                return _Line(number, path, tuple(field.strip() for field in raw[count:]))
    return _Line(number, fields[0], tuple(fields[1:]))


def _parse_blanks(number: int, line: str, folder: Path) -> _Line:
    """The path may hold blanks: it ends with the suffix of a video, or is the longest that exists on disk."""
    if line.startswith('"') and '"' in line[1:]:
        path, _, rest = line[1:].partition('"')
    elif match := _SUFFIXED.fullmatch(line):
        path, rest = match[1], match[2] or ""
    else:
        words = line.split()
        ends = [len(words) - count for count in (0, 1, 2) if len(words) > count]
        paths = [(" ".join(words[:end]), words[end:]) for end in ends]
        numbers = len(words) > 2 and all(word.lstrip("-").isdigit() for word in words[-2:])
        default = paths[2] if numbers else paths[min(1, len(paths) - 1)]
        path, others = next((each for each in paths if (folder / each[0]).is_dir()), default)
        return _Line(number, path, tuple(others))
    words = rest.split()
    if all(re.fullmatch(r"-?\d+", word) for word in words):
        return _Line(number, path, tuple(words))
    return _Line(number, path, (rest.strip().strip('"'),))


def _label(line: _Line, place: str) -> str | None:
    """The label of `path`, `path label` or mmaction2's `path frames label`."""
    if len(line.rest) > 2 or (len(line.rest) == 2 and not line.rest[0].isdigit()):
        raise SourceError(
            f"{place} {line.number} has {len(line.rest) + 1} columns; wanted `path label`, `path frames label`, or a "
            "header that names the columns path and label"
        )
    return line.rest[-1] if line.rest else None


def _frame_ranges(lines: Sequence[_Line], folder: Path) -> bool:
    """Whether the lines are VideoMAEv2's `folder start frames` of pretraining, which has no labels."""
    for line in lines:
        if len(line.rest) == 2 and line.rest[0] in ("0", "1") and (folder / line.path).is_dir():
            return line.rest[1] == str(len(frame_files(folder / line.path))) != line.rest[0]
    return False


def _on_disk(path: str, folder: Path) -> str:
    """The path as the disk has it: separators of Windows and the other normal form of Unicode are tried too."""
    if ("\\" in path or not path.isascii()) and not (folder / path).exists():
        slashed = path.replace("\\", "/")
        forms = [unicodedata.normalize(form, slashed) for form in ("NFC", "NFD")]
        path = next((form for form in forms if (folder / form).exists()), slashed)
    return path
