"""Which frames of a video make a clip: dense, uniform segments, multi-view. Pure functions of counts and a generator.

Every function returns int64 indices into [0, total). A video shorter than asked for repeats frames instead of failing;
random choices come only from the generator that is passed in, and without one the middle is taken.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from videomae.core.errors import UserError

Indices = npt.NDArray[np.int64]


def uniform_segments(total: int, frames: int, rng: np.random.Generator | None) -> Indices:
    """One frame from each of `frames` equal segments (TSN, Wang et al. 2016): random or its middle. Shape (frames,)."""
    _check(total, frames)
    inside = np.full(frames, 0.5) if rng is None else rng.random(frames)
    places = (np.arange(frames) + inside) * (total / frames)
    return np.minimum(places.astype(np.int64), total - 1)


def dense(total: int, frames: int, stride: int, rng: np.random.Generator | None) -> Indices:
    """`frames` frames, `stride` apart, from a random start (VideoMAE, Tong et al. 2022) or central. Shape (frames,).

    A video too short for the stride is covered whole by a smaller, fractional one.
    """
    _check(total, frames)
    if stride < 1:
        raise UserError(f"stride must be at least 1, got {stride}")
    room = total - ((frames - 1) * stride + 1)
    if room < 0:
        return _spread(total, frames)
    start = room // 2 if rng is None else int(rng.integers(room + 1))
    return start + stride * np.arange(frames, dtype=np.int64)


def multi_view(total: int, frames: int, stride: int | None, clips: int) -> Indices:
    """`clips` clips evenly placed over the video, for testing. Shape (clips, frames).

    With a stride, dense clips from the first possible start to the last; without one, uniform segments shifted by a
    fraction of a segment from clip to clip.
    """
    _check(total, frames)
    if clips < 1:
        raise UserError(f"clips must be at least 1, got {clips}")
    if stride is None:
        inside = (np.arange(clips)[:, None] + 0.5) / clips
        places = (np.arange(frames)[None, :] + inside) * (total / frames)
        return np.minimum(places.astype(np.int64), total - 1)
    room = total - ((frames - 1) * stride + 1)
    if room < 0:
        return np.tile(_spread(total, frames), (clips, 1))
    starts = np.array([room // 2]) if clips == 1 else np.round(np.linspace(0, room, clips)).astype(np.int64)
    return starts[:, None] + stride * np.arange(frames, dtype=np.int64)[None, :]


def _spread(total: int, frames: int) -> Indices:
    return np.round(np.linspace(0, total - 1, frames)).astype(np.int64)


def _check(total: int, frames: int) -> None:
    if total < 1 or frames < 1:
        raise UserError(f"need at least one frame to choose from and one to choose, got {total} and {frames}")
