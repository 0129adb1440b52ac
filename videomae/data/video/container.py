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
from av.video.stream import VideoStream

from videomae.core.errors import UserError

SUFFIXES = (
    ".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp", ".3g2", ".ogv",
    ".mts", ".m2ts", ".m2t", ".asf", ".vob", ".f4v", ".divx", ".qt", ".mpe",
)  # fmt: skip
MAX_PIXELS = 8192 * 4608
MAX_FRAMES = 1_000_000
_DEFAULT_BONUS = 5_000_000  # pixels that the default stream may be smaller than another: FFmpeg's
_PACKET_SLACK = 1 << 20  # bytes of packets allowed beyond twice the file size: headers that the demuxer adds
DECODER_OPTIONS = {"max_pixels": str(MAX_PIXELS)}  # the stream may declare larger frames than its container does
# Allowed demuxers. Playlists and other formats that make FFmpeg open further files or URLs are excluded.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,flv,asf,ogg"

VideoSource = bytes | Path


class VideoError(UserError):
    """A video that cannot be used; the message says why."""


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
    except (av.error.FFmpegError, OSError, UnicodeError, OverflowError) as error:
        raise VideoError(f"not a readable video: {getattr(error, 'strerror', None) or error}") from None


def _shown_stream(streams: Sequence[VideoStream]) -> VideoStream:
    """The stream that FFmpeg shows: no cover picture; the largest one, but rather the default one."""
    moving = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
    if not moving:
        raise VideoError("the file holds no video stream but a cover picture")
    known = [stream for stream in moving if stream.codec_context is not None]

    def rank(stream: VideoStream) -> int:
        return stream.width * stream.height + _DEFAULT_BONUS * bool(stream.disposition & Disposition.default)

    return max(known, key=rank) if known else moving[0]


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
