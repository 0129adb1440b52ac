"""Opens a video's bytes or file within limits, and hands out its packets and frames in order."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from videomae.core.errors import UserError

SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv")
MAX_PIXELS = 8192 * 4608
MAX_FRAMES = 1_000_000
# Pixels decoded for one request, wanted or not: 33,000 pictures of full HD, one or two minutes of a core. What needs
# more, such as a long video without keyframes, is better packed first: `videomae shards build` has no limit.
MAX_WORK = 1 << 36
_SLACK = 1 << 20  # bytes of packets beyond twice those of the file: headers that the demuxer adds
DECODER_OPTIONS = {"max_pixels": str(MAX_PIXELS)}  # the stream itself may speak of larger pictures than its container
# Playlists and other formats that make FFmpeg open further files or addresses are not in the list.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,flv,asf,ogg"

Source = bytes | Path


class VideoError(UserError):
    """A video that cannot be used; the message says why."""


class Work:
    """What is decoded for one request. Raises VideoError if it is more than MAX_WORK pixels, or is going to be."""

    def __init__(self) -> None:
        self._done = 0

    def ahead(self, pictures: int, width: int, height: int) -> None:
        """So many pictures are to be decoded, by what the container says of their size."""
        if self._done + pictures * width * height > MAX_WORK:
            raise VideoError(
                f"{pictures} pictures of {width}x{height} would have to be decoded for one request, which may take"
                f" {MAX_WORK} pixels; store it with more keyframes, as `python -m videomae.data.shards build` does"
            )

    def done(self, decoder: VideoCodecContext) -> None:
        """A packet has been decoded, whose picture may be larger than the container says."""
        self._done += decoder.width * decoder.height
        if self._done > MAX_WORK:
            raise VideoError(f"more than {MAX_WORK} pixels had to be decoded for one request")


@contextlib.contextmanager
def opened(source: Source) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open by file object, never by name: a name could be an address or a protocol to FFmpeg."""
    try:
        with contextlib.ExitStack() as stack:
            file = io.BytesIO(source) if isinstance(source, bytes) else stack.enter_context(source.open("rb"))
            options = {"format_whitelist": _FORMATS}
            container = stack.enter_context(av.open(file, mode="r", options=options, metadata_errors="replace"))
            if not container.streams.video:
                raise VideoError("the file holds no video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise VideoError("its video stream is damaged, or of a codec that FFmpeg does not know")
            stream.codec_context.thread_count = 1
            stream.codec_context.options = dict(DECODER_OPTIONS)
            pixels = stream.width * stream.height
            if not 0 < pixels <= MAX_PIXELS:
                raise VideoError(
                    f"frames of {stream.width}x{stream.height} pixels; at most {MAX_PIXELS} pixels are read"
                )
            if stream.frames > MAX_FRAMES:
                raise VideoError(_too_long(stream.frames))
            length = len(source) if isinstance(source, bytes) else source.stat().st_size
            needed = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
            if needed > length:
                raise VideoError(f"truncated: {length} bytes of the {needed} that its index speaks of")
            yield container, stream
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"not a readable video: {error.strerror or error}") from None
    except (UnicodeError, OverflowError) as error:
        raise VideoError(f"not a readable video: {error}") from None


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """The stream's packets that carry data, in decoding order. Raises VideoError if they are too many or too large."""
    left = 2 * container.size + _SLACK
    for count, packet in enumerate(container.demux(stream)):
        if count > MAX_FRAMES:
            raise VideoError(_too_long(count))
        left -= packet.size
        if left < 0:  # such as thousands of samples that all name the same bytes
            raise VideoError(f"its index speaks of more bytes than the {container.size} that the file has")
        if packet.size:
            yield packet


def frames_of(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    for packet in packets_of(container, stream):
        yield from stream.codec_context.decode(packet)
    yield from stream.codec_context.decode(None)


def rate_of(stream: VideoStream) -> Fraction:
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    return Fraction(rate) if 0 < rate <= 1000 else Fraction(25)


def untimed(container: InputContainer) -> bool:
    """AVI stores no presentation times: FFmpeg's guesses are off by the B-frames, counting is right."""
    return container.format.name == "avi"


def _too_long(frames: int) -> str:
    return f"{frames} frames or more; at most {MAX_FRAMES} are read: cut the video into parts first"
