"""Clips that stay decoded in the memory of the device, for `benchmarks.science`: real ones, and synthetic ones replaced
while training goes on.

Shapes: F frames of all clips one after another, N clips, B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import functools
import math
import time
from concurrent.futures import Executor, Future, wait
from contextlib import nullcontext
from dataclasses import dataclass, replace
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from finetune.subsets import Ids, LabelledSamples
from videomae.data.shards.reader import ShardReader, read_manifest
from videomae.data.synthetic.config import SyntheticConfig
from videomae.data.synthetic.drawing import draw_clip
from videomae.data.synthetic.motion import MOTIONS
from videomae.data.video.decoding import decode, probe
from videomae.models.encoder import EncoderConfig

_TASK = 8  # clips that a worker draws at a time


@dataclass(frozen=True)
class View:
    """What a model sees of a stored clip."""

    frames: int
    size: int
    spread: bool = False  # one random frame of each of `frames` equal parts, else consecutive frames
    least: float = 0.66  # smallest crop, as a fraction of the short side


class ClipMemory:
    """Equally long uint8 clips of one size on `device`; views of them are cut out there."""

    def __init__(self, clips_NTHWC: Tensor, device: torch.device) -> None:
        self.clips_NTHWC = clips_NTHWC.to(device)

    def __len__(self) -> int:
        return len(self.clips_NTHWC)

    def refresh(self) -> None:
        """Replace clips by newer ones, if there are any."""

    def views(self, index_B: Tensor, view: View, rng: torch.Generator) -> Tensor:
        """Random crops, flips and frames of the clips at `index_B`: video_BCTHW. Nearest pixels, as a copy is cheap."""
        _, length, height, width, _ = self.clips_NTHWC.shape
        count, device = len(index_B), self.clips_NTHWC.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=rng, device=device)

        part = length / view.frames if view.spread else 1.0
        jitter = uniform(count, view.frames) if view.spread else torch.zeros(count, view.frames, device=device)
        start_B1 = (
            torch.zeros(count, 1, device=device) if view.spread else uniform(count, 1) * (length - view.frames + 1)
        )
        steps_T = torch.arange(view.frames, device=device)
        time_BT = (start_B1.floor() + ((steps_T + jitter) * part).floor()).long().clamp(max=length - 1)
        side_B1 = min(height, width) * (view.least + (1 - view.least) * uniform(count, 1))
        grid_S = (torch.arange(view.size, device=device) + 0.5) / view.size
        row_BS = (uniform(count, 1) * (height - side_B1) + side_B1 * grid_S).long()
        column_BS = (uniform(count, 1) * (width - side_B1) + side_B1 * grid_S).long()
        column_BS = torch.where(uniform(count, 1) < 0.5, column_BS.flip(1), column_BS)
        return self._cut(index_B, time_BT, row_BS, column_BS)

    def centre_views(self, index_B: Tensor, view: View, *, number: int) -> Tensor:
        """The centre crops of the clips at `index_B`, from evenly spread frames; `number` shifts the frames."""
        _, length, height, width, _ = self.clips_NTHWC.shape
        side, grid_S = min(height, width), (torch.arange(view.size) + 0.5) / view.size
        time_T = ((torch.arange(view.frames) + 0.5) * length / view.frames).long() + number
        places = (time_T.clamp(max=length - 1), (height - side) / 2 + side * grid_S, (width - side) / 2 + side * grid_S)
        expanded = [place.long().to(index_B.device).expand(len(index_B), -1) for place in places]
        return self._cut(index_B, *expanded)

    def _cut(self, index_B: Tensor, time_BT: Tensor, row_BS: Tensor, column_BS: Tensor) -> Tensor:
        taken_BTHWC = self.clips_NTHWC[
            index_B[:, None, None, None],
            time_BT[:, :, None, None],
            row_BS[:, None, :, None],
            column_BS[:, None, None, :],
        ]
        return taken_BTHWC.permute(0, 4, 1, 2, 3)


class SyntheticMemory(ClipMemory):
    """Synthetic clips, the oldest of which workers replace while they are used; no clip is drawn twice.

    Workers draw into shared memory. It is copied on a stream of its own, so that training does not wait; a clip that is
    used at that moment may show two.
    """

    def __init__(
        self,
        config: SyntheticConfig,
        pool: Executor,
        *,
        clips: int,
        frames: int,
        size: int,
        device: torch.device,
        pending: int,
    ) -> None:
        """Draw the first `clips` clips, a multiple of eight; `pending` tasks then stay in the `pool`."""
        assert clips % _TASK == 0
        shape = (_TASK, frames, size, size, 3)
        self._memory = SharedMemory(create=True, size=pending * math.prod(shape))
        self._arguments, self._pool = (config, shape, self._memory.name), pool
        self._slots = torch.frombuffer(self._memory.buf, dtype=torch.uint8).view(pending, *shape)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._tasks, self.drawn = 0, 0
        super().__init__(torch.zeros(clips, *shape[1:], dtype=torch.uint8), device)
        self._pending = {slot: self._submit(slot) for slot in range(pending)}
        while self.drawn < clips:
            self.refresh()
            time.sleep(0.01)

    def refresh(self) -> None:
        """Take the clips that are ready, and ask for more."""
        for slot in [slot for slot, task in self._pending.items() if task.done()]:
            self._pending[slot].result()
            place = self.drawn % len(self)
            with torch.cuda.stream(self._stream) if self._stream else nullcontext():
                self.clips_NTHWC[place : place + _TASK].copy_(self._slots[slot])
            self.drawn += _TASK
            self._pending[slot] = self._submit(slot)

    def close(self) -> None:
        """Wait for the tasks that are running, and give the shared memory back."""
        for task in self._pending.values():
            task.cancel()
        wait(self._pending.values())
        self._slots = self._slots.new_zeros(0)
        self._memory.close()
        self._memory.unlink()

    def _submit(self, slot: int) -> Future[None]:
        self._tasks += 1
        return self._pool.submit(draw_task, *self._arguments, self._tasks, slot)


def draw_task(config: SyntheticConfig, shape: tuple[int, ...], memory: str, task: int, slot: int) -> None:
    """Draw the clips of a task into a slot of the shared memory."""
    rng = np.random.default_rng([20260, task])
    offset = slot * math.prod(shape)
    clips_NTHWC = np.ndarray(shape, np.uint8, _attached(memory).buf, offset)
    for clip_THWC in clips_NTHWC:
        draw_clip(config, rng, frames=shape[1], size=shape[2], out=clip_THWC)


@functools.cache
def _attached(memory: str) -> SharedMemory:
    return SharedMemory(memory)


def labelled_motions(config: SyntheticConfig, per_class: int, seed: int, *, frames: int, size: int) -> ClipMemory:
    """Clips of the eight single motions, class after class, on the host."""
    rng = np.random.default_rng([20261, seed])
    clips = [
        draw_clip(config, rng, frames=frames, size=size, motion=motion) for _ in range(per_class) for motion in MOTIONS
    ]
    return ClipMemory(torch.from_numpy(np.stack(clips)), torch.device("cpu"))


def read_clip(data: bytes, frames: int, height: int, width: int) -> np.ndarray:
    """Decode `frames` evenly spread frames and resize them, without keeping their aspect: frames_THWC."""
    total = probe(data).frames
    index_T = ((np.arange(frames) + 0.5) * total / frames).astype(int)
    frames_TCHW = torch.nn.functional.interpolate(
        torch.from_numpy(decode(data, index_T)).permute(0, 3, 1, 2).float(),
        (height, width),
        mode="bilinear",
        antialias=True,
    )
    return frames_TCHW.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


@dataclass(frozen=True)
class RealClips:
    """A labelled split, decoded on the host: clips at 4:3, a seventh larger than the model's frames, twice as many."""

    clips_NTHWC: Tensor
    samples: LabelledSamples

    @classmethod
    def read(cls, split: Path, pool: Executor, *, encoder: EncoderConfig, most: int | None) -> RealClips:
        """Decode a split of shards; `most` limits each class."""
        manifest = read_manifest(split)
        samples, reader = LabelledSamples.read(manifest), ShardReader(manifest)
        ids = np.concatenate(
            [np.flatnonzero(samples.labels_S == label)[:most] for label in range(len(samples.classes))]
        )
        height = encoder.size * 8 // 7
        shape = (2 * encoder.frames, height, height * 4 // 3)
        tasks = [pool.submit(read_clip, reader.read(int(sample)).video, *shape) for sample in ids]
        return cls(torch.from_numpy(np.stack([task.result() for task in tasks])), select(samples, ids))

    def memory(self, device: torch.device) -> ClipMemory:
        return ClipMemory(self.clips_NTHWC, device)


def select(samples: LabelledSamples, ids: Ids) -> LabelledSamples:
    """Those of `ids` alone."""
    parts = {name: tuple(getattr(samples, name)[sample] for sample in ids) for name in ("keys", "groups", "files")}
    return replace(samples, **parts, labels_S=samples.labels_S[ids], sources_S=samples.sources_S[ids])


def every(count: int, batch: int) -> tuple[Tensor, ...]:
    """Return index tensors that go through 0 to `count` in order, `batch` at a time."""
    return torch.arange(count).split(batch)
