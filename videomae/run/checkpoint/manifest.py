"""The manifest of a checkpoint: size and SHA-256 of every file in manifest.json, and checks against it.

Nothing here communicates: each rank hashes the files it wrote, and checks the files it is assigned.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from videomae.core.errors import UserError
from videomae.core.files import file_sha256, sync_path, write_atomic

FORMAT = "videomae-checkpoint-1"
MANIFEST = "manifest.json"
PROGRESS = "progress.json"


@dataclass(frozen=True)
class FileRecord:
    """Size and hash of a file."""

    bytes: int
    sha256: str


Files = Mapping[str, FileRecord]


class DamagedError(UserError):
    """A checkpoint that differs from its manifest; the message says how."""


def hash_files(folder: Path) -> dict[str, FileRecord]:
    """Flush every file below `folder` to disk and hash it; returns records by relative name.

    Raises:
        OSError: a file cannot be flushed or read back.
    """
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        sync_path(path)
        files[path.relative_to(folder).as_posix()] = FileRecord(path.stat().st_size, file_sha256(path))
    return files


def write_manifest(folder: Path, files: Files, **info: Any) -> None:
    """Write the manifest of `files` to `folder` and flush it; `info` are further values, for people."""
    records = {name: {"bytes": record.bytes, "sha256": record.sha256} for name, record in sorted(files.items())}
    text = json.dumps({"format": FORMAT, **info, "files": records}, indent=1) + "\n"
    write_atomic(folder / MANIFEST, text, sync=True)


def read_file_manifest(folder: Path) -> dict[str, FileRecord]:
    """Read the files that the manifest in `folder` lists.

    Raises:
        DamagedError: the manifest is missing, unreadable or of another format.
    """
    try:
        values = json.loads((folder / MANIFEST).read_text())
        if values.get("format", FORMAT) != FORMAT:
            raise DamagedError(f"its {MANIFEST} has the format {values['format']!r}, expected {FORMAT!r}")
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


def find_fault(folder: Path, *, hashes: bool = True) -> str | None:
    """Return how the checkpoint at `folder` differs from its manifest, or None; `hashes=False` skips the contents."""
    try:
        files = read_file_manifest(folder)
        check_listing(folder, files)
        if hashes:
            check_contents(folder, files, files)
    except DamagedError as error:
        return str(error)
    return None


def check_listing(folder: Path, files: Files) -> None:
    """Compare the names and sizes in `folder` with `files`.

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
    unlisted = sorted(name for name in found - files.keys() - {MANIFEST} if not name.startswith(".nfs"))  # NFS's own
    if unlisted:
        raise DamagedError(f"{unlisted[0]} is there, but not in its manifest")


def check_contents(folder: Path, files: Files, names: Iterable[str]) -> None:
    """Hash the files `names`.

    Raises:
        DamagedError: one has changed, or cannot be read.
    """
    for name in names:
        try:
            if file_sha256(folder / name) != files[name].sha256:
                raise DamagedError(f"{name} has changed since it was written")
        except OSError as error:
            raise DamagedError(f"{name} cannot be read ({error})") from None


def assign_files(files: Files, *, rank: int, size: int) -> list[str]:
    """Return the names that `rank` checks: largest first to the least loaded rank, so that all read about the same."""
    assigned: list[list[str]] = [[] for _ in range(size)]
    loads = [0] * size
    for name in sorted(files, key=lambda name: (-files[name].bytes, name)):
        lightest = loads.index(min(loads))
        assigned[lightest].append(name)
        loads[lightest] += files[name].bytes
    return assigned[rank]
