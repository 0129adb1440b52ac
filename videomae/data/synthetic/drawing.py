"""Draw a synthetic clip: textured objects that move over a still, textured background.

A clip depends on nothing but the generator. Each object is drawn once, as a sprite, which an affine map puts into every
frame; only the box around it is touched. The frame is a torus: what leaves it on one side comes in on the other.

Pixels are worked on as 32-bit words of four channels, two channels an operation, and as many frames at a time as stay
in the processor's cache. Shapes: T frames, H height, W width, C channels (RGB), N side of the box round an object.
"""

from __future__ import annotations

import functools
import statistics
from dataclasses import dataclass
from math import ceil
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from videomae.data.synthetic.config import SyntheticConfig
from videomae.data.synthetic.motion import Motion, Track, draw_track
from videomae.data.synthetic.shapes import EXTENT, outlines, sprite
from videomae.data.synthetic.textures import BACKGROUND, OBJECT, texture

Words = NDArray[np.uint32]

cv2.setNumThreads(1)  # a worker is one process a core, and a pool of threads that was forked with it would hang

_CHUNK = 1 << 15  # pixels that are worked on at a time
_FULL_DETAIL = 64  # pixels; on larger frames the finest detail of textures is two pixels wide
_EVEN, _ODD = np.uint32(0x00FF00FF), np.uint32(0xFF00FF00)
_GRAINS = 1 << 22  # pixels of sensor noise that are kept ready


@dataclass(frozen=True, kw_only=True)
class _Object:
    """A sprite, and at every frame the map from pixels to those of the sprite, the centre and the reach in pixels."""

    sprite_RR4: NDArray[np.uint8]
    map_T22: NDArray[np.float64]
    centre_T2: NDArray[np.float64]
    reach_T: NDArray[np.float64]


