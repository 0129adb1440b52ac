"""List the videos of a source folder with the split, class and source group that its layout gives.

Layouts: train|val/<class>/<video file>, train|val/<class>/<video>/<frame image>, and videos without classes. A class
folder may repeat its split, as RWF-2000's `Train_Fight` does.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from videomae.core.errors import UserError
from videomae.data.video import SUFFIXES

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_SPLIT_PREFIX = re.compile(rf"^({'|'.join(SPLITS)})[_-]", re.IGNORECASE)
_YOUTUBE_CLIP = re.compile(r"^([A-Za-z0-9_-]{11})_\d+$")  # RWF-2000: <video id>_<clip number>
_UCF_CLIP = re.compile(r"^v_(.+_g\d+)_c\d+$")  # UCF101: v_<class>_g<group>_c<clip>


class SourceError(UserError):
    """Source videos or lists that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A video file or a folder of frame images. Without classes, `label` is -1 and `class_name` is empty."""

    path: Path
    name: str  # relative to the source folder, with forward slashes
    split: str
    class_name: str
    label: int
    group: str

    @property
    def files(self) -> list[Path]:
        """The video file, or the frames in natural order."""
        if not self.path.is_dir():
            return [self.path]
        return sorted((file for file in self.path.iterdir() if _is_image(file)), key=_natural_key)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The classes of a data set, and its sources by split."""

    classes: tuple[str, ...]
    splits: dict[str, tuple[Source, ...]]

    @property
    def digest(self) -> str:
        """A hash of every source's split, class and group."""
        rows = [
            (split, source.name, source.class_name, source.label, source.group)
            for split, sources in self.splits.items()
            for source in sources
        ]
        return hashlib.sha256(json.dumps([self.classes, rows]).encode()).hexdigest()[:16]


def find_sources(folder: Path, *, unlabelled: bool = False) -> Listing:
    """List the videos of `folder` by its layout; `unlabelled` lists all below it as train, without classes.

    Raises:
        SourceError: no folder, no videos, fewer than two classes, or a class without videos in a split.
    """
    if not folder.is_dir():
        raise SourceError(f"no folder at {folder}; wanted a folder with train/ and val/, or with videos")
    subfolders = {child.name.lower(): child for child in sorted(folder.iterdir()) if child.is_dir()}
    splits = {split: subfolders[split] for split in SPLITS if split in subfolders}
    if unlabelled or (not splits and any(_is_video(file) for file in folder.iterdir())):
        return _find_unlabelled(folder)
    if not splits:
        raise SourceError(
            f"{folder} has neither train/ and val/ nor videos in it; wanted train/<class>/<video> and val/<class>/"
            "<video>, or pass --unlabelled to use every video below it without classes"
        )
    return _find_labelled(folder, splits)


def _find_unlabelled(folder: Path) -> Listing:
    files = sorted(file for file in folder.rglob("*") if _is_video(file))
    if not files:
        raise SourceError(f"no videos under {folder}; wanted files ending in {', '.join(SUFFIXES)}")
    sources = tuple(
        Source(
            path=file, name=_name(folder, file), split="train", class_name="", label=-1, group=source_group(file.stem)
        )
        for file in files
    )
    return Listing(classes=(), splits={"train": sources})


def _find_labelled(folder: Path, splits: dict[str, Path]) -> Listing:
    found = {split: _class_folders(path) for split, path in splits.items()}
    classes = tuple(sorted({name for by_class in found.values() for name in by_class}))
    _check_classes(folder, found, classes)
    groups = _read_groups(folder / "groups.csv")
    listed: dict[str, tuple[Source, ...]] = {}
    for split, by_class in found.items():
        listed[split] = tuple(
            Source(
                path=video,
                name=_name(folder, video),
                split=split,
                class_name=name,
                label=classes.index(name),
                group=groups.get((split, name, _stem(video)), source_group(_stem(video))),
            )
            for name in sorted(by_class)
            for video in by_class[name]
        )
    return Listing(classes=classes, splits=listed)


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


def _class_folders(split: Path) -> dict[str, list[Path]]:
    """Map each class to its videos, sorted by name."""
    by_class: dict[str, list[Path]] = {}
    for folder in sorted(path for path in split.iterdir() if path.is_dir()):
        videos = [path for path in sorted(folder.iterdir()) if _is_video(path) or _is_frame_folder(path)]
        by_class.setdefault(_SPLIT_PREFIX.sub("", folder.name), []).extend(videos)
    return by_class


def _read_groups(file: Path) -> dict[tuple[str, str, str], str]:
    """Read groups.csv: (split, class, clip without suffix) -> source group."""
    if not file.is_file():
        return {}
    with file.open(newline="") as lines:
        rows = csv.DictReader(lines)
        wanted = {"split", "class", "clip", "source_group"}
        if not wanted <= set(rows.fieldnames or ()):
            raise SourceError(f"{file}: got the columns {rows.fieldnames}; wanted {', '.join(sorted(wanted))}")
        return {(row["split"], row["class"], row["clip"]): row["source_group"] for row in rows}


def source_group(stem: str) -> str:
    """The source video of a clip, by the file names of RWF-2000 and UCF101; otherwise the clip's own name."""
    match = _YOUTUBE_CLIP.match(stem) or _UCF_CLIP.match(stem)
    return match.group(1) if match else stem


def _stem(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _is_frame_folder(path: Path) -> bool:
    return path.is_dir() and any(_is_image(file) for file in path.iterdir())


def _natural_key(path: Path) -> list[tuple[int, str]]:
    return [(int(part or 0), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.stem)]
