"""Sliding windows over a stream of pictures: the model's clip, moved along a long video or a camera.

Shapes: V views (clips x crops), T frames, C channels, H height, W width.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.models.interface import ModelInput
from finetune.stored_clips import StoredClips
from videomae.core.errors import UserError
from videomae.data.transforms.augment import uniform_crops
from videomae.data.transforms.frame_sampling import multi_view_clips
from videomae.data.video import Picture


@dataclass(frozen=True)
class WindowConfig:
    """Length and distance of the windows in pictures at `fps`, and the views of each."""

    fps: float
    length: int
    hop: int
    clips: int
    crops: int

    @property
    def seconds(self) -> float:
        return self.length / self.fps

    def count(self, pictures: int) -> int:
        """The number of windows over so many pictures; the last one ends with the last picture."""
        return 1 if pictures <= self.length else 1 + -(-(pictures - self.length) // self.hop)


def window_config(
    input: ModelInput, stored: StoredClips, *, seconds: float | None = None, hop: float | None = None
) -> WindowConfig:
    """Return the windows of a model: as long as its training clips, half a window apart, unless given in seconds.

    Raises:
        UserError: the window or the distance is not positive, or the distance exceeds the window.
    """
    length = stored.window_seconds(input) if seconds is None else seconds
    step = length / 2 if hop is None else hop
    if not 0 < step <= length:
        raise UserError(
            f"got a window of {length:g} s every {step:g} s; wanted 0 < hop <= window: give --window, --hop"
        )
    pictures = max(1, round(length * stored.fps))
    dense = input.frame_sampling == "clip" and pictures <= (input.frames - 1) * input.stride + 1
    return WindowConfig(
        fps=stored.fps,
        length=pictures,
        hop=min(pictures, max(1, round(step * stored.fps))),
        clips=1 if dense else stored.clips,  # the views of a window as long as the model's clip are all the same
        crops=stored.crops,
    )


@dataclass(frozen=True)
class Window:
    """The views of one stretch of video, uint8 (V, T, C, H, W), and its time in seconds on the clock of the source."""

    views_VTCHW: Tensor
    start: float
    end: float


class SlidingWindows:
    """Collects pictures and returns a window every `hop` pictures; holds the pictures of one window, at model size.

    A window never spans an interruption: the pictures of another segment begin a new window.
    """

    def __init__(self, config: WindowConfig, input: ModelInput) -> None:
        self._config, self._input = config, input
        self._crops: deque[list[Tensor]] = deque(maxlen=config.length)
        self._times: deque[float] = deque(maxlen=config.length)
        self._segment = 0
        self._missing = config.length  # pictures until the next window
        self._new = 0  # pictures since the last window

    def add(self, picture: Picture) -> Window | None:
        """Add a picture; return the window that it completes, if any."""
        if picture.segment != self._segment:
            self._crops.clear()
            self._times.clear()
            self._segment, self._missing, self._new = picture.segment, self._config.length, 0
        crops = uniform_crops(picture.frame_HWC[None], self._input.size, crops=self._config.crops)
        self._crops.append([crop_TCHW[0] for crop_TCHW in crops])
        self._times.append(picture.seconds)
        self._missing, self._new = self._missing - 1, self._new + 1
        return None if self._missing else self._window()

    def rest(self) -> Window | None:
        """Return the window that ends with the last picture, unless `add` has returned it."""
        return self._window() if self._new else None

    def _window(self) -> Window:
        self._missing, self._new = self._config.hop, 0
        stride = None if self._input.frame_sampling == "video" else self._input.stride
        index_NT = multi_view_clips(len(self._crops), self._input.frames, stride, self._config.clips)
        views = [
            torch.stack([self._crops[index][crop] for index in index_T])
            for index_T in index_NT
            for crop in range(self._config.crops)
        ]
        return Window(torch.stack(views), self._times[0], self._times[-1] + 1 / self._config.fps)