def draw_clip(
    config: SyntheticConfig,
    rng: np.random.Generator,
    *,
    frames: int,
    size: int,
    motion: Motion | None = None,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Draw frames_THWC (uint8 RGB), `size` pixels square, into `out` if given.

    With config.motion=single every object performs `motion`, or one that is drawn for it.
    """
    background_HW = _background(config, rng, size)
    objects = [
        _object(config, rng, draw_track(rng, config, frames=frames, motion=motion), size)
        for _ in range(int(rng.integers(*config.objects, endpoint=True)))
    ]
    grain = int(rng.integers(_GRAINS))
    frames_THWC = np.empty((frames, size, size, 3), np.uint8) if out is None else out
    step = max(1, _CHUNK // size**2)
    canvas_THW = np.empty((min(step, frames), size, size), np.uint32)
    for start in range(0, frames, step):
        part_THW = canvas_THW[: min(step, frames - start)]
        part_THW[:] = background_HW
        for item in objects:
            _paint(part_THW, item, start)
        if config.noise:
            _add_grain(part_THW, grain + start * size**2, config.noise)
        rows = len(part_THW) * size
        picture_HWC = frames_THWC[start : start + step].reshape(rows, size, 3)
        cv2.cvtColor(part_THW.view(np.uint8).reshape(rows, size, 4), cv2.COLOR_RGBA2RGB, dst=picture_HWC)
    return frames_THWC


def _background(config: SyntheticConfig, rng: np.random.Generator, size: int) -> Words:
    detail = size if size <= _FULL_DETAIL else ceil(size / 2)
    picture_HWC = texture(config, rng, BACKGROUND, detail)
    if detail < size:
        picture_HWC = cv2.resize(picture_HWC, (size, size), interpolation=cv2.INTER_LINEAR)
    return cv2.cvtColor(picture_HWC, cv2.COLOR_RGB2RGBA).view(np.uint32)[..., 0]


def _object(config: SyntheticConfig, rng: np.random.Generator, track: Track, size: int) -> _Object:
    shapes, half = outlines(), size / 2
    outline = shapes[0 if config.shapes == "circles" else int(rng.integers(len(shapes)))]
    side = max(8, round(EXTENT * size * float(track.radius_T[len(track.radius_T) // 2])))
    scale_T = side / (2 * EXTENT * half) / track.radius_T
    cosine_T, sine_T = scale_T * np.cos(track.angle_T), scale_T * np.sin(track.angle_T)
    map_T22 = np.empty((len(scale_T), 2, 2))
    map_T22[:, 1, 0], map_T22[:, 1, 1] = -sine_T, cosine_T
    map_T22[:, 0, 0] = cosine_T - track.shear_T * sine_T
    map_T22[:, 0, 1] = sine_T + track.shear_T * cosine_T
    return _Object(
        sprite_RR4=sprite(outline, texture(config, rng, OBJECT, min(side, ceil(half))), side),
        map_T22=map_T22,
        centre_T2=np.stack([track.x_T + 1, track.y_T + 1], axis=1) * half - 0.5,
        reach_T=EXTENT * half * track.radius_T * (1 + np.abs(track.shear_T)),
    )


def _paint(canvas_THW: Words, item: _Object, start: int) -> None:
    """Blend an object into frames of the clip, of which the first is number `start`."""
    frames, size = canvas_THW.shape[:2]
    part = slice(start, start + frames)
    box = min(size, 2 * ceil(item.reach_T[part].max()) + 2)
    centre_T2 = item.centre_T2[part]
    corner_T2 = np.floor(centre_T2 - (box - 1) / 2).astype(np.int64)
    layer_TNN = np.empty((frames, box, box), np.uint32)
    layer_TNN4 = layer_TNN.view(np.uint8).reshape(frames, box, box, 4)
    map_T22 = item.map_T22[part]
    shift_T21 = (len(item.sprite_RR4) - 1) / 2 - map_T22 @ (centre_T2 - corner_T2)[..., None]
    for frame_NN4, map_23 in zip(layer_TNN4, np.concatenate([map_T22, shift_T21], axis=2), strict=True):
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cv2.warpAffine(item.sprite_RR4, map_23, (box, box), dst=frame_NN4, flags=flags)
    columns_TN = (corner_T2[:, :1] + np.arange(box)) % size
    rows_TN = (corner_T2[:, 1:] + np.arange(box)) % size + size * np.arange(frames)[:, None]
    places_TNN = rows_TN[:, :, None] * size + columns_TN[:, None, :]
    flat = canvas_THW.reshape(-1)
    flat[places_TNN] = _over(layer_TNN, flat.take(places_TNN))


def _over(layer: Words, below: Words) -> Words:
    """Put a layer, whose colours are multiplied by its coverage (the highest byte), over what is below it."""
    through = np.uint32(255) - (layer >> np.uint32(24))
    through += through >> np.uint32(7)  # 0..256, so that dividing by 256 keeps what is not covered
    even = below & _EVEN
    even *= through
    even >>= np.uint32(8)
    even &= _EVEN
    odd = (below >> np.uint32(8)) & _EVEN
    odd *= through
    odd &= _ODD
    even += odd
    even += layer
    return even


def _add_grain(canvas_THW: Words, start: int, deviation: float) -> None:
    """Add sensor noise: as many of the grains that are kept ready as there are pixels, from number `start` on."""
    grains, flat = _grains(deviation), canvas_THW.reshape(-1)
    for first in range(0, len(flat), _GRAINS):
        place = (start + first) % _GRAINS
        part = flat[first : first + _GRAINS]
        until_end = min(len(part), _GRAINS - place)
        part[:until_end] += grains[place : place + until_end]
        part[until_end:] += grains[: len(part) - until_end]


@functools.lru_cache(maxsize=4)
def _grains(deviation: float) -> Words:
    """The words that add one normally distributed step to R, G and B of a pixel.

    A clip takes a random stretch of them: too many to memorise, and sixteen times as fast as drawing them.
    """
    normal = statistics.NormalDist(0, deviation)
    steps = np.rint([normal.inv_cdf((byte + 0.5) / 256) for byte in range(256)]).astype(np.int32) * 0x010101
    drawn = np.random.default_rng(0).integers(0, 256, _GRAINS, np.uint8)
    return cast(NDArray[np.int32], steps.take(drawn)).view(np.uint32)
