"""Finds the packets of an H.264 stream in mp4 bytes without a demuxer, and tells which of them nothing else needs.

For the plain files that `encode` writes, and others like them: one avc1 track, not fragmented, shown from its first
frame to its last. Whatever is unusual is left to FFmpeg's demuxer. Boxes: ISO/IEC 14496-12 and -15; NAL units: ITU-T
H.264, 7.3.1 and 7.4.1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from videomae.data.video.container import MAX_FRAMES, MAX_PIXELS

_SLICES = range(1, 6)  # NAL unit types that carry a picture
_MOST_BOXES = 256
_KNOWN_IN_AVC1 = {b"avcC", b"pasp", b"btrt"}  # colr, clap and the like change what is shown
_Ints = npt.NDArray[np.int64]


class _UnusualError(Exception):
    """Not a file that is read here."""


@dataclass(frozen=True, slots=True)
class StoredPacket:
    """A frame's packet: bytes [start, stop) of the file; `pts` orders the frames for showing."""

    start: int
    stop: int
    pts: int
    is_keyframe: bool


@dataclass(frozen=True, kw_only=True)
class StoredTrack:
    """The one video track of a file, its packets in decoding order. `extradata` is for the decoder."""

    video: bytes
    extradata: bytes
    width: int
    height: int
    packets: list[StoredPacket]

    def disposable(self, packet: StoredPacket) -> bool:
        """Whether no other picture refers to this one: all its slices say nal_ref_idc = 0."""
        prefix = (self.extradata[4] & 3) + 1
        place, slices = packet.start, 0
        while place + prefix < packet.stop:
            header = self.video[place + prefix]
            if header & 31 in _SLICES:
                if header >> 5 & 3:
                    return False
                slices += 1
            place += prefix + int.from_bytes(self.video[place : place + prefix])
        return slices > 0


def parse(video: bytes) -> StoredTrack | None:
    """The track of a plain mp4 file; None for any other, or a damaged one."""
    try:
        return _parse(video)
    except (_UnusualError, struct.error, IndexError, KeyError, ValueError):
        return None


def _parse(video: bytes) -> StoredTrack:
    top = _boxes(video, 0, len(video))
    moov = _boxes(video, *top[b"moov"])
    trak = _boxes(video, *moov[b"trak"])
    mdia = _boxes(video, *trak[b"mdia"])
    stbl = _boxes(video, *_boxes(video, *mdia[b"minf"])[b"stbl"])
    if b"mvex" in moov or video[mdia[b"hdlr"][0] + 8 : mdia[b"hdlr"][0] + 12] != b"vide":
        raise _UnusualError
    extradata, width, height = _avc1(video, stbl[b"stsd"][0])
    sizes = _sizes(video, stbl[b"stsz"][0])
    shown = _shown(video, stbl, len(sizes))
    starts = _starts(video, stbl, sizes)
    if sizes.min() < 1 or sizes.sum() > len(video):  # many packets may not share the same bytes either
        raise _UnusualError
    if starts.min() < 0 or (starts > len(video) - sizes).any():  # a sum of both could wrap around
        raise _UnusualError
    if len(np.unique(shown)) != len(shown):
        raise _UnusualError
    _require_all_shown(video, moov, trak, mdia, shown)
    keys = _keyframes(video, stbl, len(sizes))
    packets = [
        StoredPacket(start, stop, pts, number in keys)
        for number, (start, stop, pts) in enumerate(
            zip(starts.tolist(), (starts + sizes).tolist(), shown.tolist(), strict=True)
        )
    ]
    return StoredTrack(video=video, extradata=extradata, width=width, height=height, packets=packets)


def _boxes(video: bytes, start: int, stop: int) -> dict[bytes, tuple[int, int]]:
    """Type -> [start, stop) of the content of each box; free space and the like may come more than once."""
    found: dict[bytes, tuple[int, int]] = {}
    for kind, inside in _walk(video, start, stop):
        if kind in found and kind not in (b"free", b"skip", b"mdat"):
            raise _UnusualError  # such as a second track
        found[kind] = inside
    return found


def _walk(video: bytes, start: int, stop: int) -> Iterator[tuple[bytes, tuple[int, int]]]:
    for _ in range(_MOST_BOXES):
        if start == stop:
            return
        size, kind = struct.unpack_from(">I4s", video, start)
        header = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", video, start + 8)
            header = 16
        if size < header or start + size > stop:
            raise _UnusualError
        yield kind, (start + header, start + size)
        start += size
    raise _UnusualError


