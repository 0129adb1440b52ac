"""Encode frames to mp4 deterministically: the same frames and settings give the same bytes."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Literal

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.data.video.color import STORED_MATRIX, StoredForm
from videomae.data.video.container import (
    MAX_FRAMES,
    VideoError,
    VideoSource,
    require_same_shape,
)
from videomae.data.video.cropping import FrameHWC
from videomae.data.video.display import Display
from videomae.data.video.numbering import open_numbered
from videomae.data.video.orientation import UPRIGHT


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
    first = next(av_frames, None)
    if first is None:
        raise VideoError("there are no frames to encode")
    display = Display.plain(first.width, first.height)
    return _mux(itertools.chain([first], av_frames), Fraction(fps).limit_denominator(1001), config, display)


def transcode(
    source: VideoSource, config: EncodingConfig, *, remark: Callable[[str], None] = lambda sentence: None
) -> bytes:
    """Re-encode a video as it is shown, in the stored colours, at the config's size and frame rate. Raises as `decode`.

    The frame rate is constant: frame k is what the video shows k / fps seconds after its first frame, so the duration
    stays the same within a frame. The rate is never raised above that of the video's closest frames. `remark` gets a
    sentence for each flaw, such as concealed damage.
    """
    with open_numbered(source) as video:
        rate, length = video.timeline.rate, video.timeline.end * video.timeline.unit
        fps = rate if config.fps is None else min(rate, Fraction(config.fps).limit_denominator(1001))
        if length * fps > MAX_FRAMES:
            raise VideoError(
                f"it lasts {math.ceil(length * fps)} frames; at most {MAX_FRAMES} are supported: split the video first"
            )
        stored = _mux(video.shown(fps), fps, config, video.display)
        for sentence in video.flaws.remarks():
            remark(sentence)
        return stored


def _mux(frames: Iterable[VideoFrame], fps: Fraction, config: EncodingConfig, display: Display) -> bytes:
    """Scale, turn and encode; frame i gets the time i / fps."""
    width, height = display.fitted(config.short_side)
    file = io.BytesIO()
    options = {"fflags": "+bitexact", "movflags": "-write_colr"}  # the tags are in the stream, where `parse_mp4` reads
    with av.open(file, mode="w", format="mp4", options=options) as container:
        stream = _output_stream(container, fps, config)
        stream.width, stream.height = display.orientation.size(width, height)
        form = StoredForm(width, height, str(stream.pix_fmt))
        for number, frame in enumerate(_stored(frames, form, display)):
            frame.pts, frame.time_base = number, 1 / fps
            frame.pict_type = PictureType.NONE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def _stored(frames: Iterable[VideoFrame], form: StoredForm, display: Display) -> Iterator[VideoFrame]:
    """Convert frames, repeated ones once. Raises VideoError if one has another shape than the first."""
    before = converted = None
    for frame in frames:
        if frame is not before or converted is None:
            require_same_shape(frame.width, frame.height, *display.stored)
            converted = form(frame)
            converted = converted if display.orientation == UPRIGHT else display.orientation.show_yuv420p(converted)
            before = frame
        yield converted


def _output_stream(container: OutputContainer, fps: Fraction, config: EncodingConfig) -> VideoStream:
    stream = _jpeg_stream(container, fps, config) if config.codec == "jpeg" else _h264_stream(container, fps, config)
    stream.codec_context.colorspace = STORED_MATRIX
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
    stream.codec_context.color_range = ColorRange.MPEG
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
    stream.codec_context.color_range = ColorRange.JPEG
    return stream
