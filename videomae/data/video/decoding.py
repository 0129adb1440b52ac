"""Decode only the requested frames of a video to uint8 RGB.

Only the groups of pictures that hold a requested frame are decoded, and only the requested boxes are converted. In mp4
files as `encode` writes them, non-reference frames that are not requested are not decoded either.
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
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from videomae.data.video.color import with_known_matrix
from videomae.data.video.container import (
    DECODER_OPTIONS,
    DecodeBudget,
    VideoError,
    VideoSource,
    iter_packets,
    open_video,
    require_same_shape,
)
from videomae.data.video.cropping import CropCollector, FrameHWC, FramesTHWC, RgbCropper
from videomae.data.video.display import Display
from videomae.data.video.mp4 import Mp4Packet, Mp4Track, parse_mp4
from videomae.data.video.numbering import NumberedVideo, decode_tolerantly, number_frames, open_numbered, renumbered
from videomae.data.video.orientation import Box

AnyPacket = TypeVar("AnyPacket", Packet, Mp4Packet)
FrameIndices = Sequence[int] | npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """A video's number of frames, frames per second, and frame size in pixels.

    `remarks` says what a viewer of the frames should know, such as concealed damage.
    """

    frames: int
    fps: float
    width: int
    height: int
    remarks: tuple[str, ...] = ()
    constant: bool = True  # whether no frame is held longer than others


def probe(source: VideoSource, *, decode: bool = False) -> VideoInfo:
    """Count the frames and read the size, as shown, and the frame rate: the mean rate if it varies.

    Counts the packets from the first frame that can be decoded. With `decode`, all frames are decoded, and the count
    ends where the video is cut off.

    Raises:
        VideoError: not a video, truncated, without frames, beyond the limits, or, with `decode`, damaged.
    """
    with open_numbered(source) as video:
        width, height = video.display.size
        count = _count(video) if decode else video.expected
        times = video.timeline
        return VideoInfo(
            frames=count,
            fps=float(times.mean_rate),
            width=width,
            height=height,
            remarks=video.flaws.remarks(),
            constant=times.mean_rate == times.rate,
        )


def _count(video: NumberedVideo) -> int:
    """Decode and count the frames. Raises VideoError if one is missing in between, or cannot be converted."""
    last = video.first - 1
    for number, frame in video.frames:
        if number != last + 1:
            raise VideoError(f"frame {last + 1 - video.first} cannot be decoded, but later ones can: it is damaged")
        require_same_shape(frame.width, frame.height, *video.display.stored)
        with_known_matrix(frame)
        last = number
    return last + 1 - video.first


def decode(source: VideoSource, indices: FrameIndices) -> FramesTHWC:
    """Decode the frames at `indices` (any order, repeats allowed) to uint8 RGB, shape (len(indices), H, W, 3).

    Raises:
        VideoError: not a video, truncated, damaged, or an index out of range.
    """
    return decode_boxes(source, indices, None)[0]


def decode_boxes(source: VideoSource, indices: FrameIndices, boxes: Sequence[Box] | None) -> list[FramesTHWC]:
    """Decode once and convert only `boxes`: one array (len(indices), box.height, box.width, 3) per box.

    `boxes` None means one box, the full frame. Raises as `decode`.
    """
    track = parse_mp4(source) if isinstance(source, bytes) else None
    frames_BTHWC = None if track is None else _decode_mp4(track, [int(index) for index in indices], boxes)
    return frames_BTHWC or decode_with_demuxer(source, indices, boxes)


def decode_with_demuxer(
    source: VideoSource, indices: FrameIndices, boxes: Sequence[Box] | None = None
) -> list[FramesTHWC]:
    """Decode through FFmpeg's demuxer, which handles any container but decodes non-reference frames too.

    `decode_boxes` falls back to it. Raises as `decode`.
    """
    wanted = [int(index) for index in indices]
    with open_video(source) as (container, stream):
        numbered = _number_packets(container, stream)
        if not wanted or min(wanted) < 0 or max(wanted) >= numbered.frames:
            raise VideoError(f"got frame numbers {wanted[:1]}..{wanted[-1:]} of a video of {numbered.frames} frames")
        budget, opened = DecodeBudget(), (stream.width, stream.height)
        crops: CropCollector | None = None
        select = _select_by_number if numbered.timed else _select_by_count
        for index, frame in select(stream, numbered.packets, set(wanted), budget):
            if crops is None and (frame.width, frame.height) != opened:  # the first frame tells the size
                break
            crops = crops or CropCollector(wanted, boxes, Display.of(stream, frame))
            crops.add(index, frame)
    if crops is None or crops.missing:  # streams with intra-refresh mark keyframes that cannot be decoded alone
        budget.check(numbered.frames, stream.width, stream.height)
        crops = _decode_from_start(source, wanted, boxes)
    if crops.missing:
        raise VideoError(
            f"{len(crops.missing)} requested frames could not be decoded, the first is number {min(crops.missing)}"
        )
    return crops.frames_BTHWC


def _decode_from_start(source: VideoSource, wanted: list[int], boxes: Sequence[Box] | None) -> CropCollector:
    with open_numbered(source) as video:
        crops = CropCollector(wanted, boxes, video.display)
        for number, frame in video.frames:
            if number - video.first in crops.missing:
                crops.add(number - video.first, frame)
            if not crops.missing:
                break
    return crops


def iter_frames(source: VideoSource) -> Iterator[FrameHWC]:
    """Decode every frame in order to uint8 RGB (H, W, 3), lazily. Raises as `decode`."""
    with open_numbered(source) as video:
        display = video.display
        to_rgb = RgbCropper(Box(top=0, left=0, height=display.height, width=display.width), display)
        for _, frame in video.frames:
            yield display.orientation.show(to_rgb(frame)).copy()


def _decode_mp4(track: Mp4Track, wanted: list[int], boxes: Sequence[Box] | None) -> list[FramesTHWC] | None:
    """Decode the crops without a demuxer; None on any fault, which the demuxer then reports."""
    if not wanted or min(wanted) < 0 or max(wanted) >= len(track.packets):
        return None
    decoder = CodecContext.create("h264", "r")
    assert isinstance(decoder, VideoCodecContext)
    display = Display.plain(track.width, track.height)
    crops = CropCollector(wanted, boxes, display)
    try:
        for count, (index, frame) in enumerate(_select_from_mp4(track, set(wanted), decoder)):
            if count == 0 and not display.is_plain_of(frame, decoder):
                return None  # the stream itself says otherwise
            crops.add(index, frame)
    except VideoError:
        raise
    except (av.error.FFmpegError, OverflowError, MemoryError, ValueError):
        return None
    return None if crops.missing else crops.frames_BTHWC


def _select_from_mp4(track: Mp4Track, wanted: set[int], decoder: VideoCodecContext) -> Iterator[tuple[int, VideoFrame]]:
    """Like `_select_by_number`, but drops non-reference frames that are not wanted: no other frame depends on them."""
    decoder.extradata, decoder.thread_count, decoder.options = track.extradata, 1, dict(DECODER_OPTIONS)
    times = sorted(packet.pts for packet in track.packets)
    index_of, budget = {times[index]: index for index in wanted}, DecodeBudget()
    runs = [
        [packet for packet in run if packet.pts in index_of or track.is_reference(packet)]
        for run in _packet_runs(track.packets, set(index_of))
    ]
    budget.check(sum(map(len, runs)), track.width, track.height)
    for run in runs:
        for packet in [*run, None]:
            for frame in decoder.decode(packet and _av_packet(track, packet)):
                if frame.pts in index_of:
                    yield index_of[frame.pts], frame
            if packet is not None:
                budget.charge(decoder)
        decoder.flush_buffers()


def _av_packet(track: Mp4Track, stored: Mp4Packet) -> Packet:
    packet = Packet(stored.stop - stored.start)  # allocated by FFmpeg, with the padding that its decoders need
    packet.update(track.video[stored.start : stored.stop])
    packet.pts = stored.pts
    return packet


@dataclass(frozen=True, kw_only=True)
class _Numbered:
    """Packets from the first keyframe on, whose `pts` are the numbers of their frames if `timed`; and the frames."""

    packets: list[Packet]
    timed: bool
    frames: int


def _number_packets(container: InputContainer, stream: VideoStream) -> _Numbered:
    packets = list(iter_packets(container, stream))
    numbering = number_frames(container, stream, packets)
    packets, frames = list(renumbered(packets, numbering)), numbering.frames
    if not numbering.begins_plainly:  # some frames may need what came before, which only the decoder can tell
        first = next((frame.pts for frame in decode_tolerantly(stream.codec_context, packets)), None)
        stream.codec_context.flush_buffers()
        frames -= first or 0
        for packet in packets:
            packet.pts = None if packet.pts is None or packet.pts < (first or 0) else packet.pts - (first or 0)
    return _Numbered(packets=packets, timed=numbering.by_packet is not None, frames=frames)


def _select_by_number(
    stream: VideoStream, packets: list[Packet], pending: set[int], budget: DecodeBudget
) -> Iterator[tuple[int, VideoFrame]]:
    """Decode from keyframes to the pending frames; yield each with its number."""
    runs = _packet_runs(packets, pending)
    budget.check(sum(map(len, runs)), stream.width, stream.height)
    for run in runs:
        for packet in [*run, None]:
            for frame in stream.codec_context.decode(packet):
                if frame.pts in pending:
                    yield frame.pts, frame
            if packet is not None:
                budget.charge(stream.codec_context)
        stream.codec_context.flush_buffers()


def _packet_runs(packets: list[AnyPacket], pending: set[int]) -> list[list[AnyPacket]]:
    """Disjoint runs of packets, each from a keyframe to a wanted frame; `pending` holds the wanted times."""
    runs: list[tuple[int, int]] = []  # packets[start : stop]
    keyframes: list[int] = [0]
    for position, packet in enumerate(packets):
        if packet.is_keyframe and position:
            keyframes.append(position)
        if packet.pts not in pending:
            continue
        start = keyframes[-1]
        leading = packet.pts is not None and (packets[start].pts or 0) > packet.pts
        if leading and len(keyframes) > 1:  # displayed before its keyframe, so it needs the previous group too
            start = keyframes[-2]
        while runs and start < runs[-1][1]:
            start = min(start, runs.pop()[0])
        runs.append((start, position + 1))
    return [packets[start:stop] for start, stop in runs]


def _select_by_count(
    stream: VideoStream, packets: list[Packet], wanted: set[int], budget: DecodeBudget
) -> Iterator[tuple[int, VideoFrame]]:
    """Decode from the start and count, for containers without usable timestamps."""
    count, last = 0, max(wanted)
    budget.check(last + 1, stream.width, stream.height)
    for packet in [*packets, None]:
        for frame in stream.codec_context.decode(packet):
            if count in wanted:
                yield count, frame
            count += 1
            if count > last:
                return
        if packet is not None:
            budget.charge(stream.codec_context)
