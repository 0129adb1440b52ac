"""Show frames upright: apply the display matrix of a stream (ISO/IEC 14496-12, 6.2.2), as FFmpeg's `autorotate` does.

Rotations by multiples of 90 degrees and reflections are applied. Shapes: H height, W width, C = 3 (RGB).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from av.buffer import Buffer
from av.video.frame import VideoFrame

from videomae.data.video.container import VideoError

_Plane = npt.NDArray[np.uint8]
_TOLERANCE = math.tan(math.radians(1))  # FFmpeg's: one degree


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """How stored frames become shown ones: first transposed, then rows or columns reversed."""

    transposed: bool = False
    rows_reversed: bool = False
    columns_reversed: bool = False

    @classmethod
    def of(cls, frame: VideoFrame) -> Orientation:
        """Read the display matrix of a decoded frame. Raises VideoError if it turns by other angles than right ones."""
        try:
            matrix = bytes(cast(Mapping[str, Buffer], frame.side_data)["DISPLAYMATRIX"])
        except KeyError:
            return UPRIGHT
        a, b, _, c, d = struct.unpack_from("=5i", matrix)  # x' = a x + c y, y' = b x + d y
        if max(abs(b), abs(c)) <= _TOLERANCE * max(abs(a), abs(d)):
            return cls(rows_reversed=d < 0, columns_reversed=a < 0)
        if max(abs(a), abs(d)) <= _TOLERANCE * max(abs(b), abs(c)):
            return cls(transposed=True, rows_reversed=b < 0, columns_reversed=c < 0)
        raise VideoError(f"its display matrix turns it by {frame.rotation} degrees; only multiples of 90 are supported")

    def size(self, width: int, height: int) -> tuple[int, int]:
        """The width and height of the shown frame for those of the stored one, and the other way round."""
        return (height, width) if self.transposed else (width, height)

    def stored_box(self, box: Box, full: Box) -> Box:
        """The part of a stored frame that shows `box` of the frame `full`, which is as large as the shown ones."""
        top = full.height - box.top - box.height if self.rows_reversed else box.top
        left = full.width - box.left - box.width if self.columns_reversed else box.left
        if self.transposed:
            return Box(top=left, left=top, height=box.width, width=box.height)
        return Box(top=top, left=left, height=box.height, width=box.width)

    def show(self, frame: _Plane) -> _Plane:
        """A view of a stored frame (H, W) or (H, W, C) as it is shown."""
        if self.transposed:
            frame = frame.swapaxes(0, 1)
        return frame[:: -1 if self.rows_reversed else 1, :: -1 if self.columns_reversed else 1]

    def show_yuv420p(self, frame: VideoFrame) -> VideoFrame:
        """A stored yuv420p or yuvj420p frame of even size as it is shown; its times and tags are not kept."""
        width, height = frame.width, frame.height
        flat = np.asarray(frame.to_ndarray(), np.uint8).ravel()
        ends = (0, width * height, width * height * 5 // 4, width * height * 3 // 2)
        planes = [
            self.show(flat[start:stop].reshape(height // scale, width // scale)).ravel()
            for start, stop, scale in zip(ends, ends[1:], (1, 2, 2), strict=False)
        ]
        shown_width, shown_height = self.size(width, height)
        shown = np.concatenate(planes).reshape(shown_height * 3 // 2, shown_width)
        return VideoFrame.from_ndarray(shown, format=frame.format.name)


UPRIGHT = Orientation()
