"""Convert only the crops of decoded frames to RGB.

Shapes: B boxes, T frames, H height, W width, C = 3 (RGB).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter

from videomae.data.video.color import as_plain, with_known_matrix
from videomae.data.video.container import VideoError, require_same_shape
from videomae.data.video.display import Display
from videomae.data.video.orientation import UPRIGHT, Box

FrameHWC = npt.NDArray[np.uint8]
FramesTHWC = npt.NDArray[np.uint8]


class CropCollector:
    """Collect the crops of the frames numbered in `indices`, in that order, as shown; repeats are allowed.

    The boxes are parts of the shown frame; None is all of it.

    `frames_BTHWC` holds one array (len(indices), box.height, box.width, 3) per box. `missing` holds the frame numbers
    that have not been added.

    Raises:
        VideoError: a box does not lie within the shown frame.
    """

    def __init__(self, indices: Sequence[int], boxes: Sequence[Box] | None, display: Display) -> None:
        boxes = boxes or (display.shown,)
        self._rows: dict[int, list[int]] = {}
        for row, index in enumerate(indices):
            self._rows.setdefault(index, []).append(row)
        self.missing = set(indices)
        self.frames_BTHWC = [np.empty((len(indices), box.height, box.width, 3), np.uint8) for box in boxes]
        union = _bounding_box(boxes)
        overlapping = len(boxes) > 1 and sum(box.height * box.width for box in boxes) > union.height * union.width
        self._show = None if display.orientation == UPRIGHT else display.orientation.show
        self._converters = [
            RgbCropper(display.orientation.stored_box(box, display.shown), display)
            for box in ((union,) if overlapping else boxes)
        ]
        self._slices = [
            (
                slice(box.top - union.top, box.top - union.top + box.height),
                slice(box.left - union.left, box.left - union.left + box.width),
            )
            for box in (boxes if overlapping else ())
        ]

    def add(self, index: int, frame: VideoFrame) -> None:
        """Store the crops of frame number `index`."""
        crops = [convert(frame) for convert in self._converters]
        if self._show is not None:
            crops = [self._show(crop) for crop in crops]
        if self._slices:  # the boxes overlap much, so their bounding box is converted once
            crops = [crops[0][inside] for inside in self._slices]
        for frames_THWC, crop_HWC in zip(self.frames_BTHWC, crops, strict=True):
            for row in self._rows[index]:
                frames_THWC[row] = crop_HWC
        self.missing.discard(index)


def _bounding_box(boxes: Sequence[Box]) -> Box:
    top, left = min(box.top for box in boxes), min(box.left for box in boxes)
    bottom, right = max(box.top + box.height for box in boxes), max(box.left + box.width for box in boxes)
    return Box(top=top, left=left, height=bottom - top, width=right - left)


class RgbCropper:
    """Convert one box of a frame to RGB (H, W, 3). The result may share memory with an FFmpeg frame.

    The box is a part of the frame with square pixels, before it is turned. Planes of yuv420p are cropped before the
    conversion, on even rows and columns because of the chroma subsampling.
    """

    def __init__(self, box: Box, display: Display) -> None:
        full = Box(top=0, left=0, height=display.height, width=display.width)
        bottom, right = box.top + box.height, box.left + box.width
        if not (0 <= box.top < bottom <= full.height and 0 <= box.left < right <= full.width):
            raise VideoError(f"{box} does not lie within a frame of {full.width}x{full.height}; index the tars again")
        self._display = display
        top, left = box.top // 2 * 2, box.left // 2 * 2
        self._even = Box(top=top, left=left, height=bottom + bottom % 2 - top, width=right + right % 2 - left)
        fits = top + self._even.height <= full.height and left + self._even.width <= full.width
        self._crop_planes = fits and box != full and not display.is_scaled
        self._inner = (slice(box.top - top, bottom - top), slice(box.left - left, right - left))
        self._outer = (slice(box.top, bottom), slice(box.left, right))
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> FrameHWC:
        """Convert the box of a frame. Raises VideoError if the frame has another shape or unsupported colours."""
        display, even = self._display, self._even
        with_known_matrix(frame)
        same = (frame.width, frame.height) == display.stored
        if not same:
            require_same_shape(frame.width, frame.height, *display.stored)
        plain = same and not display.is_scaled and not frame.interlaced_frame and frame.format.name == "yuv420p"
        if not (self._crop_planes and same and frame.format.name == "yuv420p"):
            return self._rgb(frame if plain else as_plain(frame), display.width, display.height)[self._outer]
        planes = tuple(_crop_plane(plane, even, scale) for plane, scale in zip(frame.planes, (1, 2, 2), strict=True))
        cropped = VideoFrame.from_dlpack(planes, format="yuv420p")  # views, nothing is copied
        cropped.colorspace, cropped.color_range = frame.colorspace, frame.color_range
        return self._rgb(cropped, even.width, even.height)[self._inner]

    def _rgb(self, frame: VideoFrame, width: int, height: int) -> FrameHWC:
        rgb = self._reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        plane = rgb.planes[0]
        return np.ndarray((height, width, 3), np.uint8, memoryview(plane), 0, (plane.line_size, 3, 1))


def _crop_plane(plane: VideoPlane, box: Box, scale: int) -> npt.NDArray[np.uint8]:
    """A view of the part of a plane that a box covers; the plane is `scale` times smaller than the frame."""
    shape = (box.height // scale, box.width // scale)
    start = box.top // scale * plane.line_size + box.left // scale
    return np.ndarray(shape, np.uint8, memoryview(plane), start, (plane.line_size, 1))
