"""What the numbers of decoded frames mean, and the one form in which frames are stored.

Frames are stored as BT.601 with limited range (JPEG: full range) and tagged so; decoders that ignore the tags assume
the same. Frames are read by their own tags. Where these are missing, FFmpeg's rules hold: YUV is BT.601 of limited
range, whatever its size; grey, RGB and JPEG have full range. Primaries and transfer curves are not converted.
"""

from __future__ import annotations

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from videomae.data.video.container import VideoError

STORED_MATRIX = 6  # AVCOL_SPC_SMPTE170M, which is BT.601
# Layouts with fewer chroma samples than pixels.
_PLANAR: dict[str, type[np.uint8 | np.uint16]] = {
    **dict.fromkeys(("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv411p", "yuv440p"), np.uint8),
    **dict.fromkeys(("yuv420p10le", "yuv422p10le", "yuv420p12le", "yuv422p12le"), np.uint16),
}
# Matrices by their numbers in ITU-T H.273 that swscale converts; the others need more than a matrix, such as YCgCo.
_KNOWN = frozenset((0, 1, 2, 4, 5, 6, 7, 9))
_READ_AS = {3: 2, 10: 9}  # reserved: as if unspecified; BT.2020 of constant luminance: as FFmpeg does

_HDR = {16: "PQ (SMPTE ST 2084)", 18: "HLG (ARIB STD-B67)"}  # transfer curves by their numbers in H.273


def hdr_curve(frame: VideoFrame) -> str:
    """The name of the frame's transfer curve if it is one of high dynamic range, else empty."""
    return _HDR.get(frame.color_trc, "")


def as_plain(frame: VideoFrame) -> VideoFrame:
    """The frame without the tags that make swscale convert it otherwise than FFmpeg's filters and players do.

    These are its two fields, which would be converted each by itself, and the place of its chroma samples, which is
    heeded in scaling but not in the conversion to RGB: colours would move by up to half a pixel of the stored frame.
    """
    dtype = _PLANAR.get(str(frame.format.name))
    if dtype is None or frame.width % frame.planes[1].width or frame.height % frame.planes[1].height:  # an odd size
        return frame
    planes = [
        np.ndarray((plane.height, plane.width), dtype, memoryview(plane), 0, (plane.line_size, dtype().itemsize))
        for plane in frame.planes
    ]
    plain = VideoFrame.from_dlpack(tuple(planes), format=frame.format.name)  # views, nothing is copied
    plain.colorspace, plain.color_range = frame.colorspace, frame.color_range
    return plain


def with_known_matrix(frame: VideoFrame) -> VideoFrame:
    """The frame, with a matrix that can be converted. Raises VideoError if there is none."""
    if frame.colorspace not in _KNOWN:
        if frame.colorspace not in _READ_AS:
            raise VideoError(f"its colour matrix (number {frame.colorspace} in H.273) is not supported: re-encode it")
        frame.colorspace = _READ_AS[frame.colorspace]
    return frame


class StoredForm:
    """Converts frames to the size, layout and colours in which they are stored."""

    def __init__(self, width: int, height: int, format: str) -> None:
        self.width, self.height, self._format = width, height, format
        self._range = ColorRange.JPEG if format == "yuvj420p" else ColorRange.MPEG
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        """Convert a frame of any format. Raises VideoError if its colour matrix is not supported."""
        return self._reformatter.reformat(
            as_plain(with_known_matrix(frame)),
            width=self.width,
            height=self.height,
            format=self._format,
            dst_colorspace=Colorspace.SMPTE170M,
            dst_color_range=self._range,
            interpolation=Interpolation.BICUBIC,
            threads=1,
        )
