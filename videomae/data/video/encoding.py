"""Encodes frames to H.264 in mp4: the same frames and settings to the same bytes, by default made to decode fast."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Literal

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.data.video.container import Source, VideoError, frames_of, opened, rate_of, untimed
from videomae.data.video.decoding import FrameHWC


@configclass
class EncodingConfig:
    """How a video is stored. The defaults are made to decode fast: short groups of pictures, no CABAC, no deblocking.

    B-frames that nothing refers to stand between the others, so a reader that wants every second frame or so leaves out
    most of what it does not want.
    """

    short_side: int | None = 256  # pixels; None keeps the source's size; never enlarged
    fps: float | None = 15.0  # clips are sampled at 15 fps or less; None keeps the source's rate; never raised
    codec: Literal["h264", "jpeg"] = (
        "h264"  # jpeg: each frame by itself, many times the bytes; the next five are h264's
    )
    gop: int = 32  # frames from one keyframe to the next; with B-frames to leave out, 16 costs more and gains nothing
    b_frames: int = 3  # between two other frames; with fast_decode no frame refers to them
    crf: int = 23  # x264's constant rate factor: lower is better and larger
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower"] = "veryfast"
    jpeg_quantizer: int = 3  # from 2 (best) to 31
    fast_decode: bool = True  # larger by about a third, decoded in about two thirds of the time

    def __post_init__(self) -> None:
        if self.short_side is not None and self.short_side < 16:
            raise UserError(f"short_side must be at least 16 pixels, got {self.short_side}")
        if self.fps is not None and not (0 < self.fps <= 1000):
            raise UserError(f"fps must be between 0 and 1000, got {self.fps}")
        if not 2 <= self.jpeg_quantizer <= 31:
            raise UserError(f"jpeg_quantizer must be from 2 to 31, got {self.jpeg_quantizer}")
        if not 0 <= self.b_frames <= 16:
            raise UserError(f"b_frames must be from 0 to 16, got {self.b_frames}")
        if self.gop < 1 or not 0 <= self.crf <= 51:
            raise UserError(f"gop must be at least 1 and crf from 0 to 51, got gop={self.gop} crf={self.crf}")


def encode(frames: Iterable[FrameHWC], fps: float, config: EncodingConfig) -> bytes:
    """Encode uint8 RGB frames (H, W, 3) to an mp4 (H.264, yuv420p, even sizes) of `fps` frames a second.

    `config.fps` is not applied here: the frames are taken as they come. Raises VideoError if there are none.
    """
    pictures = (VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24") for frame in frames)
    return _mux(pictures, Fraction(fps).limit_denominator(1001), config)


def transcode(source: Source, config: EncodingConfig) -> bytes:
    """Re-encode a video at the config's size and rate. Same source and config, same bytes. Errors as `decode`."""
    with opened(source) as (container, stream):
        rate = rate_of(stream)
        frames = frames_of(container, stream)
        if config.fps is not None and config.fps < rate:
            rate = Fraction(config.fps).limit_denominator(1001)
            tick = None if untimed(container) else stream.time_base
            frames = _thin(frames, rate, tick or 1 / rate_of(stream), counted=tick is None)
        return _mux(frames, rate, config)


def _thin(frames: Iterator[VideoFrame], rate: Fraction, tick: Fraction, *, counted: bool) -> Iterator[VideoFrame]:
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


def _mux(frames: Iterable[VideoFrame], rate: Fraction, config: EncodingConfig) -> bytes:
    """Scale and encode; time stamps are written anew, one tick a frame."""
    file = io.BytesIO()
    with av.open(file, mode="w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream: VideoStream | None = None
        for number, frame in enumerate(frames):
            if stream is None:
                stream = _output_stream(container, rate, config, width=frame.width, height=frame.height)
            picture = frame.reformat(
                width=stream.width, height=stream.height, format=stream.pix_fmt, interpolation="BICUBIC", threads=1
            )
            picture.pts, picture.time_base = number, 1 / rate
            picture.pict_type = PictureType.NONE
            container.mux(stream.encode(picture))
        if stream is None:
            raise VideoError("there are no frames to encode")
        container.mux(stream.encode(None))
    return file.getvalue()


def _output_stream(
    container: OutputContainer, rate: Fraction, config: EncodingConfig, *, width: int, height: int
) -> VideoStream:
    stream = _jpeg_stream(container, rate, config) if config.codec == "jpeg" else _h264_stream(container, rate, config)
    scale = 1.0 if config.short_side is None else min(1.0, config.short_side / min(width, height))
    stream.width, stream.height = (max(2, 2 * round(side * scale / 2)) for side in (width, height))
    return stream


def _h264_stream(container: OutputContainer, rate: Fraction, config: EncodingConfig) -> VideoStream:
    options = {
        "crf": str(config.crf),
        "preset": config.preset,
        "bf": str(config.b_frames),
        "threads": "1",
        "flags": "+bitexact",
    }
    # mbtree=0: on frames of few macroblocks x264's macroblock tree reads memory that nobody wrote, and once in some
    # hundred times the bytes differ; with short groups it gains only 2 % of the bytes.
    keys = f"keyint={config.gop}:min-keyint={config.gop}:scenecut=0:open-gop=0"
    options["x264-params"] = f"{keys}:bframes={config.b_frames}:mbtree=0"
    if config.fast_decode:
        options["tune"] = "fastdecode"
        # aq-mode=0: bits go where they lower the squared error, 1 dB for the same bytes, and not where the eye looks.
        options["x264-params"] += ":b-adapt=0:b-pyramid=none:weightb=0:aq-mode=0"
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.pix_fmt = "yuv420p"
    return stream


def _jpeg_stream(container: OutputContainer, rate: Fraction, config: EncodingConfig) -> VideoStream:
    options = {
        "threads": "1",
        "flags": "+bitexact",
        "qmin": str(config.jpeg_quantizer),
        "qmax": str(config.jpeg_quantizer),
    }
    stream = container.add_stream("mjpeg", rate=rate, options=options)
    stream.pix_fmt = "yuvj420p"
    stream.codec_context.color_range = 2  # JPEG's full range, which swscale then converts to
    return stream
