"""List the videos of a source folder with the split, class and source group that its layout gives.

Layouts: train|val/<class>/.../<video file>, the same with folders of frame images, and videos without classes. A class
folder may repeat its split, as RWF-2000's `Train_Fight` does. Without val/, test/ is the val split.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from videomae.data.build.classes import UNLABELLED
from videomae.data.build.source_tree import SourceTree, frame_files, is_video
from videomae.data.build.text_files import read_lines
from videomae.data.errors import SourceError
from videomae.data.shards.manifest import SkippedSource
from videomae.data.video import SUFFIXES

_SPLIT_OF = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
_OUR_FILES = ("groups.csv", "synthetic.json")
_YOUTUBE_CLIP = re.compile(r"^([A-Za-z0-9_-]{11})_\d+$")  # RWF-2000: <video id>_<clip number>
_UCF_CLIP = re.compile(r"^v_(.+_g\d+)_c\d+$")  # UCF101: v_<class>_g<group>_c<clip>
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A video file or a folder of frame images. Without classes, `label` is -1 and `class_name` is empty."""

    path: Path
    name: str  # relative to the source folder, with forward slashes
    class_name: str
    label: int
    group: str

    @property
    def files(self) -> list[Path]:
        """The video file, or the frames in natural order."""
        return frame_files(self.path) if self.path.is_dir() else [self.path]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The classes of a data set, its sources by split, and the files beside them that are not taken."""

    classes: tuple[str, ...]
    splits: dict[str, tuple[Source, ...]]
    left_out: tuple[SkippedSource, ...] = ()

    @property
    def digest(self) -> str:
        """A hash of every source's split, class and group."""
        rows = [
            (split, source.name, source.class_name, source.label, source.group)
            for split, sources in self.splits.items()
            for source in sources
        ]
        return hashlib.sha256(json.dumps([self.classes, rows]).encode()).hexdigest()[:16]

    def left_out_by_reason(self) -> dict[str, list[str]]:
        """The names of what is left out, by reason."""
        reasons: dict[str, list[str]] = {}
        for each in self.left_out:
            reasons.setdefault(each.reason, []).append(each.source)
        return reasons


def find_sources(folder: Path, *, unlabelled: bool = False) -> Listing:
    """List the videos of `folder` by its layout; `unlabelled` lists all below it as train, without classes.

    Raises:
        SourceError: no folder, no videos, fewer than two classes, or a class without videos in a split.
    """
    if not folder.is_dir():
        raise SourceError(f"no folder at {folder}; wanted a folder with train/ and val/, or with videos")
    splits = _split_folders(folder)
    if unlabelled or (not splits and any(is_video(file) for file in folder.iterdir())):
        return _find_unlabelled(folder)
    if not splits:
        nested = [path for path in sorted(folder.iterdir()) if path.is_dir() and _split_folders(path)]
        raise SourceError(
            f"{folder} has neither train/ and val/ nor videos in it; wanted train/<class>/<video> and val/<class>/"
            "<video>, or pass --unlabelled to use every video below it without classes"
            + (f"; did you mean {nested[0]}?" if nested else "")
        )
    return _find_labelled(folder, splits)


