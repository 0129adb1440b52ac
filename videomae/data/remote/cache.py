"""A size-limited cache of remote shards, shared by all processes of a node.

Each file is downloaded once per node: a process downloads it under the lock of the file, and other processes wait for
it. A download first reserves its disk space (`remote.budget`). Space is freed by evicting the files whose next use is
farthest away according to the plans of all ranks. Indexes, about a thousandth of the size of their
shards, are cached without counting towards the limit.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path

from videomae.core.config import configclass
from videomae.core.files import file_lock, write_atomic
from videomae.data.errors import ChangedError, RemoteError
from videomae.data.remote.budget import PLANS, CacheBudget, Plan, lock_of
from videomae.data.remote.fetch import RemoteFolder


def _default_folder() -> Path:
    """Return `VIDEOMAE_CACHE`, or a folder on a local disk: home folders are often on a network shared by all nodes."""
    if given := os.environ.get("VIDEOMAE_CACHE"):
        return Path(given)
    disk = os.environ.get("SLURM_TMPDIR") or tempfile.gettempdir()
    return Path(disk) / f"videomae-{os.getuid()}" / "shards"


@configclass
class CacheConfig:
    """The folder and size limit of the shard cache on this node. The environment variables of the node set both."""

    folder: Path = field(default_factory=_default_folder)
    gigabytes: float = float(os.environ.get("VIDEOMAE_CACHE_GB", "200"))


class ShardCache:
    """Local copies of the files of one remote folder. All remote folders on a node share one size limit."""

    def __init__(self, remote: RemoteFolder, config: CacheConfig | None = None) -> None:
        self._remote, self._config = remote, config or CacheConfig()
        name = hashlib.sha256(remote.url.encode()).hexdigest()[:16]
        self.folder = self._config.folder / name
        self._limit = int(self._config.gigabytes * 1e9)
        self._room = CacheBudget(self._config.folder, self._limit)
        self._changed: dict[str, str] = {}  # file name -> error message, for files with unexpected content

    def open(self, name: str, *, size: int, sha256: str) -> int:
        """Return a file descriptor of the local copy of a remote file, which is downloaded if it is not cached.

        The caller closes the descriptor.

        Raises:
            RemoteError: The download failed, or the file alone is larger than the cache.
            ChangedError: The remote file does not match `sha256`.
        """
        path = self.folder / name
        if (found := _opened(path)) is not None:
            return found
        with self._alone(name, size):
            if (found := _opened(path)) is not None:
                return found
            with self._room.reserved(path, size):  # no process evicts the file while it is reserved
                self._download(name, size=size, sha256=sha256)
                return os.open(path, os.O_RDONLY)

    def fetch(self, name: str, *, size: int, sha256: str) -> Path:
        """Return the local path of a remote file, which is downloaded if it is not cached. Raises as `open`."""
        os.close(self.open(name, size=size, sha256=sha256))
        return self.folder / name

    def fetch_ahead(self, name: str, *, size: int, sha256: str) -> bool:
        """Prefetch a file. Return False, without a download, if that would evict files that are needed sooner.

        Raises as `open`.
        """
        path = self.folder / name
        if path.exists():
            return True
        with self._alone(name, size):
            if path.exists():
                return True
            with self._room.reserved(path, size, ahead=True) as granted:
                if granted:
                    self._download(name, size=size, sha256=sha256)
                return granted

    def plan(self) -> Plan:
        """Return a new plan, in which a process announces when it needs which files of this folder."""
        return Plan(self._config.folder / PLANS, self.folder.name)

    def fetch_text(self, name: str, *, sha256: str) -> str:
        """Return the text of a small remote file such as an index, cached beside the shards. Raises as `fetch`."""
        path = self.folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(lock_of(path)):
            content = path.read_bytes() if path.is_file() else b""
            if hashlib.sha256(content).hexdigest() != sha256:
                content = self._remote.read(name)
                if hashlib.sha256(content).hexdigest() != sha256:
                    raise ChangedError(f"{self._remote.url}/{name} is not the one that the manifest speaks of")
                write_atomic(path, content)
        return content.decode(errors="replace")

    @contextlib.contextmanager
    def _alone(self, name: str, size: int) -> Iterator[None]:
        """Hold the node-wide lock for the download of a file. Raises as `open`."""
        if name in self._changed:  # do not download it again for each of its samples
            raise ChangedError(self._changed[name])
        if size > self._limit:
            raise RemoteError(
                f"a shard of {size} bytes does not fit into a cache of {self._limit} bytes;"
                " raise VIDEOMAE_CACHE_GB, or build smaller shards"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(lock_of(self.folder / name)):
            yield

    def _download(self, name: str, *, size: int, sha256: str) -> None:
        try:
            self._remote.download(name, self.folder / name, size=size, sha256=sha256)
        except ChangedError as error:
            self._changed[name] = str(error)
            raise


def _opened(path: Path) -> int | None:
    """Return a descriptor of the file and update its time of use, or None if the file does not exist."""
    with contextlib.suppress(FileNotFoundError):
        file = os.open(path, os.O_RDONLY)
        os.utime(file)
        return file
    return None
