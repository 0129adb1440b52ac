"""Encode frames to mp4 deterministically: the same frames and settings give the same bytes."""

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
from videomae.data.video.container import (
    VideoError,
    VideoSource,
    decode_stream,
    frame_rate,
    has_timestamps,
    open_video,
)
from videomae.data.video.cropping import FrameHWC


@configclass
class EncodingConfig:
    """How videos are stored. The defaults decode fast: short groups of pictures, no CABAC, no deblocking.

    With `fast_decode`, B-frames are non-reference frames, so a reader that samples with a stride skips most of them.
    """

    short_side: int | None = 256  # pixels; None keeps the source's size; never upscaled
    fps: float | None = 15.0  # recipes sample clips at 15 fps or less; None keeps the source's rate; never raised
    codec: Literal["h264", "jpeg"] = "h264"  # jpeg: intra-coded frames, many times the bytes
    gop: int = 32  # h264: frames from one keyframe to the next; 16 takes more bytes and decodes no faster
    b_frames: int = 3  # h264: between two other frames
    crf: int = 23  # h264: x264's constant rate factor; lower is better and larger
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower"] = "veryfast"
    jpeg_quantizer: int = 3  # jpeg: from 2 (best) to 31
    fast_decode: bool = True  # h264: a third more bytes, two thirds of the decoding time

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
    """Encode uint8 RGB frames (H, W, 3) to an mp4 of even size at `fps` frames per second.

    Every frame is encoded; `config.fps` applies only to `transcode`. Raises VideoError if there are no frames.
    """
    av_frames = (VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24") for frame in frames)
    return _mux(av_frames, Fraction(fps).limit_denominator(1001), config)


def transcode(source: VideoSource, config: EncodingConfig) -> bytes:
    """Re-encode a video at the config's size and frame rate. Raises as `decode`."""
    with open_video(source) as (container, stream):
        fps = frame_rate(stream)
        frames = decode_stream(container, stream)
        if config.fps is not None and config.fps < fps:
            fps = Fraction(config.fps).limit_denominator(1001)
            time_base = stream.time_base if has_timestamps(container) else None
            frames = _drop_frames(frames, fps, time_base or 1 / frame_rate(stream), use_pts=time_base is not None)
        return _mux(frames, fps, config)


def _drop_frames(
    frames: Iterator[VideoFrame], fps: Fraction, time_base: Fraction, *, use_pts: bool
) -> Iterator[VideoFrame]:
    """Keep the first frame at or after every 1 / fps seconds; its time is its pts or its number times `time_base`."""
    start: int | None = None
    due = 0
    for number, frame in enumerate(frames):
        stamp = frame.pts if use_pts else number
        if stamp is None:
            raise VideoError("its frames have no timestamps, so the frame rate cannot be changed; set fps to null")
        start = stamp if start is None else start
        elapsed = (stamp - start) * time_base * fps + Fraction(1, 1000)
        if elapsed >= due:
            due = math.floor(elapsed) + 1
            yield frame


def _mux(frames: Iterable[VideoFrame], fps: Fraction, config: EncodingConfig) -> bytes:
    """Scale and encode; frame i gets the time i / fps."""
    file = io.BytesIO()
    with av.open(file, mode="w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream: VideoStream | None = None
        for number, frame in enumerate(frames):
            if stream is None:
                stream = _output_stream(container, fps, config, width=frame.width, height=frame.height)
            scaled = frame.reformat(
                width=stream.width, height=stream.height, format=stream.pix_fmt, interpolation="BICUBIC", threads=1
            )
            scaled.pts, scaled.time_base = number, 1 / fps
            scaled.pict_type = PictureType.NONE
            container.mux(stream.encode(scaled))
        if stream is None:
            raise VideoError("there are no frames to encode")
        container.mux(stream.encode(None))
    return file.getvalue()


def _output_stream(
    container: OutputContainer, fps: Fraction, config: EncodingConfig, *, width: int, height: int
) -> VideoStream:
    stream = _jpeg_stream(container, fps, config) if config.codec == "jpeg" else _h264_stream(container, fps, config)
    scale = 1.0 if config.short_side is None else min(1.0, config.short_side / min(width, height))
    stream.width, stream.height = (max(2, 2 * round(side * scale / 2)) for side in (width, height))
    return stream


def _h264_stream(container: OutputContainer, fps: Fraction, config: EncodingConfig) -> VideoStream:
    options = {
        "crf": str(config.crf),
        "preset": config.preset,
        "bf": str(config.b_frames),
        "threads": "1",
        "flags": "+bitexact",
    }
    # mbtree=0: on frames of few macroblocks, x264's macroblock tree reads uninitialised memory, so that one encoding in
    # some hundreds differs in its bytes; with short groups it saves only 2 % of the bytes.
    keys = f"keyint={config.gop}:min-keyint={config.gop}:scenecut=0:open-gop=0"
    options["x264-params"] = f"{keys}:bframes={config.b_frames}:mbtree=0"
    if config.fast_decode:
        options["tune"] = "fastdecode"
        # aq-mode=0 minimises the squared error instead of the perceived one: 1 dB PSNR at the same size.
        options["x264-params"] += ":b-adapt=0:b-pyramid=none:weightb=0:aq-mode=0"
    stream = container.add_stream("libx264", rate=fps, options=options)
    stream.pix_fmt = "yuv420p"
    return stream


def _jpeg_stream(container: OutputContainer, fps: Fraction, config: EncodingConfig) -> VideoStream:
    options = {
        "threads": "1",
        "flags": "+bitexact",
        "qmin": str(config.jpeg_quantizer),
        "qmax": str(config.jpeg_quantizer),
    }
    stream = container.add_stream("mjpeg", rate=fps, options=options)
    stream.pix_fmt = "yuvj420p"
    stream.codec_context.color_range = 2  # full range, as JPEG has; swscale converts to it
    return stream
