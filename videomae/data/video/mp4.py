"""Parse plain H.264 mp4 files without a demuxer, to find every packet and which of them are reference frames.

Supports files as `encode` writes them: one avc1 track, not fragmented, without a trimming edit list. Any other file is
left to FFmpeg's demuxer. Box layout: ISO/IEC 14496-12 and -15; NAL units: ITU-T H.264, 7.3.1 and 7.4.1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from videomae.data.video.container import MAX_FRAMES, MAX_PIXELS

_SLICE_TYPES = range(1, 6)  # NAL unit types of coded slices
_MAX_BOXES = 256
_SUPPORTED_IN_AVC1 = {b"avcC", b"pasp", b"btrt"}  # others, such as colr and clap, change the displayed pixels
_IDENTITY = struct.pack(">9I", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)  # a display matrix
_Ints = npt.NDArray[np.int64]


def _require(condition: object) -> None:
    """Raise ValueError for what this parser does not support, or a damaged file."""
    if not condition:
        raise ValueError("unsupported")


@dataclass(frozen=True, slots=True)
class Mp4Packet:
    """The packet of one frame: bytes [start, stop) of the file, and its presentation time in ticks."""

    start: int
    stop: int
    pts: int
    is_keyframe: bool


@dataclass(frozen=True, kw_only=True)
class Mp4Track:
    """The video track of a file, its packets in decoding order; `extradata` configures the decoder."""

    video: bytes
    extradata: bytes
    width: int
    height: int
    packets: list[Mp4Packet]

    def is_reference(self, packet: Mp4Packet) -> bool:
        """Whether other frames may depend on this one: not all of its slices have nal_ref_idc = 0."""
        prefix = (self.extradata[4] & 3) + 1
        position, slices = packet.start, 0
        while position + prefix < packet.stop:
            header = self.video[position + prefix]
            if header & 31 in _SLICE_TYPES:
                if header >> 5 & 3:
                    return True
                slices += 1
            position += prefix + int.from_bytes(self.video[position : position + prefix])
        return slices == 0


def parse_mp4(video: bytes) -> Mp4Track | None:
    """Parse a plain mp4 file; None if it is damaged or uses an unsupported feature."""
    try:
        return _parse(video)
    except (struct.error, IndexError, KeyError, ValueError):
        return None


def _parse(video: bytes) -> Mp4Track:
    top = _boxes(video, 0, len(video))
    moov = _boxes(video, *top[b"moov"])
    trak = _boxes(video, *moov[b"trak"])
    mdia = _boxes(video, *trak[b"mdia"])
    stbl = _boxes(video, *_boxes(video, *mdia[b"minf"])[b"stbl"])
    _require(b"mvex" not in moov)
    _require(video[mdia[b"hdlr"][0] + 8 : mdia[b"hdlr"][0] + 12] == b"vide")
    extradata, width, height, square = _avc1(video, stbl[b"stsd"][0])
    sizes = _sample_sizes(video, stbl[b"stsz"][0])
    pts = _presentation_times(video, stbl, len(sizes))
    starts = _sample_offsets(video, stbl, sizes)
    _require(sizes.min() >= 1 and sizes.sum() <= len(video))  # refuses packets that share bytes
    _require(starts.min() >= 0 and (starts <= len(video) - sizes).all())  # the sum of both could overflow
    _require(len(np.unique(pts)) == len(pts))
    _check_edit_list(video, moov, trak, mdia, pts)
    _check_upright(video, moov[b"mvhd"][0], offsets=(36, 48))
    _check_upright(video, trak[b"tkhd"][0], offsets=(40, 52))
    _require(square or _track_size(video, trak[b"tkhd"][0]) == (width, height))  # pixels are square
    keyframes = _keyframes(video, stbl, len(sizes))
    _require(0 in keyframes and pts[0] == pts.min())  # else frames at the start may need others that were cut off
    packets = [
        Mp4Packet(start, stop, time, number in keyframes)
        for number, (start, stop, time) in enumerate(
            zip(starts.tolist(), (starts + sizes).tolist(), pts.tolist(), strict=True)
        )
    ]
    return Mp4Track(video=video, extradata=extradata, width=width, height=height, packets=packets)


def _boxes(video: bytes, start: int, stop: int) -> dict[bytes, tuple[int, int]]:
    """Map each box type to the [start, stop) of its content; only padding and media data may repeat."""
    found: dict[bytes, tuple[int, int]] = {}
    for kind, content in _iter_boxes(video, start, stop):
        _require(kind not in found or kind in (b"free", b"skip", b"mdat"))  # no second track
        found[kind] = content
    return found


def _iter_boxes(video: bytes, start: int, stop: int) -> Iterator[tuple[bytes, tuple[int, int]]]:
    for _ in range(_MAX_BOXES):
        if start == stop:
            return
        size, kind = struct.unpack_from(">I4s", video, start)
        header = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", video, start + 8)
            header = 16
        _require(header <= size <= stop - start)
        yield kind, (start + header, start + size)
        start += size
    raise ValueError("too many boxes")


def _avc1(video: bytes, stsd: int) -> tuple[bytes, int, int, bool]:
    """The decoder configuration, width and height of the only sample description; whether it calls pixels square."""
    count, size, kind = struct.unpack_from(">4xII4s", video, stsd)
    width, height = struct.unpack_from(">HH", video, stsd + 40)
    parts = _boxes(video, stsd + 94, stsd + 8 + size)
    _require(count == 1 and kind == b"avc1" and parts.keys() <= _SUPPORTED_IN_AVC1)
    _require(0 < width * height <= MAX_PIXELS)
    extradata = video[slice(*parts[b"avcC"])]
    _require(len(extradata) >= 7 and extradata[0] == 1)
    if b"pasp" in parts:
        horizontal, vertical = struct.unpack_from(">II", video, parts[b"pasp"][0])
        _require(0 < horizontal == vertical)
    return extradata, width, height, b"pasp" in parts


def _read_ints(video: bytes, offset: int, count: int, dtype: str = ">u4") -> _Ints:
    return np.frombuffer(video, dtype, count, offset).astype(np.int64)


def _sample_sizes(video: bytes, stsz: int) -> _Ints:
    uniform, count = struct.unpack_from(">4xII", video, stsz)
    _require(0 < count <= MAX_FRAMES)
    return np.full(count, uniform) if uniform else _read_ints(video, stsz + 12, count)


def _presentation_times(video: bytes, stbl: dict[bytes, tuple[int, int]], samples: int) -> _Ints:
    """The presentation time of each sample, in the track's ticks."""
    times = np.cumsum(_read_run_lengths(video, stbl[b"stts"][0], samples))
    times = np.concatenate([[0], times[:-1]])
    if b"ctts" in stbl:
        signed = video[stbl[b"ctts"][0]] == 1
        times = times + _read_run_lengths(video, stbl[b"ctts"][0], samples, ">i4" if signed else ">u4")
    return times


