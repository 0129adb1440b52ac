"""Index a tar shard: the offset, checksum and metadata of every sample, stored as JSON beside the tar.

tarfile stops silently at a truncated or damaged header, so indexing also checks that the archive ends with its end
marker. Entries hold what is needed to select and read a sample (label, group, frames) without scanning the tar.
"""

from __future__ import annotations

import itertools
import json
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import BinaryIO

from videomae.data.errors import ShardError
from videomae.data.video import MAX_FRAMES, SUFFIXES

MAX_MEMBER_BYTES = 1 << 30
MAX_HEADER_BYTES = 1 << 20  # of long names and pax records, which tarfile reads into memory
MAX_TAIL_BYTES = 1 << 24  # tar writers pad the end of an archive to a block size


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


def _int_within(least: int, most: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and least <= value <= most


# Valid values of each column. An index may come from anywhere, and its values size allocations and divide.
_VALIDATORS: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(("key", "group", "sha256"), lambda value: isinstance(value, str)),
    "offset": _int_within(0, 1 << 62),
    "size": _int_within(1, MAX_MEMBER_BYTES),
    "crc32": _int_within(0, (1 << 32) - 1),
    "label": _int_within(-1, 1 << 31),
    "frames": _int_within(1, MAX_FRAMES),
    "fps": lambda value: isinstance(value, int | float) and 0 < value < 1e6,
    "width": _int_within(1, 1 << 20),
    "height": _int_within(1, 1 << 20),
}


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
            wrong = [name for name, valid in _VALIDATORS.items() if not all(map(valid, columns[name]))]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ShardError(f"{source}: not a valid index ({error}); index the tars again") from None
        if len(lengths) != 1 or wrong:
            fault = f"invalid values of {' and '.join(wrong)}" if wrong else "its columns differ in length"
            raise ShardError(f"{source}: {fault}; index the tars again")
        index = cls([])
        index._columns = columns
        return index


def index_tar(path: Path) -> Index:
    """Index a tar that `ShardWriter` wrote, reading all of it.

    Raises:
        ShardError: the tar is truncated or damaged, or a sample lacks its video or its JSON.
    """
    return Index([_entry(sample, path) for sample in tar_samples(path)])


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
        ShardError: the tar is truncated or damaged, a member or header is too large, or two members are called alike.
    """
    with path.open("rb") as file:
        for key, members in itertools.groupby(_members(file, path), key=lambda member: member.key):
            parts: dict[str, tuple[int, bytes]] = {}
            for member in members:
                if member.suffix in parts:
                    raise ShardError(
                        f"{path}: two members are called {key}.{member.suffix}; give each sample its own key"
                    )
                parts[member.suffix] = (member.offset, member.data)
            yield TarSample(key=key, parts=parts)


@dataclass(frozen=True, kw_only=True)
class _Member:
    key: str
    suffix: str
    offset: int
    data: bytes


class BoundedInfo(tarfile.TarInfo):
    """A tar header that raises tarfile.ReadError if it declares a negative size or an oversized extended header."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> BoundedInfo:
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0 or (not info.isfile() and info.size > MAX_HEADER_BYTES):
            raise tarfile.ReadError(f"a header declares {info.size} bytes")
        return info


def _members(file: BinaryIO, path: Path) -> Iterator[_Member]:
    remedy = "copy or build the shard again"
    try:
        with tarfile.open(fileobj=file, mode="r:", tarinfo=BoundedInfo) as archive:
            for member in archive:
                if not member.isfile():
                    continue
                if member.size > MAX_MEMBER_BYTES:
                    raise ShardError(
                        f"{path}: member {member.name!r} has {member.size} bytes; at most {MAX_MEMBER_BYTES} are read"
                    )
                file.seek(member.offset_data)
                data = file.read(member.size)
                if len(data) < member.size:
                    raise ShardError(f"{path}: truncated inside {member.name!r}; {remedy}")
                folder, slash, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                yield _Member(key=folder + slash + stem, suffix=suffix.lower(), offset=member.offset_data, data=data)
            end = archive.offset
    except (tarfile.TarError, UnicodeError, OverflowError) as error:
        raise ShardError(f"{path}: not a readable tar ({error}); {remedy}") from None
    file.seek(end)
    tail = file.read(MAX_TAIL_BYTES)
    if len(tail) < 2 * tarfile.BLOCKSIZE or tail.strip(b"\0") or file.read(1):
        raise ShardError(f"{path}: damaged or truncated at byte {end}; {remedy}")


def _entry(sample: TarSample, path: Path) -> Entry:
    if sample.video is None or "json" not in sample.parts:
        raise ShardError(
            f"{path}: sample {sample.key} has only {', '.join(sample.parts)}; it needs a video and a .json"
        )
    offset, video = sample.video
    try:
        meta = json.loads(sample.parts["json"][1])
        return Entry(
            key=sample.key,
            offset=offset,
            size=len(video),
            crc32=zlib.crc32(video),
            label=int(meta["label"]),
            group=str(meta["group"]),
            frames=int(meta["frames"]),
            fps=float(meta["fps"]),
            width=int(meta["width"]),
            height=int(meta["height"]),
            sha256=str(meta["sha256"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ShardError(f"{path}: the JSON of sample {sample.key} is invalid or lacks {error}") from None
