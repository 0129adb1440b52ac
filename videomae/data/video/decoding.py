"""Decodes the frames asked for, and no more, to uint8 RGB.

Only the groups of pictures that hold a wanted frame are decoded, and only what lies in a wanted box is converted. Of
files as `encode` writes them, frames that are neither wanted nor referred to are not decoded either.
Shapes: T frames, H height, W width, C = 3 (RGB).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import av.error
import numpy as np
import numpy.typing as npt
from av.codec.context import CodecContext
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from videomae.data.video.container import (
    DECODER_OPTIONS,
    Source,
    VideoError,
    Work,
    frames_of,
    opened,
    packets_of,
    rate_of,
    untimed,
)
from videomae.data.video.cropping import Box, Crops, Cut, FrameHWC, FramesTHWC
from videomae.data.video.stored import StoredPacket, StoredTrack, parse

AnyPacket = TypeVar("AnyPacket", Packet, StoredPacket)


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a video holds: `frames` pictures of `width` x `height` pixels at `fps` frames a second."""

    frames: int
    fps: float
    width: int
    height: int


def probe(source: Source) -> VideoInfo:
    """Count the frames and read the size and rate, without decoding.

    Raises:
        VideoError: not a video, truncated, without frames, or larger than the limits.
    """
    with opened(source) as (container, stream):
        frames = sum(not packet.is_discard for packet in packets_of(container, stream))
        if not frames:
            raise VideoError("the video holds no frames")
        return VideoInfo(frames=frames, fps=float(rate_of(stream)), width=stream.width, height=stream.height)


def decode(source: Source, indices: Sequence[int] | npt.NDArray[np.int64]) -> FramesTHWC:
    """The frames at `indices` (any order, repeats allowed) as uint8 RGB, shape (len(indices), H, W, 3).

    Raises:
        VideoError: not a video, truncated, damaged, or an index outside of it.
    """
    return decode_boxes(source, indices, None)[0]


def decode_boxes(
    source: Source, indices: Sequence[int] | npt.NDArray[np.int64], boxes: Sequence[Box] | None
) -> list[FramesTHWC]:
    """As `decode`, but only what lies in each of `boxes`: several crops from one decoding, and no more is converted.

    One array (len(indices), box.height, box.width, 3) for every box; None stands for one box of the whole picture.
    """
    wanted = [int(index) for index in indices]
    track = parse(source) if isinstance(source, bytes) else None
    found = None if track is None else _from_track(track, wanted, boxes)
    return found or _from_container(source, wanted, boxes)


def decode_demuxed(source: Source, indices: Sequence[int] | npt.NDArray[np.int64]) -> FramesTHWC:
    """As `decode`, but always through FFmpeg's demuxer, which decodes every frame between those that are wanted.

    What `decode` falls back to, and what it is measured and tested against.
    """
    return _from_container(source, [int(index) for index in indices], None)[0]


def _from_track(track: StoredTrack, wanted: list[int], boxes: Sequence[Box] | None) -> list[FramesTHWC] | None:
    """The crops of a plain file; None if anything is amiss, which the way through the demuxer then names."""
    if not wanted or min(wanted) < 0 or max(wanted) >= len(track.packets):
        return None
    whole = Box(top=0, left=0, height=track.height, width=track.width)
    crops = Crops(wanted, boxes or (whole,), whole)
    try:
        for index, frame in _select_stored(track, set(wanted)):
            crops.take(index, frame)
    except VideoError:
        raise
    except (av.error.FFmpegError, OverflowError, MemoryError, ValueError):
        return None
    return None if crops.missing else crops.frames_BTHWC


def _from_container(source: Source, wanted: list[int], boxes: Sequence[Box] | None) -> list[FramesTHWC]:
    with opened(source) as (container, stream):
        packets = list(packets_of(container, stream))
        total = sum(not packet.is_discard for packet in packets)
        if not wanted or min(wanted) < 0 or max(wanted) >= total:
            raise VideoError(f"asked for frames {wanted[:1]}..{wanted[-1:]} of a video of {total} frames")
        whole = Box(top=0, left=0, height=stream.height, width=stream.width)
        crops = Crops(wanted, boxes or (whole,), whole)
        select, work = _select_by_counting if untimed(container) else _select, Work()
        for index, frame in select(stream, packets, set(wanted), work):
            crops.take(index, frame)
        if crops.missing and select is _select:  # such as pictures refreshed bit by bit: its keyframes are none
            for index, frame in _select(stream, packets, set(crops.missing), work, seek=False):
                crops.take(index, frame)
    if crops.missing:
        raise VideoError(
            f"{len(crops.missing)} of the frames asked for could not be decoded, the first is number"
            f" {min(crops.missing)}"
        )
    return crops.frames_BTHWC


