"""Write files atomically, hash them and lock them.

Every file that another process may read while it is rewritten goes through this module: a reader sees the old content
or the new one, never a part. The temporary file has a fixed name beside its target, so one process at a time may write
a path, and the next write replaces what a killed process left.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it at the end, or is removed if the block raises.

    `sync` flushes the file and its folder's entry to the disk, so that the content survives a power failure.

    Raises:
        OSError: the file cannot be written; the error names `path`.
    """
    part = _part(path)
    try:
        yield part
        if sync:
            sync_path(part)
        part.replace(path)
        if sync:
            sync_path(path.parent)
    except OSError as error:
        error.filename = str(path)  # "No space left on device" alone does not name a file
        raise
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new, empty folder beside `path` that is renamed to it at the end, or is removed if the block raises.

    `path` must be absent or an empty folder.
    """
    part = _part(path)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_atomic(path: Path, content: str | bytes, *, sync: bool = False) -> None:
    """Write `content` atomically; arguments and errors as in `atomic_path`."""
    with atomic_path(path, sync=sync) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=1) + "\n")


def sync_path(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def file_lock(path: Path, *, blocking: bool = True, required: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on `path` among the processes of this machine; it ends with its holder at the latest.

    Raises:
        BlockingIOError: another process holds it, and `blocking` is off.
        OSError: the filesystem has no locks, and the lock is `required`.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
        except OSError as error:
            if required or isinstance(error, BlockingIOError):
                raise
            locked = False
        else:
            locked = True
        try:
            yield
        finally:  # closing is not enough: a process forked meanwhile shares the open file, and with it the lock
            if locked:
                fcntl.flock(file, fcntl.LOCK_UN)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")
