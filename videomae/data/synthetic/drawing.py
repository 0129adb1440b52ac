"""Draw a synthetic clip: textured objects that move over a still, textured background.

A clip depends on nothing but the generator. Each object is drawn once, as a sprite, which an affine map puts into every
frame; only the box around it is touched. The frame is a torus: what leaves it on one side comes in on the other.

Pixels are worked on as 32-bit words of four channels, two channels an operation. Shapes: T frames, H height, W width,
C channels (RGB), N side of the box round an object. `size` is the side of the frame in pixels.
"""

from __future__ import annotations

import functools
import statistics
from dataclasses import replace
from math import ceil
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from videomae.data.synthetic.appearance import EXTENT, TextureRange, outlines, sprite, texture
from videomae.data.synthetic.config import SyntheticConfig
from videomae.data.synthetic.motion import MOTIONS, Motion, Track, draw_track

Words = NDArray[np.uint32]

_BACKGROUND = TextureRange(tint=(64, 191), contrast=15.0, coarse=1.5)
_OBJECT = TextureRange(tint=(51, 204), contrast=20.0, coarse=1.15)
_TEXTURE_SIDE = 16  # of an object's texture at 32 pixels
_EVEN, _ODD = np.uint32(0x00FF00FF), np.uint32(0xFF00FF00)


def draw_clip(
    config: SyntheticConfig,
    rng: np.random.Generator,
    *,
    frames: int,
    size: int,
    motion: Motion | None = None,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Draw frames_THWC (uint8 RGB), into `out` if given; every object performs `motion`, or one that is drawn."""
    canvas_THW = np.empty((frames, size, size), np.uint32)
    canvas_THW[:] = _background(config, rng, size)
    fewest, most = config.objects
    for _ in range(int(rng.integers(fewest, most, endpoint=True))):
        own = motion or MOTIONS[int(rng.integers(len(MOTIONS)))]
        track = draw_track(rng, None if config.motion == "still" else own, frames=frames)
        _paint(canvas_THW, _sprite(config, rng, track, size), track)
    if config.noise:
        grain = rng.integers(0, 256, canvas_THW.size, np.uint8).reshape(-1, 1)
        canvas_THW += cv2.LUT(grain, _grain(config.noise)).view(np.uint32).reshape(canvas_THW.shape)
    frames_THWC = np.empty((frames, size, size, 3), np.uint8) if out is None else out
    cv2.cvtColor(
        canvas_THW.view(np.uint8).reshape(frames * size, size, 4),
        cv2.COLOR_RGBA2RGB,
        dst=frames_THWC.reshape(frames * size, size, 3),
    )
    return frames_THWC


def _background(config: SyntheticConfig, rng: np.random.Generator, size: int) -> Words:
    picture_HWC = _texture(config, rng, _BACKGROUND, size)
    opaque_HW4 = cv2.cvtColor(picture_HWC, cv2.COLOR_RGB2RGBA)
    return opaque_HW4.view(np.uint32)[..., 0]


def _texture(
    config: SyntheticConfig, rng: np.random.Generator, drawn_from: TextureRange, size: int
) -> NDArray[np.uint8]:
    plain = replace(drawn_from, contrast=0.0)
    margin = 1 + ceil(3 * config.noise)  # the noise must not leave the range: a carry would change another channel
    return texture(rng, size, plain if config.textures == "plain" else drawn_from, margin=margin)


def _sprite(config: SyntheticConfig, rng: np.random.Generator, track: Track, size: int) -> NDArray[np.uint8]:
    shapes = outlines()
    outline = shapes[0 if config.shapes == "circles" else int(rng.integers(len(shapes)))]
    side = max(8, round(EXTENT * size * track.radius_T[len(track.radius_T) // 2]))
    pattern_HWC = _texture(config, rng, _OBJECT, _TEXTURE_SIDE)
    return sprite(outline, pattern_HWC, side)


def _paint(canvas_THW: Words, sprite_RR4: NDArray[np.uint8], track: Track) -> None:
    """Blend the sprite into every frame, at the positions of its track."""
    frames, size = canvas_THW.shape[:2]
    half = size / 2
    box = min(size, 2 * ceil(EXTENT * half * track.radius_T.max()) + 2)
    centre_T2 = np.stack([track.x_T + 1, track.y_T + 1], axis=1) * half - 0.5
    corner_T2 = np.floor(centre_T2 - (box - 1) / 2).astype(np.int64)
    layer_TNN = np.empty((frames, box, box), np.uint32)
    maps_T23 = _maps(track, centre_T2 - corner_T2, side=len(sprite_RR4), half=half)
    for frame_NN, map_23 in zip(layer_TNN, maps_T23, strict=True):
        cv2.warpAffine(
            sprite_RR4,
            map_23,
            (box, box),
            dst=frame_NN.view(np.uint8).reshape(box, box, 4),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        )
    columns_TN = (corner_T2[:, :1] + np.arange(box)) % size
    rows_TN = (corner_T2[:, 1:] + np.arange(box)) % size + size * np.arange(frames)[:, None]
    places_TNN = rows_TN[:, :, None] * size + columns_TN[:, None, :]
    flat = canvas_THW.reshape(-1)
    flat[places_TNN] = _over(layer_TNN, flat.take(places_TNN))


def _maps(track: Track, centre_T2: NDArray[np.float64], *, side: int, half: float) -> NDArray[np.float64]:
    """The affine maps from the pixels of the boxes to those of the sprite, map_T23."""
    scale_T = side / (2 * EXTENT * half) / track.radius_T
    cosine_T, sine_T = scale_T * np.cos(track.angle_T), scale_T * np.sin(track.angle_T)
    map_T23 = np.empty((len(scale_T), 2, 3))
    map_T23[:, 0, 0], map_T23[:, 0, 1] = cosine_T, sine_T
    map_T23[:, 1, 0], map_T23[:, 1, 1] = -sine_T, cosine_T
    map_T23[:, :, 2] = (side - 1) / 2 - np.einsum("tij,tj->ti", map_T23[:, :, :2], centre_T2)
    return map_T23


def _over(layer: Words, below: Words) -> Words:
    """Put a layer, whose colours are multiplied by its coverage (the highest byte), over what is below it."""
    through = np.uint32(255) - (layer >> np.uint32(24))
    through += through >> np.uint32(7)  # 0..256, so that dividing by 256 keeps what is not covered
    even = (((below & _EVEN) * through) >> np.uint32(8)) & _EVEN
    odd = ((below >> np.uint32(8)) & _EVEN) * through & _ODD
    return even + odd + layer


@functools.lru_cache(maxsize=8)
def _grain(deviation: float) -> NDArray[np.int32]:
    """The word that each of 256 equally likely bytes adds to a pixel: one normally distributed step in R, G and B."""
    normal = statistics.NormalDist(0, deviation)
    steps = np.rint([normal.inv_cdf((byte + 0.5) / 256) for byte in range(256)]).astype(np.int32)
    return cast(NDArray[np.int32], steps * 0x010101)