def decode_plainly(source: Source, indices: Sequence[int] | npt.NDArray[np.int64]) -> FramesTHWC:
    """As `decode`, by the simplest loop there is: everything from the start, wanted frames converted whole.

    The floor that benchmarks compare with. Raises VideoError.
    """
    wanted, last = {int(index) for index in indices}, int(max(indices))
    found: dict[int, FrameHWC] = {}
    with opened(source) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                found[number] = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
            if number == last:
                break
    return np.stack([found[int(index)] for index in indices])


def iterate(source: Source) -> Iterator[FrameHWC]:
    """Every frame in order as uint8 RGB (H, W, 3), decoded lazily; the same errors as `decode`."""
    with opened(source) as (container, stream):
        whole = Box(top=0, left=0, height=stream.height, width=stream.width)
        cut = Cut(whole, whole)
        for frame in frames_of(container, stream):
            yield cut(frame).copy()


def _select_stored(track: StoredTrack, wanted: set[int]) -> Iterator[tuple[int, VideoFrame]]:
    """As `_select`, without the frames that are neither wanted nor referred to: leaving them out changes no other."""
    decoder = CodecContext.create("h264", "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.extradata, decoder.thread_count, decoder.options = track.extradata, 1, dict(DECODER_OPTIONS)
    times = sorted(packet.pts for packet in track.packets)
    index_of, work = {times[index]: index for index in wanted}, Work()
    runs = [
        [packet for packet in run if packet.pts in index_of or not track.disposable(packet)]
        for run in _runs(track.packets, set(index_of))
    ]
    work.ahead(sum(map(len, runs)), track.width, track.height)
    for run in runs:
        for packet in [*run, None]:
            for frame in decoder.decode(packet and _packet(track, packet)):
                if frame.pts in index_of:
                    yield index_of[frame.pts], frame
            if packet is not None:
                work.done(decoder)
        decoder.flush_buffers()


def _packet(track: StoredTrack, stored: StoredPacket) -> Packet:
    packet = Packet(stored.stop - stored.start)  # of FFmpeg's making, with the room behind it that its decoders need
    packet.update(track.video[stored.start : stored.stop])
    packet.pts = stored.pts
    return packet


def _select(
    stream: VideoStream, packets: list[Packet], wanted: set[int], work: Work, *, seek: bool = True
) -> Iterator[tuple[int, VideoFrame]]:
    """Decode what `wanted` needs and nothing more; yields (index in display order, frame). Without `seek`, all."""
    shown = [packet for packet in packets if not packet.is_discard]
    times = sorted(packet.pts for packet in shown if packet.pts is not None)
    if len(times) != len(shown) or len(set(times)) != len(times):
        yield from _select_by_counting(stream, packets, wanted, work)
        return
    index_of = {time: index for index, time in enumerate(times)}
    pending = {times[index] for index in wanted}
    runs = _runs(packets, pending) if seek else [packets]
    work.ahead(sum(map(len, runs)), stream.width, stream.height)
    for run in runs:
        for packet in [*run, None]:
            for frame in stream.codec_context.decode(packet):
                if frame.pts in pending:
                    pending.discard(frame.pts)
                    yield index_of[frame.pts], frame
            if packet is not None:
                work.done(stream.codec_context)
        stream.codec_context.flush_buffers()


def _runs(packets: list[AnyPacket], pending: set[int]) -> list[list[AnyPacket]]:
    """Stretches of packets that start at a keyframe and end with a wanted frame; none overlaps another."""
    runs: list[tuple[int, int]] = []  # packets[start : stop]
    keys: list[int] = [0]
    for place, packet in enumerate(packets):
        if packet.is_keyframe and place:
            keys.append(place)
        if packet.pts not in pending:
            continue
        start = keys[-1]
        leads = packet.pts is not None and (packets[start].pts or 0) > packet.pts
        if leads and len(keys) > 1:  # shown before its keyframe: it also needs the group before
            start = keys[-2]
        while runs and start < runs[-1][1]:
            start = min(start, runs.pop()[0])
        runs.append((start, place + 1))
    return [packets[start:stop] for start, stop in runs]


def _select_by_counting(
    stream: VideoStream, packets: list[Packet], wanted: set[int], work: Work
) -> Iterator[tuple[int, VideoFrame]]:
    """For containers without usable time stamps: decode from the start and count."""
    count, last = 0, max(wanted)
    work.ahead(last + 1, stream.width, stream.height)
    for packet in [*packets, None]:
        for frame in stream.codec_context.decode(packet):
            if count in wanted:
                yield count, frame
            count += 1
            if count > last:
                return
        if packet is not None:
            work.done(stream.codec_context)
