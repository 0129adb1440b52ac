"""Where each sample lies in a shard: the index of one tar, made from the tar and read back from JSON.

tarfile ends without a word when a header is cut off or damaged, so reading a tar here also checks that it ends where an
archive may end. An entry says enough to read and choose a sample (label, group, frames) without opening the tar.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import zlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

from videomae.shards.manifest import ShardError
from videomae.video import SUFFIXES

MAX_MEMBER_BYTES = 4 << 30
MAX_META_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One sample: the bytes of its video in the tar and what its JSON says. `label` is -1 without classes."""

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


class Index:
    """The entries of one shard, in the tar's order, kept column by column."""

    def __init__(self, entries: list[Entry]) -> None:
        self._columns = {field.name: [getattr(entry, field.name) for entry in entries] for field in fields(Entry)}

    def __len__(self) -> int:
        return len(self._columns["key"])

    def __getitem__(self, place: int) -> Entry:
        return Entry(**{name: column[place] for name, column in self._columns.items()})

    def to_json(self) -> str:
        return json.dumps(self._columns, separators=(",", ":"), sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str) -> Index:
        """Read an index back; `source` is named in errors. Raises ShardError if it is none."""
        try:
            columns = json.loads(text)
            lengths = {len(columns[field.name]) for field in fields(Entry)}
        except (ValueError, KeyError, TypeError) as error:
            raise ShardError(f"{source}: not an index ({error}); build it again with `index`") from None
        if len(lengths) != 1:
            raise ShardError(f"{source}: its columns differ in length; build it again with `index`")
        index = cls([])
        index._columns = columns
        return index


def index_tar(path: Path) -> Index:
    """Read a tar from end to end and index its samples.

    Raises:
        ShardError: the tar is cut or damaged, or a sample lacks its video or its JSON.
    """
    entries: list[Entry] = []
    parts: dict[str, dict[str, tuple[int, bytes]]] = {}
    with path.open("rb") as file:
        for name, offset, data in _members(file, path):
            key, _, suffix = name.rpartition("/")[2].partition(".")
            key = name[: len(name) - len(suffix) - 1]
            parts.setdefault(key, {})[suffix.lower()] = (offset, data)
            entry = _entry(key, parts[key], path)
            if entry:
                entries.append(entry)
                del parts[key]
    if parts:
        key, found = next(iter(parts.items()))
        raise ShardError(f"{path}: sample {key} has only {', '.join(found)}; it needs a video and a .json")
    return Index(entries)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _members(file: BinaryIO, path: Path) -> Any:
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                if member.size > MAX_MEMBER_BYTES:
                    raise ShardError(f"{path}: member {member.name!r} of {member.size} bytes; too large to be a sample")
                file.seek(member.offset_data)
                data = file.read(member.size)
                if len(data) < member.size:
                    raise ShardError(f"{path}: cut inside {member.name!r}; copy or build the shard again")
                yield member.name, member.offset_data, data
            end = archive.offset
    except tarfile.TarError as error:
        raise ShardError(f"{path}: not a readable tar ({error}); copy or build the shard again") from None
    file.seek(end)
    tail = file.read()
    if len(tail) < 2 * tarfile.BLOCKSIZE or tail.strip(b"\0"):
        raise ShardError(f"{path}: damaged or cut at byte {end}; copy or build the shard again")


def _entry(key: str, parts: dict[str, tuple[int, bytes]], path: Path) -> Entry | None:
    """The finished entry once both the video and the JSON of a key have been met."""
    video = next((part for suffix, part in parts.items() if f".{suffix}" in SUFFIXES), None)
    if video is None or "json" not in parts:
        return None
    try:
        meta = json.loads(parts["json"][1])
        return Entry(
            key=key,
            offset=video[0],
            size=len(video[1]),
            crc32=zlib.crc32(video[1]),
            label=int(meta["label"]),
            group=str(meta["group"]),
            frames=int(meta["frames"]),
            fps=float(meta["fps"]),
            width=int(meta["width"]),
            height=int(meta["height"]),
            sha256=str(meta["sha256"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{path}: the JSON of sample {key} is wrong or lacks {error}") from None


def as_dict(entry: Entry) -> dict[str, Any]:
    return asdict(entry)
