"""Choose the frames of a clip: uniform segments, dense, or multi-view for evaluation.

All functions return int64 indices in [0, total), a pure function of the counts and the generator. A video that is too
short gives repeated frames. Without a generator, the choice is central instead of random.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def uniform_segments(total: int, frames: int, rng: np.random.Generator | None) -> Indices:
    """One frame from each of `frames` equal segments (TSN, Wang et al. 2016), random or central. Shape (frames,)."""
    _check(total, frames)
    offset_T = np.full(frames, 0.5) if rng is None else rng.random(frames)
    position_T = (np.arange(frames) + offset_T) * (total / frames)
    return np.minimum(position_T.astype(np.int64), total - 1)


def dense_clip(total: int, frames: int, stride: int, rng: np.random.Generator | None) -> Indices:
    """`frames` frames `stride` apart, from a random start (VideoMAE, Tong et al. 2022) or central. Shape (frames,).

    A video too short for the stride is covered evenly from its first frame to its last.
    """
    _check(total, frames)
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")
    slack = total - ((frames - 1) * stride + 1)
    if slack < 0:
        return _evenly_spaced(total, frames)
    start = slack // 2 if rng is None else int(rng.integers(slack + 1))
    return start + stride * np.arange(frames, dtype=np.int64)


def multi_view_clips(total: int, frames: int, stride: int | None, clips: int) -> Indices:
    """`clips` clips evenly spaced over the video, for evaluation. Shape (clips, frames).

    With a stride, the clips are dense and their starts span the video; without one, each clip takes another offset
    within uniform segments.
    """
    _check(total, frames)
    if clips < 1:
        raise ValueError(f"clips must be at least 1, got {clips}")
    if stride is None:
        offset_N1 = (np.arange(clips)[:, None] + 0.5) / clips
        position_NT = (np.arange(frames)[None, :] + offset_N1) * (total / frames)
        return np.minimum(position_NT.astype(np.int64), total - 1)
    slack = total - ((frames - 1) * stride + 1)
    if slack < 0:
        return np.tile(_evenly_spaced(total, frames), (clips, 1))
    starts = np.array([slack // 2]) if clips == 1 else np.round(np.linspace(0, slack, clips)).astype(np.int64)
    return starts[:, None] + stride * np.arange(frames, dtype=np.int64)[None, :]


def _evenly_spaced(total: int, frames: int) -> Indices:
    return np.round(np.linspace(0, total - 1, frames)).astype(np.int64)


def _check(total: int, frames: int) -> None:
    if total < 1 or frames < 1:
        raise ValueError(f"a clip needs at least one frame, got {frames} frames of a video of {total}")
