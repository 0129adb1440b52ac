"""Video bytes to uint8 frames and back: probing, decoding, encoding. The only module that imports the decoder (PyAV).

Only the frames asked for are converted to RGB, and only the groups of pictures that hold them are decoded. Encoding is
deterministic: the same frames and settings give the same bytes. Shapes: T frames, H height, W width, C = 3 (RGB).
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import av.container
import av.error
import av.packet
import av.video.frame
import av.video.stream
import numpy as np
import numpy.typing as npt

from videomae.config import configclass

SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv")
MAX_PIXELS = 8192 * 4608
MAX_FRAMES = 1_000_000
# Playlists and other formats that make FFmpeg open further files or addresses are not in the list.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,flv,asf,ogg"

Source = bytes | Path
FrameHWC = npt.NDArray[np.uint8]
FramesTHWC = npt.NDArray[np.uint8]


class VideoError(ValueError):
    """A video that cannot be used; the message says why."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a video holds: `frames` pictures of `width` x `height` pixels at `fps` frames a second."""

    frames: int
    fps: float
    width: int
    height: int


@configclass
class EncodingConfig:
    """How a video is stored. The defaults are made to decode fast: short groups of pictures, no B-frames, no CABAC."""

    short_side: int | None = 256  # pixels; None keeps the source's size; never enlarged
    fps: float | None = None  # None keeps the source's rate; never raised
    gop: int = 16  # frames from one keyframe to the next
    crf: int = 23  # x264's constant rate factor: lower is better and larger
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower"] = "veryfast"
    fast_decode: bool = True  # x264's tune=fastdecode: larger by about a third, decoded in about two thirds of the time

    def __post_init__(self) -> None:
        if self.short_side is not None and self.short_side < 16:
            raise ValueError(f"short_side must be at least 16 pixels, got {self.short_side}")
        if self.fps is not None and not (0 < self.fps <= 1000):
            raise ValueError(f"fps must be between 0 and 1000, got {self.fps}")
        if self.gop < 1 or not 0 <= self.crf <= 51:
            raise ValueError(f"gop must be at least 1 and crf from 0 to 51, got gop={self.gop} crf={self.crf}")


def probe(source: Source) -> VideoInfo:
    """Count the frames and read the size and rate, without decoding.

    Raises:
        VideoError: not a video, truncated, without frames, or larger than the limits.
    """
    with _opened(source) as (container, stream):
        frames = sum(not packet.is_discard for packet in _packets(container, stream))
        if not frames:
            raise VideoError("the video holds no frames")
        return VideoInfo(frames=frames, fps=float(_rate(stream)), width=stream.width, height=stream.height)


def decode(source: Source, indices: Sequence[int] | npt.NDArray[np.int64]) -> FramesTHWC:
    """The frames at `indices` (any order, repeats allowed) as uint8 RGB, shape (len(indices), H, W, 3).

    Raises:
        VideoError: not a video, truncated, damaged, or an index outside of it.
    """
    wanted = [int(index) for index in indices]
    with _opened(source) as (container, stream):
        packets = list(_packets(container, stream))
        total = sum(not packet.is_discard for packet in packets)
        if not wanted or min(wanted) < 0 or max(wanted) >= total:
            raise VideoError(f"asked for frames {wanted[:1]}..{wanted[-1:]} of a video of {total} frames")
        size = (stream.width, stream.height)
        select = _select_by_counting if _untimed(container) else _select
        found = {index: _rgb(frame, size) for index, frame in select(stream, packets, set(wanted))}
    missing = sorted(set(wanted) - found.keys())
    if missing:
        raise VideoError(
            f"{len(missing)} of the frames asked for could not be decoded, the first is number {missing[0]}"
        )
    return np.stack([found[index] for index in wanted])


def iterate(source: Source) -> Iterator[FrameHWC]:
    """Every frame in order as uint8 RGB (H, W, 3), decoded lazily; the same errors as `decode`."""
    with _opened(source) as (container, stream):
        size = (stream.width, stream.height)
        for frame in _frames(container, stream):
            yield _rgb(frame, size)


