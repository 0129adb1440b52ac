"""Index a tar shard: the offset, checksum and metadata of every sample, stored as JSON beside the tar.

tarfile stops silently at a truncated or damaged header, so reading a tar also checks that it ends with its end marker.
Entries hold what is needed to select and read a sample (label, group, frames) without scanning the tar.
"""

from __future__ import annotations

import itertools
import json
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import BinaryIO

from videomae.data.errors import ShardError
from videomae.data.video import SUFFIXES

_MAX_TAIL_BYTES = 1 << 24  # tar writers pad the end of an archive to a block size


@dataclass(frozen=True, kw_only=True)
class SampleMeta:
    """The content of KEY.json beside each video: label, source group, shape of the stored video, and provenance.

    All clips of a `group` come from one source video and belong to one split. `sha256` is that of the source file.
    """

    label: int
    class_name: str
    group: str
    frames: int
    fps: float
    width: int
    height: int
    sha256: str
    source: str

    def to_json(self) -> bytes:
        values = asdict(self)
        values["class"] = values.pop("class_name")
        return json.dumps(values, sort_keys=True).encode()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The byte range of a sample's video in the tar, and its metadata. `label` is -1 without classes."""

    key: str
    offset: int
    size: int
    crc32: int
    label: int
    group: str
    frames: int
    fps: float
    width: int
    height: int
    sha256: str

    @classmethod
    def of(cls, sample: TarSample, meta: SampleMeta) -> Entry:
        """The entry of a sample with a video. Raises ShardError if it has none."""
        if sample.video is None:
            raise ShardError(f"the sample {sample.key} has no video; build the shards again")
        offset, video = sample.video
        shared = {name: value for name, value in asdict(meta).items() if name not in ("class_name", "source")}
        return cls(key=sample.key, offset=offset, size=len(video), crc32=zlib.crc32(video), **shared)


class Index:
    """The entries of one shard in the order of the tar, stored by column."""

    def __init__(self, entries: list[Entry]) -> None:
        self._columns = {field.name: [getattr(entry, field.name) for entry in entries] for field in fields(Entry)}

    def __len__(self) -> int:
        return len(self._columns["key"])

    def __getitem__(self, position: int) -> Entry:
        return Entry(**{name: column[position] for name, column in self._columns.items()})

    @property
    def max_label(self) -> int:
        """The highest label; -1 without labels."""
        return max(self._columns["label"], default=-1)

    def to_json(self) -> str:
        return json.dumps(self._columns, separators=(",", ":"), sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str) -> Index:
        """Parse an index; errors name `source`. Raises ShardError if the text is not a valid index."""
        try:
            columns = json.loads(text)
            lengths = {len(columns[field.name]) for field in fields(Entry)}
        except (ValueError, KeyError, TypeError) as error:
            raise ShardError(f"{source}: not a valid index ({error}); index the tars again") from None
        if len(lengths) != 1:
            raise ShardError(f"{source}: its columns differ in length; index the tars again")
        index = cls([])
        index._columns = columns
        return index


@dataclass(frozen=True, kw_only=True)
class TarSample:
    """The members of a tar that share a key: lower-case suffix without dot -> (offset, content)."""

    key: str
    parts: dict[str, tuple[int, bytes]]

    @property
    def video(self) -> tuple[int, bytes] | None:
        return next((part for suffix, part in self.parts.items() if f".{suffix}" in SUFFIXES), None)

    def text(self, suffix: str) -> str | None:
        """The text of the member with this suffix, in UTF-8 or else Latin-1; None without one."""
        if suffix not in self.parts:
            return None
        content = self.parts[suffix][1]
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError:
            return content.decode("latin-1")


def tar_samples(path: Path) -> Iterator[TarSample]:
    """Yield the samples of a tar as webdataset groups them: adjacent members that share the name up to the first dot.

    Raises:
        ShardError: the tar is truncated or damaged, or two members are called alike.
    """
    with path.open("rb") as file:
        for key, members in itertools.groupby(_members(file, path), key=lambda member: member[0]):
            parts: dict[str, tuple[int, bytes]] = {}
            for _, suffix, offset, data in members:
                if suffix in parts:
                    raise ShardError(f"{path}: two members are called {key}.{suffix}; give each sample its own key")
                parts[suffix] = (offset, data)
            yield TarSample(key=key, parts=parts)


def _members(file: BinaryIO, path: Path) -> Iterator[tuple[str, str, int, bytes]]:
    """Yield the key, suffix, offset and content of each file in a tar."""
    remedy, size = "copy or build the shard again", path.stat().st_size
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                if not 0 <= member.size <= size - member.offset_data:
                    raise ShardError(f"{path}: truncated inside {member.name!r}; {remedy}")
                file.seek(member.offset_data)
                folder, slash, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                yield folder + slash + stem, suffix.lower(), member.offset_data, file.read(member.size)
            end = archive.offset
    except (tarfile.TarError, UnicodeError, OverflowError) as error:
        raise ShardError(f"{path}: not a readable tar ({error}); {remedy}") from None
    file.seek(end)
    tail = file.read(_MAX_TAIL_BYTES)
    if len(tail) < 2 * tarfile.BLOCKSIZE or tail.strip(b"\0") or file.read(1):
        raise ShardError(f"{path}: damaged or truncated at byte {end}; {remedy}")
