"""Download files from http(s), s3 and gs URLs with range requests, retries and resumption.

This is the only module that uses fsspec.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from videomae.core.config import configclass
from videomae.core.files import file_sha256
from videomae.data.errors import ChangedError, RemoteError

SCHEMES = ("http", "https", "s3", "gs")
_URL = re.compile(rf"^({'|'.join(SCHEMES)}):/+(.*)$")  # one slash if the URL went through a Path, which collapses "//"
_PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs"}
_SMALLEST_CHUNK = 4096
T = TypeVar("T")


@configclass
class RemoteConfig:
    """Chunk size, retries and timeouts of downloads."""

    chunk_bytes: int = 8 << 20  # per request, halved after each failure; downloaded bytes are kept
    attempts: int = 8  # consecutive attempts without any progress before giving up
    first_wait: float = 0.5  # seconds before the first retry; doubled for each further one
    longest_wait: float = 30.0
    timeout: float = 60.0  # seconds per chunk


def as_url(place: str | Path) -> str | None:
    """Return `place` as a normalized URL, or None if it is a local path."""
    match = _URL.match(str(place))
    return f"{match[1]}://{match[2].rstrip('/')}" if match else None


class RemoteFolder:
    """A remote folder: the files below one URL."""

    def __init__(self, url: str, config: RemoteConfig | None = None) -> None:
        self.url, self._config = url, config or RemoteConfig()
        self._scheme = url.partition("://")[0]
        self._system: tuple[int, Any] | None = None

    def read(self, name: str, *, most: int = 1 << 28) -> bytes:
        """Return the content of a small file. Raises RemoteError if the read fails or the file exceeds `most` bytes."""
        content = self._patiently(name, lambda: self._files().cat_file(self._path(name), start=0, end=most + 1))
        if len(content) > most:
            raise RemoteError(f"{self.url}/{name}: more than {most} bytes, which no manifest or index needs")
        return content

    def download(self, name: str, target: Path, *, size: int, sha256: str) -> None:
        """Download a file of known size and hash to `target`, and resume an earlier, interrupted download.

        Raises:
            RemoteError: The URL cannot be reached, or no attempt made any progress.
            ChangedError: The remote file has a different size or content.
        """
        partial = target.with_name(target.name + ".partial")
        for fresh in (False, True):
            if fresh:
                partial.unlink(missing_ok=True)
            self._fill(name, partial, size)
            if file_sha256(partial) == sha256:
                partial.replace(target)
                return
        partial.unlink(missing_ok=True)
        raise ChangedError(f"{self.url}/{name}: its SHA-256 is not the manifest's; publish the shards again")

    def _fill(self, name: str, partial: Path, size: int) -> None:
        with partial.open("ab") as file:
            if file.tell() > size:
                file.truncate(0)
            chunk = self._config.chunk_bytes

            def fetch() -> bytes:
                nonlocal chunk
                start = file.tell()
                asked, chunk = chunk, max(_SMALLEST_CHUNK, chunk // 2)  # if it fails: slow links need small chunks
                data = self._chunk(name, start, min(size, start + asked))
                chunk = asked
                return data

            while file.tell() < size:
                file.write(self._patiently(name, fetch))
                file.flush()

    def _chunk(self, name: str, start: int, end: int) -> bytes:
        data = self._files().cat_file(self._path(name), start=start, end=end)
        if len(data) != end - start:
            raise OSError(f"{len(data)} bytes came of {end - start}; it was cut, or the server ignores ranges")
        return data

    def _patiently(self, name: str, action: Callable[[], T]) -> T:
        """Call `action` until it succeeds, with exponential backoff and jitter. Raises RemoteError."""
        wait = self._config.first_wait
        for attempt in range(1, self._config.attempts + 1):
            try:
                return action()
            except (FileNotFoundError, PermissionError) as error:
                raise RemoteError(f"{self.url}/{name}: {error}; check the address and the rights") from None
            except (OSError, *_client_errors(self._scheme)) as error:
                if attempt == self._config.attempts:
                    raise RemoteError(
                        f"{self.url}/{name}: gave up after {attempt} attempts, the last: {type(error).__name__} {error}"
                    ) from None
            time.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, self._config.longest_wait)
        raise AssertionError("unreachable")

    def _files(self) -> Any:
        """Return the fsspec file system, created once per process because its event loop does not survive a fork."""
        if self._system is None or self._system[0] != os.getpid():
            package = _PACKAGES[self._scheme]
            if importlib.util.find_spec(package) is None:
                raise RemoteError(f"{self._scheme}:// needs {package}; install it with: pip install {package}")
            options: dict[str, Any] = {"skip_instance_cache": True}
            if self._scheme.startswith("http"):
                options["client_kwargs"] = {"timeout": _timeout(self._config.timeout)}
            self._system = os.getpid(), fsspec.filesystem(self._scheme, **options)
        return self._system[1]

    def _path(self, name: str) -> str:
        return f"{self.url}/{name}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_system": None}


def _timeout(seconds: float) -> Any:
    return importlib.import_module("aiohttp").ClientTimeout(total=seconds)


def _client_errors(scheme: str) -> tuple[type[Exception], ...]:
    """Return the clients' own exception types for network failures. Other exceptions are bugs and propagate."""
    line = importlib.import_module("aiohttp").ClientError  # s3fs and gcsfs propagate it too
    if scheme in ("http", "https"):
        return (line,)
    if scheme == "s3":
        return (
            line,
            importlib.import_module("botocore.exceptions").BotoCoreError,
            importlib.import_module("botocore.exceptions").ClientError,
        )
    return (
        line,
        importlib.import_module("gcsfs.retry").HttpError,
        importlib.import_module("google.auth.exceptions").GoogleAuthError,
    )