def _read_run_lengths(video: bytes, offset: int, samples: int, dtype: str = ">u4") -> _Ints:
    """Expand a run-length table to one value per sample."""
    (count,) = struct.unpack_from(">4xI", video, offset)
    counts = _read_ints(video, offset + 8, 2 * count)[::2]
    _require(counts.sum() == samples)
    return np.repeat(_read_ints(video, offset + 8, 2 * count, dtype)[1::2], counts)


def _sample_offsets(video: bytes, stbl: dict[bytes, tuple[int, int]], sizes: _Ints) -> _Ints:
    """The file offset of each sample. Samples lie in contiguous chunks, whose offsets are in stco or co64."""
    table, dtype = (b"co64", ">u8") if b"co64" in stbl else (b"stco", ">u4")
    (count,) = struct.unpack_from(">4xI", video, stbl[table][0])
    chunks = _read_ints(video, stbl[table][0] + 8, count, dtype)
    (count,) = struct.unpack_from(">4xI", video, stbl[b"stsc"][0])
    first, per_chunk, description = _read_ints(video, stbl[b"stsc"][0] + 8, 3 * count).reshape(-1, 3).T
    lengths = np.diff(first, append=len(chunks) + 1)
    _require(first[0] == 1 and lengths.min() >= 1)
    _require((description == 1).all() and (per_chunk <= len(sizes)).all())
    in_chunk = np.repeat(per_chunk, lengths)
    _require(len(in_chunk) == len(chunks) and in_chunk.sum() == len(sizes) and in_chunk.min() >= 1)
    before = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    leading = np.concatenate([[0], np.cumsum(in_chunk)[:-1]])
    return before + np.repeat(chunks - before[leading], in_chunk)


def _keyframes(video: bytes, stbl: dict[bytes, tuple[int, int]], samples: int) -> set[int]:
    if b"stss" not in stbl:
        return set(range(samples))
    (count,) = struct.unpack_from(">4xI", video, stbl[b"stss"][0])
    return set((_read_ints(video, stbl[b"stss"][0] + 8, count) - 1).tolist())


def _check_upright(video: bytes, header: int, *, offsets: tuple[int, int]) -> None:
    """Raise if a header's display matrix turns or mirrors the frames; its offset depends on the header's version."""
    start = header + offsets[min(video[header], 1)]
    _require(video[start : start + len(_IDENTITY)] == _IDENTITY)


def _track_size(video: bytes, tkhd: int) -> tuple[float, float]:
    """The width and height at which a track header presents its frames."""
    width, height = struct.unpack_from(">II", video, tkhd + (88 if video[tkhd] else 76))
    return width / (1 << 16), height / (1 << 16)


def _check_edit_list(
    video: bytes,
    moov: dict[bytes, tuple[int, int]],
    trak: dict[bytes, tuple[int, int]],
    mdia: dict[bytes, tuple[int, int]],
    pts: _Ints,
) -> None:
    """Raise if an edit list trims the track at its start or end."""
    if b"edts" not in trak:
        return
    ticks = []
    for header in (moov[b"mvhd"][0], mdia[b"mdhd"][0]):
        ticks.append(struct.unpack_from(">I", video, header + (20 if video[header] else 12))[0])
    elst = _boxes(video, *trak[b"edts"])[b"elst"][0]
    (count,) = struct.unpack_from(">4xI", video, elst)
    duration, start, rate = struct.unpack_from(">QqI" if video[elst] else ">IiI", video, elst + 8)
    last = int(pts.max()) - int(pts.min())
    _require(count == 1 and rate == 1 << 16 and start == int(pts.min()))
    _require(duration * ticks[1] // ticks[0] > last)
