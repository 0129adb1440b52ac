"""What belongs to a checkpoint: size and SHA-256 of every file in manifest.json, and whether they still hold.

Nothing here talks to other ranks; each rank describes the files that it wrote, and checks the share that it is given.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from videomae.core.errors import UserError
from videomae.core.files import file_sha256, sync_path

FORMAT = "videomae-checkpoint-1"
MANIFEST = "manifest.json"
PROGRESS = "progress.json"


@dataclass(frozen=True)
class FileRecord:
    """One file as it was written."""

    bytes: int
    sha256: str


Files = Mapping[str, FileRecord]


class DamagedError(UserError):
    """A checkpoint that is not what was written; the message says in which way."""


def describe(folder: Path) -> dict[str, FileRecord]:
    """Every file below `folder` by its relative name, each flushed to the disk first.

    Raises:
        OSError: a file cannot be flushed or read back.
    """
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        sync_path(path)
        files[path.relative_to(folder).as_posix()] = FileRecord(path.stat().st_size, file_sha256(path))
    return files


def to_text(files: Files, **about: Any) -> str:
    """The text of a manifest; `about` are further values, for people."""
    listed = {name: {"bytes": record.bytes, "sha256": record.sha256} for name, record in sorted(files.items())}
    return json.dumps({"format": FORMAT, **about, "files": listed}, indent=1) + "\n"


def read_file_manifest(folder: Path) -> dict[str, FileRecord]:
    """The files that the manifest in `folder` lists.

    Raises:
        DamagedError: there is no manifest, or none of ours.
    """
    try:
        values = json.loads((folder / MANIFEST).read_text())
        if values.get("format", FORMAT) != FORMAT:
            raise DamagedError(f"its {MANIFEST} has the format {values['format']!r}, wanted {FORMAT!r}")
        files = {str(name): FileRecord(int(of["bytes"]), str(of["sha256"])) for name, of in values["files"].items()}
    except DamagedError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"no readable {MANIFEST} ({error})") from None
    outside = [name for name in files if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]
    if outside:
        raise DamagedError(f"its {MANIFEST} names {outside[0]!r}, which lies outside")
    if PROGRESS not in files:
        raise DamagedError(f"{PROGRESS} is missing from its {MANIFEST}")
    return files


def find_fault(folder: Path) -> str | None:
    """What is wrong with the checkpoint at `folder`, or None if every byte is what was written."""
    try:
        files = read_file_manifest(folder)
        check_listing(folder, files)
        check_contents(folder, files, files)
    except DamagedError as error:
        return str(error)
    return None


def find_quick_fault(folder: Path) -> str | None:
    """As `find_fault`, by names and sizes only."""
    try:
        check_listing(folder, read_file_manifest(folder))
    except DamagedError as error:
        return str(error)
    return None


def check_listing(folder: Path, files: Files) -> None:
    """Hold the names and sizes in `folder` against `files`.

    Raises:
        DamagedError: a file is missing, has another size, or is not listed.
    """
    for name, record in files.items():
        path = folder / name
        if not path.is_file():
            raise DamagedError(f"{name} is missing")
        if path.stat().st_size != record.bytes:
            raise DamagedError(f"{name} has {path.stat().st_size} bytes, its manifest says {record.bytes}")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    foreign = sorted(name for name in found - files.keys() - {MANIFEST} if not name.startswith(".nfs"))  # NFS's own
    if foreign:
        raise DamagedError(f"{foreign[0]} is there, but not in its manifest")


def check_contents(folder: Path, files: Files, names: Iterable[str]) -> None:
    """Hash the files called `names`.

    Raises:
        DamagedError: one has changed, or cannot be read.
    """
    for name in names:
        try:
            if file_sha256(folder / name) != files[name].sha256:
                raise DamagedError(f"{name} has changed since it was written")
        except OSError as error:
            raise DamagedError(f"{name} cannot be read ({error})") from None


def share_of(files: Files, *, rank: int, size: int) -> list[str]:
    """The names that `rank` checks: the files are dealt out by size, so that the ranks have about the same to read."""
    dealt: list[list[str]] = [[] for _ in range(size)]
    loads = [0] * size
    for name in sorted(files, key=lambda name: (-files[name].bytes, name)):
        lightest = loads.index(min(loads))
        dealt[lightest].append(name)
        loads[lightest] += files[name].bytes
    return dealt[rank]
