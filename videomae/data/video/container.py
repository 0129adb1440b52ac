"""Open a video's bytes or file within size limits, and iterate over its packets and frames."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from videomae.core.errors import UserError

SUFFIXES = (
    ".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp", ".3g2", ".ogv",
    ".mts", ".m2ts", ".m2t", ".asf", ".vob", ".f4v", ".divx", ".qt", ".mpe",
)  # fmt: skip
MAX_PIXELS = 8192 * 4608
MAX_FRAMES = 1_000_000
# Pixels decoded for one request, returned or not: 33,000 full-HD frames, one or two minutes on one core. A video that
# needs more, such as a long one without keyframes, must be re-encoded first; building shards has no limit.
MAX_DECODED_PIXELS = 1 << 36
_DEFAULT_BONUS = 5_000_000  # pixels that the default stream may be smaller than another: FFmpeg's
_PACKET_SLACK = 1 << 20  # bytes of packets allowed beyond twice the file size: headers that the demuxer adds
DECODER_OPTIONS = {"max_pixels": str(MAX_PIXELS)}  # the stream may declare larger frames than its container does
# Allowed demuxers. Playlists and other formats that make FFmpeg open further files or URLs are excluded.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,flv,asf,ogg"

VideoSource = bytes | Path


class VideoError(UserError):
    """A video that cannot be used; the message says why."""


class DecodeBudget:
    """Limits the pixels decoded for one request to MAX_DECODED_PIXELS. Its methods raise VideoError beyond that."""

    def __init__(self) -> None:
        self._decoded = 0

    def check(self, frames: int, width: int, height: int) -> None:
        """Check that `frames` more frames fit, by the frame size that the container declares."""
        if self._decoded + frames * width * height > MAX_DECODED_PIXELS:
            raise VideoError(
                f"this request needs {frames} decoded frames of {width}x{height}; at most {MAX_DECODED_PIXELS} pixels"
                " are decoded: re-encode the video with more keyframes, as building shards does"
            )

    def charge(self, decoder: VideoCodecContext) -> None:
        """Count one decoded packet, by the decoder's frame size, which may exceed the one the container declares."""
        self._decoded += decoder.width * decoder.height
        if self._decoded > MAX_DECODED_PIXELS:
            raise VideoError(f"this request needs more than {MAX_DECODED_PIXELS} decoded pixels")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let the message of a VideoError, or of a file that cannot be read, begin with the video's path."""
    try:
        yield
    except (OSError, VideoError) as error:
        raise VideoError(f"{path}: {error}") from None


@contextlib.contextmanager
def open_video(source: VideoSource) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video by file object, never by name, which FFmpeg could take for a URL or protocol. Raises VideoError."""
    try:
        with contextlib.ExitStack() as stack:
            file = io.BytesIO(source) if isinstance(source, bytes) else stack.enter_context(source.open("rb"))
            options = {"format_whitelist": _FORMATS}
            container = stack.enter_context(av.open(file, mode="r", options=options, metadata_errors="replace"))
            if not container.streams.video:
                raise VideoError("the file holds no video stream")
            stream = _shown_stream(container.streams.video)
            _check_limits(container, stream, len(source) if isinstance(source, bytes) else source.stat().st_size)
            stream.codec_context.thread_count = 1
            stream.codec_context.options = dict(DECODER_OPTIONS)
            yield container, stream
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"not a readable video: {error.strerror or error}") from None
    except (UnicodeError, OverflowError) as error:
        raise VideoError(f"not a readable video: {error}") from None


def _shown_stream(streams: Sequence[VideoStream]) -> VideoStream:
    """The stream that FFmpeg shows: no cover picture; the largest one, but rather the default one."""
    moving = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
    if not moving:
        raise VideoError("the file holds no video stream but a cover picture")
    known = [stream for stream in moving if stream.codec_context is not None]

    def rank(stream: VideoStream) -> int:
        return stream.width * stream.height + _DEFAULT_BONUS * bool(stream.disposition & Disposition.default)

    return max(known, key=rank) if known else moving[0]


def other_streams(container: InputContainer, stream: VideoStream) -> list[str]:
    """The sizes of the other video streams, which are not shown."""
    return [
        f"{other.width}x{other.height}"
        for other in container.streams.video
        if other is not stream and other.codec_context is not None and not other.disposition & Disposition.attached_pic
    ]


def _check_limits(container: InputContainer, stream: VideoStream, file_bytes: int) -> None:
    if stream.codec_context is None:
        raise VideoError("the video stream is damaged, or FFmpeg does not know its codec")
    if not 0 < stream.width * stream.height <= MAX_PIXELS:
        raise VideoError(f"frames of {stream.width}x{stream.height} pixels; at most {MAX_PIXELS} pixels are supported")
    if stream.frames > MAX_FRAMES:
        raise VideoError(_too_many_frames(stream.frames))
    needed = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if needed > file_bytes and container.format.name.startswith("mov"):  # others find their packets by reading
        raise VideoError(f"truncated: the file has {file_bytes} of the {needed} bytes that its index refers to")


def iter_packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """Yield the stream's non-empty packets in decoding order, without a last one that is cut off.

    Raises VideoError if they exceed the limits.
    """
    left = 2 * container.size + _PACKET_SLACK
    held: Packet | None = None
    for count, packet in enumerate(container.demux(stream)):
        if count > MAX_FRAMES:
            raise VideoError(_too_many_frames(count))
        left -= packet.size
        if left < 0:  # such as thousands of samples that all refer to the same bytes
            raise VideoError(f"its index refers to more bytes than the {container.size} of the file")
        if packet.size:
            if held is not None:
                yield held
            held = packet
    if held is not None and not held.is_corrupt:
        yield held


def require_same_shape(width: int, height: int, first_width: int, first_height: int) -> None:
    """Raise VideoError if frames of this size would be distorted when they are scaled to the size of the first ones."""
    if abs(width * first_height - height * first_width) > 0.02 * width * first_height:
        raise VideoError(
            f"its frames change from {first_width}x{first_height} to {width}x{height} pixels; split it where they do"
        )


def _too_many_frames(frames: int) -> str:
    return f"{frames} frames or more; at most {MAX_FRAMES} are supported: split the video first"
