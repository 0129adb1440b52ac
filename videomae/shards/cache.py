"""A node's bounded cache of remote shards: one download a node, and what is needed last goes first.

All processes of a node share a folder. A file is fetched under its lock, so that others wait for it instead of fetching
it too. Every rank writes down which shards it needs next (the order is known); room is made by removing the shard whose
next use by any rank is farthest away, first of all those that nobody has announced, the longest unused first.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import field
from pathlib import Path

from videomae.config import configclass
from videomae.shards.remote import ChangedError, RemoteError, RemoteFolder

_PLANS = "plans"


def _default_folder() -> Path:
    """`VIDEOMAE_CACHE`, or else a disk of this node: a home folder is often on a network, and one for all nodes."""
    if given := os.environ.get("VIDEOMAE_CACHE"):
        return Path(given)
    disk = os.environ.get("SLURM_TMPDIR") or tempfile.gettempdir()
    return Path(disk) / f"videomae-{os.getuid()}" / "shards"


@configclass
class CacheConfig:
    """Where remote shards are kept on this node, and how many bytes of them. Set by the environment of the node."""

    folder: Path = field(default_factory=_default_folder)
    gigabytes: float = float(os.environ.get("VIDEOMAE_CACHE_GB", "200"))


class ShardCache:
    """The local copies of one remote folder's files, within the limit that all folders of the node share."""

    def __init__(self, remote: RemoteFolder, config: CacheConfig | None = None) -> None:
        self._remote, self._config = remote, config or CacheConfig()
        name = hashlib.sha256(remote.url.encode()).hexdigest()[:16]
        self.folder = self._config.folder / name

    def fetch(self, name: str, *, size: int, sha256: str) -> Path:
        """The local path of a remote file, downloaded first if need be.

        Raises:
            RemoteError: the download failed, or the file alone is larger than the cache.
            ChangedError: the file there is not the one that is wanted.
        """
        path = self.folder / name
        if self._have(path):
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        with _lock(path.with_name(name + ".lock")):
            if not self._have(path):
                self._make_room(size)
                self._remote.download(name, path, size=size, sha256=sha256)
        return path

    def fetch_text(self, name: str, *, sha256: str) -> str:
        """The text of a small remote file such as an index, kept beside the shards. Raises as `fetch`."""
        path = self.folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        with _lock(path.with_name(name + ".lock")):
            content = path.read_bytes() if path.is_file() else b""
            if hashlib.sha256(content).hexdigest() != sha256:
                content = self._remote.read(name)
                if hashlib.sha256(content).hexdigest() != sha256:
                    raise ChangedError(f"{self._remote.url}/{name} is not the one that the manifest speaks of")
                draft = path.with_name(name + ".partial")
                draft.write_bytes(content)
                draft.replace(path)
        return content.decode()

    def announce(self, names: Sequence[str]) -> None:
        """Say which files of this folder this process needs next, the soonest first; replaces what it said before."""
        plans = self._config.folder / _PLANS
        plans.mkdir(parents=True, exist_ok=True)
        plan = plans / f"{os.getpid()}-{self.folder.name}@{socket.gethostname()}.json"
        draft = plan.with_suffix(".draft")
        draft.write_text(json.dumps([f"{self.folder.name}/{name}" for name in names]))
        draft.replace(plan)

    def _have(self, path: Path) -> bool:
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def _make_room(self, size: int) -> None:
        """Remove shards until `size` more bytes fit."""
        limit = int(self._config.gigabytes * 1e9)
        if size > limit:
            raise RemoteError(
                f"a shard of {size} bytes does not fit into a cache of {limit} bytes;"
                " raise VIDEOMAE_CACHE_GB, or build smaller shards"
            )
        with _lock(self._config.folder / ".room.lock"):
            cached = list(self._config.folder.glob("*/*.tar"))
            used = sum(_size(path) for path in cached)
            if used + size <= limit:
                return
            needed = _next_uses(self._config.folder / _PLANS)
            last = len(needed) + max(needed.values(), default=0) + 1
            cached.sort(key=lambda path: (-needed.get(f"{path.parent.name}/{path.name}", last), _used(path)))
            for path in cached:
                if used + size <= limit:
                    return
                used -= _size(path)
                path.unlink(missing_ok=True)  # who has it open keeps reading it


def _next_uses(plans: Path) -> dict[str, int]:
    """How far away each announced file's next use is; those of this host's dead processes are removed."""
    needed: dict[str, int] = {}
    for plan in plans.glob("*.json"):
        process, _, host = plan.stem.partition("@")
        if host == socket.gethostname() and not Path(f"/proc/{process.partition('-')[0]}").exists():
            plan.unlink(missing_ok=True)
            continue
        with contextlib.suppress(FileNotFoundError, ValueError):
            for place, name in enumerate(json.loads(plan.read_text())):
                needed[name] = min(needed.get(name, place), place)
    return needed


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _used(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock among the processes of this node; it ends with its holder, however that dies."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:  # closing is not enough: a process forked meanwhile holds the same open file, and with it the lock
            fcntl.flock(file, fcntl.LOCK_UN)