def encode(frames: Iterable[FrameHWC], fps: float, config: EncodingConfig) -> bytes:
    """Encode uint8 RGB frames (H, W, 3) to an mp4 (H.264, yuv420p, even sizes) of `fps` frames a second.

    `config.fps` is not applied here: the frames are taken as they come. Raises VideoError if there are none.
    """
    pictures = (av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24") for frame in frames)
    return _mux(pictures, Fraction(fps).limit_denominator(1001), config)


def transcode(source: Source, config: EncodingConfig) -> bytes:
    """Re-encode a video at the config's size and rate. Same source and config, same bytes. Errors as `decode`."""
    with _opened(source) as (container, stream):
        rate = _rate(stream)
        frames = _frames(container, stream)
        if config.fps is not None and config.fps < rate:
            rate = Fraction(config.fps).limit_denominator(1001)
            tick = None if _untimed(container) else stream.time_base
            frames = _thin(frames, rate, tick or 1 / _rate(stream), counted=tick is None)
        return _mux(frames, rate, config)


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[tuple[av.container.InputContainer, av.video.stream.VideoStream]]:
    """Open by file object, never by name: a name could be an address or a protocol to FFmpeg."""
    try:
        with contextlib.ExitStack() as stack:
            file = io.BytesIO(source) if isinstance(source, bytes) else stack.enter_context(source.open("rb"))
            container = stack.enter_context(av.open(file, mode="r", options={"format_whitelist": _FORMATS}))
            if not container.streams.video:
                raise VideoError("the file holds no video stream")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            pixels = stream.width * stream.height
            if not 0 < pixels <= MAX_PIXELS:
                raise VideoError(
                    f"frames of {stream.width}x{stream.height} pixels; at most {MAX_PIXELS} pixels are read"
                )
            length = len(source) if isinstance(source, bytes) else source.stat().st_size
            needed = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
            if needed > length:
                raise VideoError(f"truncated: {length} bytes of the {needed} that its index speaks of")
            yield container, stream
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"not a readable video: {error.strerror or error}") from None


