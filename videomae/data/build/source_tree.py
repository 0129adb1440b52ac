"""Walk a folder for videos and folders of frames, and list everything else with the reason why it is left out."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from videomae.data.shards.manifest import SkippedSource
from videomae.data.video import SUFFIXES

IMAGE_SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm",
))  # fmt: skip
# Files that begin like a video and are none, or not a whole one.
_NO_VIDEOS = frozenset((
    ".m4a", ".m4b", ".mka", ".oga", ".ogg", ".opus", ".heic", ".heif", ".avif", ".cr3", ".part", ".crdownload",
    ".download", ".tmp", ".ytdl", ".bak", ".old", ".orig",
))  # fmt: skip
_SYSTEM_FOLDERS = frozenset(("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"))
_UPWARDS = "a link to a folder above it"
_FLOW = re.compile(r"flow[_-]?[xy]?[_-]?\d+", re.IGNORECASE)


@dataclass
class SourceTree:
    """The videos and folders of frames below `root`, in the order of their names, and what is left out."""

    root: Path
    found: list[Path] = field(default_factory=list)
    left_out: list[SkippedSource] = field(default_factory=list)

    def leave_out(self, path: Path, reason: str) -> None:
        self.left_out.append(SkippedSource(source=path.relative_to(self.root).as_posix(), reason=reason))

    def visible(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """The folders and files in `folder`, sorted, without hidden entries and links that lead nowhere or upwards."""
        folders, files = [], []
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = folder / entry.name
                if entry.name.startswith("."):
                    self.leave_out(path, f"a hidden {'folder' if entry.is_dir() else 'file'}")
                elif entry.name in _SYSTEM_FOLDERS:
                    self.leave_out(path, "a folder of the operating system")
                elif entry.is_symlink() and folder.resolve().is_relative_to(path.resolve()):
                    self.leave_out(path, _UPWARDS)
                elif entry.is_dir():
                    folders.append(path)
                elif entry.is_file():
                    files.append(path)
                elif entry.is_symlink():
                    self.leave_out(path, "a link whose target is missing")
                else:
                    self.leave_out(path, "neither a file nor a folder")
        return folders, files

    def walk(self, folder: Path, *, above: tuple[Path, ...] = ()) -> SourceTree:
        """Find all sources below `folder`, at any depth and through links. Pictures directly in it are left out."""
        folders, files = self.visible(folder)
        videos = [path for path in files if is_video(path)]
        others = set(files).difference(videos)
        images = [path for path in files if path in others and is_image(path)]
        if above and not any(folder.iterdir()):
            self.leave_out(folder, "an empty folder")
        if above and images and not videos and (len(images) > 1 or not folders):
            self._take_frames(folder, folders, files)
            return self
        self.found += videos
        for path in (path for path in files if path in others):
            picture = "a loose picture: the frames of a video need a folder of their own"
            self.leave_out(path, picture if is_image(path) else _reason(path))
        here = (*above, folder.resolve())
        for path in folders:
            if any(each.is_relative_to(path.resolve()) for each in here):
                self.leave_out(path, _UPWARDS)
            else:
                self.walk(path, above=here)
        return self

    def _take_frames(self, folder: Path, folders: list[Path], files: list[Path]) -> None:
        self.found.append(folder)
        frames = set(frame_files(folder))
        for path in folders:
            self.leave_out(path, "a folder inside a folder of frames")
        for path in (path for path in files if path not in frames):
            self.leave_out(path, "optical flow beside frames" if is_image(path) else "no picture, beside frames")


def is_video(path: Path) -> bool:
    """Whether a file has the suffix of a video or, with no suffix that says otherwise, begins like one."""
    suffix = path.suffix.lower()
    if path.name.startswith(".") or suffix in _NO_VIDEOS or suffix in IMAGE_SUFFIXES or not path.is_file():
        return False
    return suffix in SUFFIXES or _begins_like_video(path)


def is_image(path: Path) -> bool:
    """Whether a file is a picture that can be a frame, by its suffix."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def frame_files(folder: Path) -> list[Path]:
    """The frames in a folder in natural order, without the optical flow that some data sets keep beside them."""
    images = [path for path in folder.iterdir() if is_image(path)]
    frames = [path for path in images if not _FLOW.fullmatch(path.stem)]
    return sorted(frames or images, key=_natural_key)


def _begins_like_video(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(189)
    return (
        head[4:8] == b"ftyp"
        or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")
        or head.startswith(
            (b"\x1a\x45\xdf\xa3", b"FLV\x01", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"\0\0\x01\xba", b"OggS")
        )
        or (head[:1] == b"G" and head[188:189] == b"G")
    )


def _reason(path: Path) -> str:
    suffix = path.suffix.lower()
    if not re.fullmatch(r"\.[a-z0-9]{1,10}", suffix):
        return "no suffix of a video, and its content is none"
    return f"the suffix {suffix} is none of a video"


def _natural_key(path: Path) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"(\d+)", path.stem)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts if part], path.name
