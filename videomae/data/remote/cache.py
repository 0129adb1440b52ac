"""A node's bounded cache of remote shards: one download a node, and what is needed last goes first.

All processes of a node share a folder. A file is fetched under its lock, so that others wait for it instead of fetching
it too; its room is reserved first (`remote.budget`), and comes from what is needed last by what every rank says of its
coming batches (`remote.plans`). Indexes, about a thousandth of their shards, are kept besides.
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
from videomae.data.remote.budget import PLANS, CacheBudget, lock_of
from videomae.data.remote.fetch import RemoteFolder
from videomae.data.remote.plans import Plan


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
        self._limit = int(self._config.gigabytes * 1e9)
        self._room = CacheBudget(self._config.folder, self._limit)
        self._changed: dict[str, str] = {}  # what was not what was wanted, and how

    def open(self, name: str, *, size: int, sha256: str) -> int:
        """A descriptor of the local copy of a remote file, downloaded first if need be; the caller closes it.

        Raises:
            RemoteError: the download failed, or the file alone is larger than the cache.
            ChangedError: the file there is not the one that is wanted.
        """
        path = self.folder / name
        found = _opened(path)
        if found is not None:
            return found
        with self._alone(name, size):
            found = _opened(path)
            if found is not None:
                return found
            with self._room.reserved(path, size):  # as long as it is reserved nobody removes it
                self._download(name, size=size, sha256=sha256)
                return os.open(path, os.O_RDONLY)

    def fetch(self, name: str, *, size: int, sha256: str) -> Path:
        """The local path of a remote file, downloaded first if need be. Raises as `open`."""
        os.close(self.open(name, size=size, sha256=sha256))
        return self.folder / name

    def fetch_ahead(self, name: str, *, size: int, sha256: str) -> bool:
        """Have a file that is announced; False where room for it would have to come from what is needed sooner.

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
        """Where somebody may announce which files of this folder will be needed, and when."""
        return Plan(self._config.folder / PLANS, self.folder.name)

    def fetch_text(self, name: str, *, sha256: str) -> str:
        """The text of a small remote file such as an index, kept beside the shards. Raises as `fetch`."""
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
        """Be the only one on this node who has to do with a file that is to be downloaded. Raises as `open`."""
        if name in self._changed:  # it is not fetched again for every one of its samples
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
    """A descriptor of a file that is there, marked as used now."""
    with contextlib.suppress(FileNotFoundError):
        file = os.open(path, os.O_RDONLY)
        os.utime(file)
        return file
    return None
