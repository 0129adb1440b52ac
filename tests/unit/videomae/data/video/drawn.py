"""Draw videos whose pictures tell their number and show known colours.

The upper half of a picture holds 12 cells, bright for 1 and dark for 0, lowest bit left; the lower half holds COLOURS.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

COLOURS = np.array(
    [
        (200, 40, 40),
        (40, 200, 40),
        (40, 40, 200),
        (200, 200, 40),
        (40, 200, 200),
        (200, 40, 200),
        (235, 235, 235),
        (20, 20, 20),
    ]
)
_BITS = 12
# Kr and Kb of the matrices of ITU-T H.273; 2 is unspecified, where BT.601 is assumed.
_WEIGHTS = {1: (0.2126, 0.0722), 2: (0.299, 0.114), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def picture(number: int, width: int = 96, height: int = 64) -> NDArray[np.uint8]:
    """RGB (H, W, 3)."""
    frame = np.empty((height, width, 3), np.uint8)
    cells = [40 + 170 * (number >> bit & 1) for bit in range(_BITS)]
    frame[: height // 2] = np.repeat(cells, width // _BITS)[None, :, None]
    frame[height // 2 :] = np.repeat(COLOURS, width // len(COLOURS), axis=0)
    return frame


def number_of(frame: NDArray[np.uint8]) -> int:
    """The number that a picture tells."""
    height, width = frame.shape[:2]
    cell = width / _BITS
    return sum((frame[height // 4, int(cell * (bit + 0.5))].mean() > 125) << bit for bit in range(_BITS))


def colours_of(frame: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The colours that a picture shows, to be compared with COLOURS."""
    height, width = frame.shape[:2]
    cell = width / len(COLOURS)
    return frame[height * 3 // 4, [int(cell * (place + 0.5)) for place in range(len(COLOURS))]].astype(np.int64)


def yuv_frame(rgb: NDArray[np.uint8], format: str, matrix: int, *, full: bool) -> av.VideoFrame:
    """A planar YUV frame by the formulas of ITU-T H.273, not by FFmpeg."""
    bits = 10 if "10" in format else 8
    red, green, blue = np.moveaxis(rgb / 255.0, -1, 0)
    kr, kb = _WEIGHTS[matrix]
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    planes = [luma, (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)][: 1 if format.startswith("gray") else 3]
    unit = 2 ** (bits - 8)
    spans = (
        ((2**bits - 1, 0), (2**bits - 1, 128 * unit)) if full else ((219 * unit, 16 * unit), (224 * unit, 128 * unit))
    )
    frame = av.VideoFrame(rgb.shape[1], rgb.shape[0], format)
    for place, (plane, values) in enumerate(zip(frame.planes, planes, strict=True)):
        scale, offset = spans[min(place, 1)]
        coded = np.clip(np.rint(values * scale + offset), 0, 2**bits - 1).astype(np.uint8 if bits == 8 else np.uint16)
        if place:
            coded = coded[:: 2 if "420" in format else 1, :: 1 if "444" in format else 2]
        rows = np.zeros((coded.shape[0], plane.line_size // coded.itemsize), coded.dtype)
        rows[:, : coded.shape[1]] = coded
        plane.update(rows.tobytes())
    return frame


def write(
    path: Path,
    stamps: Sequence[int],
    *,
    unit: Fraction = Fraction(1, 30),
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    format: str = "yuv420p",
    matrix: int = 2,
    full: bool = False,
    display: Sequence[int] | None = None,
    numbers: Sequence[int] | None = None,
    size: tuple[int, int] = (96, 64),
    aspect: Fraction | None = None,
) -> Path:
    """Write a video whose picture i is shown `stamps[i]` ticks of `unit` seconds after the start and tells number i."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1 / unit, options=options or {})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size, format
        stream.time_base = stream.codec_context.time_base = unit
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = 2 if full else 1 if matrix != 2 else 0
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if display is not None:
            stream.set_display_matrix(display)
        for stamp, number in zip(stamps, numbers or range(len(stamps)), strict=True):
            frame = yuv_frame(picture(number, *size), format, matrix, full=full)
            frame.pts, frame.time_base = stamp, unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
