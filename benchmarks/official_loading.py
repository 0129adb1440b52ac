"""How the official VideoMAE loads its pretraining data, written anew from its description, to measure against.

A map-style data set over video files: decord opens a file and returns the sampled frames, which become PIL images, are
cut by TSN's multi-scale crop, resized by PIL, and made a normalised float tensor on the CPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from videomae.data.transforms.augment import IMAGENET_MEAN, IMAGENET_STD, multi_scale_box
from videomae.data.transforms.frame_sampling import uniform_segments


class OfficialWay(Dataset[Tensor]):
    """Item (number) -> float clip_CTHW, normalised. Needs decord, which the extra `bench` installs."""

    def __init__(self, files: Sequence[Path], *, frames: int, size: int) -> None:
        self._files, self._frames, self._size = files, frames, size
        self._decord = None

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> Tensor:
        self._decord = self._decord or importlib.import_module("decord")
        rng = np.random.default_rng(number)
        reader = self._decord.VideoReader(str(self._files[number % len(self._files)]), num_threads=1)
        index_T = uniform_segments(len(reader), self._frames, rng)
        images = [Image.fromarray(frame).convert("RGB") for frame in reader.get_batch(index_T.tolist()).asnumpy()]
        box = multi_scale_box(images[0].height, images[0].width, rng)
        corners = (box.left, box.top, box.left + box.width, box.top + box.height)
        images = [image.crop(corners).resize((self._size, self._size), Image.Resampling.BILINEAR) for image in images]
        stacked_HWN = torch.from_numpy(np.concatenate([np.asarray(image) for image in images], axis=2))
        clip_TCHW = stacked_HWN.permute(2, 0, 1).contiguous().float().div(255).unflatten(0, (self._frames, 3))
        mean_C11, std_C11 = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        return ((clip_TCHW - mean_C11) / std_C11).transpose(0, 1)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_decord": None}