def _avc1(video: bytes, stsd: int) -> tuple[bytes, int, int]:
    """Decoder configuration, width and height from the one sample description."""
    count, size, kind = struct.unpack_from(">4xII4s", video, stsd)
    width, height = struct.unpack_from(">HH", video, stsd + 40)
    parts = _boxes(video, stsd + 94, stsd + 8 + size)
    if count != 1 or kind != b"avc1" or not parts.keys() <= _KNOWN_IN_AVC1 or not 0 < width * height <= MAX_PIXELS:
        raise _UnusualError
    extradata = video[slice(*parts[b"avcC"])]
    if len(extradata) < 7 or extradata[0] != 1:
        raise _UnusualError
    return extradata, width, height


def _numbers(video: bytes, place: int, count: int, kind: str = ">u4") -> _Ints:
    return np.frombuffer(video, kind, count, place).astype(np.int64)


def _sizes(video: bytes, stsz: int) -> _Ints:
    same, count = struct.unpack_from(">4xII", video, stsz)
    if not 0 < count <= MAX_FRAMES:
        raise _UnusualError
    return np.full(count, same) if same else _numbers(video, stsz + 12, count)


def _shown(video: bytes, stbl: dict[bytes, tuple[int, int]], samples: int) -> _Ints:
    """When each sample is shown, in the track's ticks."""
    times = np.cumsum(_runs_of(video, stbl[b"stts"][0], samples))
    times = np.concatenate([[0], times[:-1]])
    if b"ctts" in stbl:
        signed = video[stbl[b"ctts"][0]] == 1
        times = times + _runs_of(video, stbl[b"ctts"][0], samples, ">i4" if signed else ">u4")
    return times


def _runs_of(video: bytes, place: int, samples: int, kind: str = ">u4") -> _Ints:
    """The values of a run-length table, one for every sample."""
    (count,) = struct.unpack_from(">4xI", video, place)
    counts = _numbers(video, place + 8, 2 * count)[::2]
    if counts.sum() != samples:
        raise _UnusualError
    return np.repeat(_numbers(video, place + 8, 2 * count, kind)[1::2], counts)


def _starts(video: bytes, stbl: dict[bytes, tuple[int, int]], sizes: _Ints) -> _Ints:
    """Where each sample begins: chunks of neighbouring samples, their starts in stco or co64."""
    offsets, kind = (b"co64", ">u8") if b"co64" in stbl else (b"stco", ">u4")
    (count,) = struct.unpack_from(">4xI", video, stbl[offsets][0])
    chunks = _numbers(video, stbl[offsets][0] + 8, count, kind)
    (count,) = struct.unpack_from(">4xI", video, stbl[b"stsc"][0])
    first, each, description = _numbers(video, stbl[b"stsc"][0] + 8, 3 * count).reshape(-1, 3).T
    lengths = np.diff(first, append=len(chunks) + 1)
    if first[0] != 1 or lengths.min() < 1 or (description != 1).any() or (each > len(sizes)).any():
        raise _UnusualError
    in_chunk = np.repeat(each, lengths)
    if len(in_chunk) != len(chunks) or in_chunk.sum() != len(sizes) or (in_chunk < 1).any():
        raise _UnusualError
    before = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    leading = np.concatenate([[0], np.cumsum(in_chunk)[:-1]])
    return before + np.repeat(chunks - before[leading], in_chunk)


def _keyframes(video: bytes, stbl: dict[bytes, tuple[int, int]], samples: int) -> set[int]:
    if b"stss" not in stbl:
        return set(range(samples))
    (count,) = struct.unpack_from(">4xI", video, stbl[b"stss"][0])
    return set((_numbers(video, stbl[b"stss"][0] + 8, count) - 1).tolist())


def _require_all_shown(
    video: bytes,
    moov: dict[bytes, tuple[int, int]],
    trak: dict[bytes, tuple[int, int]],
    mdia: dict[bytes, tuple[int, int]],
    shown: _Ints,
) -> None:
    """Raise unless an edit list, if there is one, starts at the first frame and ends after the last."""
    if b"edts" not in trak:
        return
    ticks = []
    for header in (moov[b"mvhd"][0], mdia[b"mdhd"][0]):
        ticks.append(struct.unpack_from(">I", video, header + (20 if video[header] else 12))[0])
    elst = _boxes(video, *trak[b"edts"])[b"elst"][0]
    (count,) = struct.unpack_from(">4xI", video, elst)
    duration, start, rate = struct.unpack_from(">QqI" if video[elst] else ">IiI", video, elst + 8)
    last = int(shown.max()) - int(shown.min())
    if count != 1 or rate != 1 << 16 or start != int(shown.min()) or duration * ticks[1] // ticks[0] <= last:
        raise _UnusualError