def _split_folders(folder: Path) -> dict[str, Path]:
    """Split -> its folder. Raises SourceError if two folders are the same split."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        split = _SPLIT_OF.get(path.name.lower()) if path.is_dir() else None
        if split in found:
            raise SourceError(f"{found[split]} and {path} are both the {split} split; keep one, or join them")
        if split:
            found[split] = path
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def _find_unlabelled(folder: Path) -> Listing:
    tree = SourceTree(folder).walk(folder)
    if not tree.found:
        raise SourceError(f"no videos under {folder}; wanted files ending in {', '.join(SUFFIXES)}")
    sources = tuple(_source(folder, path) for path in sorted(tree.found))
    return Listing(classes=(), splits={"train": sources}, left_out=tuple(tree.left_out))


def _find_labelled(folder: Path, splits: Mapping[str, Path]) -> Listing:
    tree = _scan_beside(folder, splits)
    found = {split: _class_folders(tree, split, path) for split, path in splits.items()}
    groups = _read_groups(folder / "groups.csv")
    if "val" not in found and "test" in found:
        _log.warning("%s has no val/: test/ becomes the val split, on which models are evaluated", folder)
    classes = tuple(sorted({name for by_class in found.values() for name in by_class}))
    _check_classes(folder, found, classes)
    listed: dict[str, tuple[Source, ...]] = {}
    for folder_split, by_class in found.items():
        split = "val" if folder_split == "test" and "val" not in found else folder_split
        listed[split] = tuple(
            _source(
                folder,
                video,
                class_name=name,
                label=classes.index(name),
                group=groups.get((folder_split, name, _stem(video))),
            )
            for name in sorted(by_class)
            for video in by_class[name]
        )
    return Listing(classes=classes, splits=listed, left_out=tuple(tree.left_out))


def _scan_beside(folder: Path, splits: Mapping[str, Path]) -> SourceTree:
    """List what stands beside the folders of the splits."""
    tree = SourceTree(folder)
    names = " and ".join(f"{path.name}/" for path in splits.values())
    folders, files = tree.visible(folder)
    for path in (path for path in folders if path not in splits.values()):
        videos = len(SourceTree(path).walk(path).found)
        tree.leave_out(path, f"a folder beside {names}, with {videos} videos")
    for path in (path for path in files if path.name not in _OUR_FILES):
        tree.leave_out(path, f"a {'video' if is_video(path) else 'file'} beside {names}")
    return tree


def _class_folders(tree: SourceTree, split: str, folder: Path) -> dict[str, list[Path]]:
    """Map each class of a split to its sources, sorted by name."""
    folders, files = tree.visible(folder)
    for path in files:
        tree.leave_out(path, f"a {'video' if is_video(path) else 'file'} in {folder.name}/ without a class folder")
    own_names = [name for name, canonical in _SPLIT_OF.items() if canonical == split]
    prefix = re.compile(rf"({'|'.join(own_names)})[_-](?=.)", re.IGNORECASE)
    prefixed = all(prefix.match(path.name) for path in folders)
    by_class: dict[str, list[Path]] = {}
    for path in folders:
        before = len(tree.found)
        tree.walk(path)
        by_class[prefix.sub("", path.name, count=1) if prefixed else path.name] = sorted(tree.found[before:])
    return by_class


def _check_classes(folder: Path, found: dict[str, dict[str, list[Path]]], classes: tuple[str, ...]) -> None:
    if not any(videos for by_class in found.values() for videos in by_class.values()):
        raise SourceError(
            f"no videos under {folder}; wanted files ending in {', '.join(SUFFIXES)} or folders of frames"
        )
    if len(classes) < 2:
        raise SourceError(
            f"{folder} has only the class {', '.join(classes)!r}; wanted at least two, or pass --unlabelled"
        )
    if "train" not in found or len(found) < 2:
        raise SourceError(f"{folder} has only {', '.join(found)}/; wanted train/ and val/, or pass --unlabelled")
    for split, by_class in found.items():
        for name in classes:
            if not by_class.get(name):
                raise SourceError(
                    f"class {name!r} has no videos in {folder / split}; add videos, or remove the class from all splits"
                )


def _read_groups(file: Path) -> dict[tuple[str, str, str], str]:
    """Read groups.csv: (split, class, clip without suffix) -> source group."""
    if not file.is_file():
        return {}
    columns = ("split", "class", "clip", "source_group")
    wanted = f"a table with the columns {', '.join(columns)}"
    rows = csv.DictReader([line for line in read_lines(file, wanted) if line])
    if not set(columns) <= set(rows.fieldnames or ()):
        raise SourceError(f"{file}: got the columns {rows.fieldnames}; wanted {wanted}")
    groups = {}
    for row in rows:
        if None in (values := tuple(row[column] for column in columns)):
            raise SourceError(f"{file} line {rows.line_num}: a column is missing; wanted {wanted}")
        groups[values[:3]] = values[3]
    return groups


def source_group(stem: str) -> str:
    """The source video of a clip, by the file names of RWF-2000 and UCF101; otherwise the clip's own name."""
    match = _YOUTUBE_CLIP.match(stem) or _UCF_CLIP.match(stem)
    return match.group(1) if match else stem


def _stem(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


def _source(
    folder: Path, path: Path, *, class_name: str = "", label: int = UNLABELLED, group: str | None = None
) -> Source:
    name = path.relative_to(folder).as_posix()
    group = source_group(_stem(path)) if group is None else group
    return Source(path=path, name=name, class_name=class_name, label=label, group=group)
