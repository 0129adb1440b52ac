"""Read a camera: a device of this machine, or an address such as rtsp://. One call is one connection.

Frames that this machine cannot decode in time are dropped before decoding, up to the next keyframe, so that the delay
behind the camera stays bounded.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import av.error
from av.container import InputContainer
from av.video.stream import VideoStream

from videomae.data.video.container import DECODER_OPTIONS, MAX_PIXELS, VideoError
from videomae.data.video.display import Display
from videomae.data.video.streaming import TimedFrame

MAX_LAG = 2.0  # seconds behind the camera from which frames are dropped
_CAUGHT_UP = 0.2
_DRIFT = 1e-3  # seconds a second that the clock of a camera may be slower than ours
_JUMP = 10.0  # seconds: stamps that jump further, or back, begin anew
_PROTOCOLS = "rtsp,rtsps,rtp,srtp,udp,tcp,tls,http,https,httpproxy,crypto,rtmp,rtmps"
_ADDRESS = re.compile(r"(rtsps?|https?|rtmps?|tcp|udp|srt)://\S+")


class CameraError(VideoError):
    """A camera does not answer, or its stream has ended."""


def is_camera(source: str) -> bool:
    """Whether a source is a camera's number, a device or an address, rather than a path."""
    return source.isdecimal() or source.startswith("/dev/") or _ADDRESS.fullmatch(source) is not None


def masked(source: str) -> str:
    """The address without its password, to be shown and logged."""
    return re.sub(r"(?<=://)([^/@:]*):[^/@]*@", r"\1:***@", source)


def read_camera(
    source: str, *, timeout: float, dropped: Callable[[int], None] = lambda count: None
) -> Iterator[TimedFrame]:
    """Yield the frames of one connection with the seconds since its first frame, until it ends.

    Args:
        source: a camera's number, a device such as /dev/video0, or an address.
        timeout: seconds without data after which the connection counts as lost.
        dropped: called with the number of packets that were dropped to catch up.

    Raises:
        CameraError: nothing answers, no data comes for `timeout`, or the stream is no video.
    """
    heard = time.monotonic()
    try:
        with _open(source, timeout) as (container, stream):
            for frame in _frames(container, stream, dropped):
                yield frame
                heard = time.monotonic()
    except (av.error.FFmpegError, OSError) as error:
        silent = time.monotonic() - heard >= timeout  # FFmpeg calls an interrupted answer invalid
        reason = f"no data for {timeout:g} s" if silent else error.strerror or str(error)
        raise CameraError(f"{masked(source)}: {reason}") from None


@contextlib.contextmanager
def _open(source: str, timeout: float) -> Iterator[tuple[InputContainer, VideoStream]]:
    device = source if source.startswith("/dev/") else f"/dev/video{source}" if source.isdecimal() else None
    options = {
        "protocol_whitelist": _PROTOCOLS,
        "fflags": "nobuffer",
        "analyzeduration": "1000000",
        "fpsprobesize": "0",
    }
    if device is not None:
        if not Path(device).exists():
            raise CameraError(f"{device}: no such camera")
        options = {}
    elif source.startswith("rtsp"):
        options["rtsp_flags"] = "prefer_tcp"  # and UDP where the camera refuses it
    with av.open(
        device or source, format=None if device is None else "v4l2", options=options, timeout=(timeout, timeout)
    ) as container:
        if not container.streams.video:
            raise CameraError(f"{masked(source)}: the stream holds no video")
        stream = container.streams.video[0]
        if stream.width * stream.height > MAX_PIXELS:
            raise CameraError(f"{masked(source)}: frames of {stream.width}x{stream.height} pixels are too large")
        stream.codec_context.options = dict(DECODER_OPTIONS)
        yield container, stream


def _frames(container: InputContainer, stream: VideoStream, dropped: Callable[[int], None]) -> Iterator[TimedFrame]:
    pace, skipping, segment = _Pace(), False, 0
    begun: float | None = None
    display: Display | None = None
    start = last = 0.0
    for packet in container.demux(stream):
        if packet.dts is not None:
            lag = pace.lag(float(packet.dts * packet.time_base), time.monotonic())
            if skipping and packet.is_keyframe and lag < _CAUGHT_UP:
                skipping, segment = False, segment + 1  # pictures are missing: nothing may span the gap
            elif not skipping and lag > MAX_LAG:
                skipping = True
                stream.codec_context.flush_buffers()
        if skipping:
            dropped(1)
            continue
        try:
            frames = stream.codec_context.decode(packet)
        except av.error.InvalidDataError:  # a damaged packet, or the stream began between two keyframes
            dropped(1)
            continue
        for frame in frames:
            stamp = time.monotonic() if frame.time is None else frame.time
            if begun is None:
                begun, start = time.monotonic(), stamp
            elif not -1 < stamp - last < _JUMP:
                segment, start = segment + 1, stamp - (time.monotonic() - begun)
            last = stamp
            if display is None or display.stored != (frame.width, frame.height):
                display = Display.of(stream, frame)
            yield TimedFrame(frame, stamp - start, display, segment)


class _Pace:
    """How far packets have fallen behind since the connection began.

    The least distance between the clocks seen so far counts as no delay; it rises slowly, as clocks drift.
    """

    def __init__(self) -> None:
        self._least: float | None = None
        self._stamp, self._now = 0.0, 0.0

    def lag(self, stamp: float, now: float) -> float:
        """Return the delay in seconds of a packet with the time `stamp` that arrives at `now`."""
        jumped = not -1 < stamp - self._stamp < _JUMP
        offset = now - stamp
        if self._least is None or jumped:
            self._least = offset
        else:
            self._least = min(offset, self._least + _DRIFT * (now - self._now))
        self._stamp, self._now = stamp, now
        return offset - self._least
