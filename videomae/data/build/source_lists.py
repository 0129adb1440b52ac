"""List the sources named by list files: `path label` lists, and the official splits of UCF101 and HMDB51.

A listed file that is missing stays in the listing; the build reports and skips it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from videomae.data.build.sources import Listing, Source, SourceError, source_group

_Row = tuple[str, str]  # path, class or label


def list_from_files(folder: Path, lists: Mapping[str, Path], *, classes: Sequence[str] = ()) -> Listing:
    """List the sources of one file of `path label` lines per split, separated by commas, tabs or spaces.

    VideoMAE, SlowFast and mmaction2 use this format. Paths are relative to `folder`; labels are numbers or names.
    mmaction2's `folder frames label` lines denote folders of frames. `classes` names numeric labels.

    Raises:
        SourceError: a list is missing, empty or malformed, or a label has no class.
    """
    rows = {split: _read_list(file, folder) for split, file in lists.items()}
    labels = {label for found in rows.values() for _, label in found}
    if all(label.isascii() and label.isdigit() for label in labels):
        highest = max(int(label) for label in labels)
        names = tuple(classes) or tuple(str(number) for number in range(highest + 1))
        if highest >= len(names):
            raise SourceError(
                f"label {highest} in the lists, but only {len(names)} classes are named; name all of them"
            )
        named = {split: [(path, names[int(label)]) for path, label in found] for split, found in rows.items()}
        return _listing(folder, named, names)
    names = tuple(classes) or tuple(sorted(labels))
    unknown = labels - set(names)
    if unknown:
        raise SourceError(f"label {min(unknown)!r} in the lists is none of the classes {', '.join(names[:10])}")
    return _listing(folder, rows, names)


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
            if use in ("1", "2"):
                rows["train" if use == "1" else "val"].append((f"{match[1]}/{name.strip()}", match[1]))
    return _listing(folder, rows, tuple(sorted({name for found in rows.values() for _, name in found})))


def _listing(folder: Path, rows: Mapping[str, Sequence[_Row]], classes: tuple[str, ...]) -> Listing:
    if len(classes) < 2:
        raise SourceError(f"the lists name only the class {', '.join(classes)!r}; wanted at least two")
    numbers = {name: number for number, name in enumerate(classes)}
    splits = {
        split: tuple(
            Source(
                path=folder / path,
                name=path,
                split=split,
                class_name=name,
                label=numbers[name],
                group=_group(Path(path).stem, name),
            )
            for path, name in sorted(set(found))
        )
        for split, found in rows.items()
    }
    if not any(source.path.exists() for sources in splits.values() for source in sources):
        raise SourceError(
            f"none of the listed files is under {folder}; pass the folder that the listed paths are relative to"
        )
    return Listing(classes=classes, splits=splits)


def _group(stem: str, class_name: str) -> str:
    """HMDB51 clips are named <source>_<class>_<properties>; other names as in `source_group`."""
    source, found, _ = stem.partition(f"_{class_name}_")
    return source if found and not stem.startswith("v_") else source_group(stem)


def _read_list(file: Path, folder: Path) -> list[_Row]:
    rows = []
    for number, line in enumerate(_lines(file, "`path label` lines")):
        separator = "\t" if "\t" in line else "," if "," in line else None
        fields = [field.strip() for field in line.rsplit(separator, 2)]
        if len(fields) < 2:
            raise SourceError(f"{file}: line {number + 1} is {line!r}; wanted `path label`")
        if number == 0 and fields[-1].lower() in ("label", "class"):
            continue
        is_frames = len(fields) == 3 and fields[1].isdigit() and (folder / fields[0]).is_dir()
        path = fields[0] if is_frames else line.rsplit(separator, 1)[0].strip()
        rows.append((path, fields[-1]))
    if not rows:
        raise SourceError(f"{file} is empty; wanted `path label` lines")
    return rows


def _lines(file: Path, wanted: str) -> list[str]:
    if not file.is_file():
        raise SourceError(f"no list at {file}; wanted {wanted}")
    return [line.strip() for line in file.read_text().splitlines() if line.strip()]
