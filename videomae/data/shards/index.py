"""Where each sample lies in a shard: the index of one tar, made from the tar and read back from JSON.

tarfile ends without a word when a header is cut off or damaged, so reading a tar here also checks that it ends where an
archive may end. An entry says enough to read and choose a sample (label, group, frames) without opening the tar.
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
MAX_HEADER_BYTES = 1 << 20  # of long names and pax records, which tarfile reads whole
MAX_TAIL_BYTES = 1 << 24  # tar writers pad the end of an archive to some block size


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


@dataclass(frozen=True, kw_only=True)
class SampleMeta:
    """Label and class, the source group that splits must keep whole, the stored video's shape, and where it is from.

    `sha256` is that of the source file, before it was encoded anew.
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


def _whole(least: int, most: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and least <= value <= most


# What an index may say: a shard may come from anywhere, and what it says is allocated, sampled and divided by.
_FITS: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(("key", "group", "sha256"), lambda value: isinstance(value, str)),
    "offset": _whole(0, 1 << 62),
    "size": _whole(1, MAX_MEMBER_BYTES),
    "crc32": _whole(0, (1 << 32) - 1),
    "label": _whole(-1, 1 << 31),
    "frames": _whole(1, MAX_FRAMES),
    "fps": lambda value: isinstance(value, int | float) and 0 < value < 1e6,
    "width": _whole(1, 1 << 20),
    "height": _whole(1, 1 << 20),
}


class Index:
    """The entries of one shard, in the tar's order, kept column by column."""

    def __init__(self, entries: list[Entry]) -> None:
        self._columns = {field.name: [getattr(entry, field.name) for entry in entries] for field in fields(Entry)}

    def __len__(self) -> int:
        return len(self._columns["key"])

    def __getitem__(self, place: int) -> Entry:
        return Entry(**{name: column[place] for name, column in self._columns.items()})

    @property
    def last_label(self) -> int:
        """The highest label, -1 without any."""
        return max(self._columns["label"], default=-1)

    def to_json(self) -> str:
        return json.dumps(self._columns, separators=(",", ":"), sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str) -> Index:
        """Read an index back; `source` is named in errors. Raises ShardError if it is none."""
        try:
            columns = json.loads(text)
            lengths = {len(columns[field.name]) for field in fields(Entry)}
            wrong = [name for name, fits in _FITS.items() if not all(map(fits, columns[name]))]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ShardError(f"{source}: not an index ({error}); build it again with `index`") from None
        if len(lengths) != 1 or wrong:
            fault = f"{' and '.join(wrong)} hold what cannot be" if wrong else "its columns differ in length"
            raise ShardError(f"{source}: {fault}; build it again with `index`")
        index = cls([])
        index._columns = columns
        return index


def index_tar(path: Path) -> Index:
    """Read a tar of ours from end to end and index its samples.

    Raises:
        ShardError: the tar is cut or damaged, or a sample lacks its video or its JSON.
    """
    return Index([_entry(sample, path) for sample in tar_samples(path)])


@dataclass(frozen=True, kw_only=True)
class TarSample:
    """The members of a tar that share a key: suffix (without dot, lower case) -> (offset, bytes)."""

    key: str
    parts: dict[str, tuple[int, bytes]]

    @property
    def video(self) -> tuple[int, bytes] | None:
        return next((part for suffix, part in self.parts.items() if f".{suffix}" in SUFFIXES), None)

    def text(self, suffix: str) -> str | None:
        """The text of the member with this suffix, if there is one; what is no text is replaced, never an error."""
        return self.parts[suffix][1].decode(errors="replace") if suffix in self.parts else None


def tar_samples(path: Path) -> Iterator[TarSample]:
    """The samples of a tar in its order, as webdataset groups them: neighbours with one name up to the first dot.

    Raises:
        ShardError: the tar is cut or damaged, or holds what no shard holds.
    """
    with path.open("rb") as file:
        for key, members in itertools.groupby(_members(file, path), key=lambda member: member.key):
            parts = {member.suffix: (member.offset, member.data) for member in members}
            yield TarSample(key=key, parts=parts)


@dataclass(frozen=True, kw_only=True)
class _Member:
    key: str
    suffix: str
    offset: int
    data: bytes


class BoundedInfo(tarfile.TarInfo):
    """A tar's header, which is an error if it speaks of more than a header of names and the like may hold."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> BoundedInfo:
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0 or (not info.isfile() and info.size > MAX_HEADER_BYTES):
            raise tarfile.ReadError(f"a header that speaks of {info.size} bytes")
        return info


def _members(file: BinaryIO, path: Path) -> Iterator[_Member]:
    again = "copy or build the shard again"
    try:
        with tarfile.open(fileobj=file, mode="r:", tarinfo=BoundedInfo) as archive:
            for member in archive:
                if not member.isfile():
                    continue
                if member.size > MAX_MEMBER_BYTES:
                    raise ShardError(f"{path}: member {member.name!r} of {member.size} bytes; too large to be a sample")
                file.seek(member.offset_data)
                data = file.read(member.size)
                if len(data) < member.size:
                    raise ShardError(f"{path}: cut inside {member.name!r}; {again}")
                folder, slash, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                yield _Member(key=folder + slash + stem, suffix=suffix.lower(), offset=member.offset_data, data=data)
            end = archive.offset
    except (tarfile.TarError, UnicodeError, OverflowError) as error:
        raise ShardError(f"{path}: not a readable tar ({error}); {again}") from None
    file.seek(end)
    tail = file.read(MAX_TAIL_BYTES)
    if len(tail) < 2 * tarfile.BLOCKSIZE or tail.strip(b"\0") or file.read(1):
        raise ShardError(f"{path}: damaged or cut at byte {end}; {again}")


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
        raise ShardError(f"{path}: the JSON of sample {sample.key} is wrong or lacks {error}") from None
