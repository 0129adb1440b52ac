"""List the sources named by list files: lists of paths and labels, and the official splits of UCF101 and HMDB51.

A listed file that is missing stays in the listing; the build reports and skips it.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from videomae.data.build.classes import UNLABELLED, Classes, resolve_classes
from videomae.data.build.list_reader import ListRow, is_video_name, read_list
from videomae.data.build.sources import Listing, Source, source_group
from videomae.data.build.text_files import read_lines
from videomae.data.errors import SourceError

_Row = tuple[str, str]  # path, class
_log = logging.getLogger(__name__)


def list_from_files(
    folder: Path, lists: Mapping[str, Path], *, classes: Sequence[str] = (), unlabelled: bool = False
) -> Listing:
    """List the sources of one list file per split, in any form that `list_reader` reads.

    Paths are relative to `folder`; labels are numbers or names, and `classes` names numeric labels. Without labels, as
    in VideoMAEv2's `path 0 -1`, or with `unlabelled`, the sources have no classes, which suffices for pretraining.

    Raises:
        SourceError: a list is missing, empty or malformed, lists contradict each other, or a label has no class.
    """
    rows = {split: read_list(file, folder) for split, file in lists.items()}
    if unlabelled:
        rows = {split: [replace(row, label=None) for row in found] for split, found in rows.items()}
    rows = _without_repetitions(folder, rows)
    every = [row for found in rows.values() for row in found]
    labelled, missing = [row for row in every if row.label is not None], [row for row in every if row.label is None]
    if labelled and missing:
        raise SourceError(
            f"{missing[0].place}: {missing[0].path} has no label; {len(missing)} of {len(every)} sources have none: "
            "add it, remove these lines, or pass --unlabelled to use all without classes"
        )
    resolved = resolve_classes([(row.label, row.place) for row in labelled], classes if labelled else ())
    if labelled:
        _check_splits(rows, resolved)
    named = {
        split: [(row.path, resolved.names[resolved.index(row.label)] if row.label is not None else "") for row in found]
        for split, found in rows.items()
    }
    return _listing(folder, named, resolved.names)


def _without_repetitions(folder: Path, rows: Mapping[str, list[ListRow]]) -> dict[str, list[ListRow]]:
    """Each split's rows, every path once. Raises SourceError for a path with two labels, in one list or in two."""
    first: dict[str, ListRow] = {}
    kept: dict[str, list[ListRow]] = {}
    for split, found in rows.items():
        by_path: dict[str, ListRow] = {}
        for row in found:
            path = _relative(folder, row.path)
            other = first.setdefault(path, row)
            if other.label != row.label:
                raise SourceError(
                    f"{path} has two labels: {_shown(other)} and {_shown(row)}; remove the line that is wrong"
                )
            by_path.setdefault(path, replace(row, path=path))
        if len(by_path) < len(found):
            _log.warning("%d lines of the %s list repeat others; used once", len(found) - len(by_path), split)
        kept[split] = list(by_path.values())
    return kept


def _shown(row: ListRow) -> str:
    return f"{'none' if row.label is None else row.label} in {row.place}"


def _relative(folder: Path, path: str) -> str:
    """The normal form of a listed path, relative to `folder` if it lies below it."""
    normal = posixpath.normpath(path)
    for base in (folder.absolute(), folder.resolve()) if normal.startswith("/") else ():
        if Path(normal).is_relative_to(base):
            return Path(normal).relative_to(base).as_posix()
    return normal


def _check_splits(rows: Mapping[str, Sequence[ListRow]], classes: Classes) -> None:
    """Refuse classes that are tested but never trained; warn of the reverse."""
    if len(rows) < 2:
        return
    seen = {split: {classes.index(row.label) for row in found} for split, found in rows.items()}
    for row in rows["val"]:
        if classes.index(row.label) not in seen["train"]:
            raise SourceError(
                f"{row.place}: the class {row.label} of {row.path} is not in the train list; "
                "correct the label, or add sources of the class to train"
            )
    absent = [classes.names[number] for number in sorted(seen["train"] - seen["val"])]
    if absent:
        _log.warning("%d classes have no source in val, such as %s", len(absent), absent[0])


def list_ucf101(folder: Path, splits: Path, number: int) -> Listing:
    """List UCF101's split 1, 2 or 3 from trainlist0N.txt and testlist0N.txt in `splits`; the test list becomes val."""
    rows: dict[str, list[_Row]] = {}
    for split, name in (("train", f"trainlist{number:02d}.txt"), ("val", f"testlist{number:02d}.txt")):
        lines = _lines(splits / name, "the official lists of UCF101 (ucfTrainTestlist)")
        paths = [line.split()[0] for line in lines]
        rows[split] = [(path, path.partition("/")[0]) for path in paths]
    return _listing(folder, rows, tuple(sorted({name for found in rows.values() for _, name in found})))


def list_hmdb51(folder: Path, splits: Path, number: int) -> Listing:
    """List HMDB51's split 1, 2 or 3 from <class>_test_splitN.txt in `splits`: 1 is train, 2 val, 0 unused."""
    pattern = re.compile(rf"^(.+)_test_split{number}\.txt$")
    rows: dict[str, list[_Row]] = {"train": [], "val": []}
    files = sorted(splits.glob(f"*_test_split{number}.txt")) if splits.is_dir() else []
    if not files:
        raise SourceError(f"no *_test_split{number}.txt in {splits}; wanted the official lists of HMDB51")
    for file in files:
        match = pattern.match(file.name)
        assert match is not None
        for line in _lines(file, "HMDB51's lists"):
            name, _, use = line.rpartition(" ")
            if use not in ("0", "1", "2"):
                raise SourceError(f"{file}: {line!r} does not end in 0, 1 or 2; wanted HMDB51's lists")
            if use != "0":
                rows["train" if use == "1" else "val"].append((f"{match[1]}/{name.strip()}", match[1]))
    return _listing(folder, rows, tuple(sorted({name for found in rows.values() for _, name in found})))


def _lines(file: Path, wanted: str) -> list[str]:
    return [line for line in read_lines(file, wanted) if line]


def _listing(folder: Path, rows: Mapping[str, Sequence[_Row]], classes: tuple[str, ...]) -> Listing:
    if len(classes) == 1:
        raise SourceError(
            f"the lists name only the class {classes[0]!r}; wanted at least two, or pass --unlabelled for pretraining"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    splits = {
        split: tuple(
            Source(
                path=folder / path,
                name=path,
                class_name=name,
                label=numbers.get(name, UNLABELLED),
                group=_group(Path(path).stem if is_video_name(path) else Path(path).name, name),
            )
            for path, name in sorted(set(found))
        )
        for split, found in rows.items()
    }
    if not any(source.path.exists() for sources in splits.values() for source in sources):
        named = next((source.name for sources in splits.values() for source in sources), "")
        raise SourceError(
            f"none of the listed files is under {folder}, such as {named!r}; pass the folder that the listed paths are "
            "relative to"
        )
    return Listing(classes=classes, splits=splits)


def _group(stem: str, class_name: str) -> str:
    """HMDB51 clips are named <source>_<class>_<properties>; other names as in `source_group`."""
    source, found, _ = stem.partition(f"_{class_name}_")
    return source if class_name and found and not stem.startswith("v_") else source_group(stem)
