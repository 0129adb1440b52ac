"""Write pictures to an mp4 file one at a time, in constant memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from videomae.core.files import atomic_path
from videomae.data.video.cropping import FrameHWC

_CRF = "23"


class VideoWriter:
    """Encodes uint8 RGB pictures (H, W, 3) of one size as H.264; odd sizes lose their last row or column."""

    def __init__(self, container: OutputContainer, fps: float) -> None:
        self._container, self._rate = container, Fraction(fps).limit_denominator(1001)
        self._stream: VideoStream | None = None
        self.pictures = 0

    def write(self, frame_HWC: FrameHWC) -> None:
        """Append a picture."""
        height, width = (side // 2 * 2 for side in frame_HWC.shape[:2])
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=self._rate, options={"crf": _CRF})
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC[:height, :width]), format="rgb24")
        frame.pts, frame.time_base = self.pictures, 1 / self._rate
        self._container.mux(self._stream.encode(frame))
        self.pictures += 1

    def finish(self) -> None:
        """Write what the encoder still holds."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))


@contextlib.contextmanager
def open_writer(path: Path, *, fps: float, fragmented: bool = False) -> Iterator[VideoWriter]:
    """Yield a writer of the mp4 file `path`, which appears when the block ends without an error.

    `fragmented` writes the index in parts, so that it takes no memory however long the video is.
    """
    options = {"movflags": "frag_keyframe+empty_moov"} if fragmented else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as part, av.open(str(part), mode="w", format="mp4", options=options) as container:
        writer = VideoWriter(container, fps)
        yield writer
        writer.finish()