def _packets(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> Iterator[av.packet.Packet]:
    """The stream's packets that carry data, in decoding order."""
    for count, packet in enumerate(container.demux(stream)):
        if count > MAX_FRAMES:
            raise VideoError(f"more than {MAX_FRAMES} frames; cut the video into parts first")
        if packet.size:
            yield packet


def _frames(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream
) -> Iterator[av.video.frame.VideoFrame]:
    for packet in _packets(container, stream):
        yield from stream.codec_context.decode(packet)
    yield from stream.codec_context.decode(None)


def _select(
    stream: av.video.stream.VideoStream, packets: list[av.packet.Packet], wanted: set[int]
) -> Iterator[tuple[int, av.video.frame.VideoFrame]]:
    """Decode what `wanted` needs and nothing more; yields (index in display order, frame)."""
    shown = [packet for packet in packets if not packet.is_discard]
    times = sorted(packet.pts for packet in shown if packet.pts is not None)
    if len(times) != len(shown) or len(set(times)) != len(times):
        yield from _select_by_counting(stream, packets, wanted)
        return
    index_of = {time: index for index, time in enumerate(times)}
    pending = {times[index] for index in wanted}
    for run in _runs(packets, pending):
        for packet in [*run, None]:
            for frame in stream.codec_context.decode(packet):
                if frame.pts in pending:
                    pending.discard(frame.pts)
                    yield index_of[frame.pts], frame
        stream.codec_context.flush_buffers()


def _runs(packets: list[av.packet.Packet], pending: set[int]) -> Iterator[list[av.packet.Packet]]:
    """Stretches of packets that start at a keyframe and end with the last wanted frame before a gap."""
    start, end = 0, -1  # the open stretch is packets[start:end + 1]
    keys: list[int] = [0]
    for place, packet in enumerate(packets):
        if packet.is_keyframe and place:
            keys.append(place)
        if packet.pts not in pending:
            continue
        key = keys[-1]
        leads = packet.pts is not None and (packets[key].pts or 0) > packet.pts
        if leads and len(keys) > 1:  # shown before its keyframe: it also needs the group before
            key = keys[-2]
        if end >= 0 and key > end:
            yield packets[start : end + 1]
            start = key
        elif end < 0:
            start = key
        end = place
    if end >= 0:
        yield packets[start : end + 1]


def _select_by_counting(
    stream: av.video.stream.VideoStream, packets: list[av.packet.Packet], wanted: set[int]
) -> Iterator[tuple[int, av.video.frame.VideoFrame]]:
    """For containers without usable time stamps: decode from the start and count."""
    count, last = 0, max(wanted)
    for packet in [*packets, None]:
        for frame in stream.codec_context.decode(packet):
            if count in wanted:
                yield count, frame
            count += 1
            if count > last:
                return


def _rgb(frame: av.video.frame.VideoFrame, size: tuple[int, int]) -> FrameHWC:
    return np.asarray(frame.to_ndarray(format="rgb24", width=size[0], height=size[1]), dtype=np.uint8)


def _rate(stream: av.video.stream.VideoStream) -> Fraction:
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    return Fraction(rate) if 0 < rate <= 1000 else Fraction(25)


def _untimed(container: av.container.InputContainer) -> bool:
    """AVI stores no presentation times: FFmpeg's guesses are off by the B-frames, counting is right."""
    return container.format.name == "avi"


def _thin(
    frames: Iterator[av.video.frame.VideoFrame], rate: Fraction, tick: Fraction, *, counted: bool
) -> Iterator[av.video.frame.VideoFrame]:
    """The first frame at or after each 1 / rate seconds; a frame's time is its stamp, or its number, times `tick`."""
    start: int | None = None
    due = 0
    for number, frame in enumerate(frames):
        stamp = number if counted else frame.pts
        if stamp is None:
            raise VideoError("its frames carry no time stamps, so their rate cannot be changed; leave fps unset")
        start = stamp if start is None else start
        elapsed = (stamp - start) * tick * rate + Fraction(1, 1000)
        if elapsed >= due:
            due = math.floor(elapsed) + 1
            yield frame


def _mux(frames: Iterable[av.video.frame.VideoFrame], rate: Fraction, config: EncodingConfig) -> bytes:
    """Scale and encode; time stamps are written anew, one tick a frame."""
    file = io.BytesIO()
    with av.open(file, mode="w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream: av.video.stream.VideoStream | None = None
        for number, frame in enumerate(frames):
            if stream is None:
                stream = _output_stream(container, rate, config, width=frame.width, height=frame.height)
            picture = frame.reformat(
                width=stream.width, height=stream.height, format="yuv420p", interpolation="BICUBIC", threads=1
            )
            picture.pts, picture.time_base = number, 1 / rate
            picture.pict_type = av.video.frame.PictureType.NONE
            container.mux(stream.encode(picture))
        if stream is None:
            raise VideoError("there are no frames to encode")
        container.mux(stream.encode(None))
    return file.getvalue()


def _output_stream(
    container: av.container.OutputContainer, rate: Fraction, config: EncodingConfig, *, width: int, height: int
) -> av.video.stream.VideoStream:
    options = {"crf": str(config.crf), "preset": config.preset, "bf": "0", "threads": "1", "flags": "+bitexact"}
    if config.fast_decode:
        options["tune"] = "fastdecode"
    options["x264-params"] = f"keyint={config.gop}:min-keyint={config.gop}:scenecut=0:open-gop=0:bframes=0"
    stream = container.add_stream("libx264", rate=rate, options=options)
    scale = 1.0 if config.short_side is None else min(1.0, config.short_side / min(width, height))
    stream.width, stream.height = (max(2, 2 * round(side * scale / 2)) for side in (width, height))
    stream.pix_fmt = "yuv420p"
    return stream
