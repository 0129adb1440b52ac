"""How fast synthetic clips are drawn on one core, and how much of a labelled motion one frame gives away.

Speed: clips a CPU second by stage and size, medians over interleaved rounds, drawn as the loader's workers do.
`--single-frame N`: a small CNN is trained on one frame each of N clips, which were encoded in H.264 and decoded again,
and judged on a quarter as many others. The same CNN on eight frames, stacked as channels, shows what it can learn.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from videomae.command import guarded
from videomae.core import progress
from videomae.core.errors import UserError
from videomae.data.loader.workers import tune_malloc
from videomae.data.order.permutation import generator
from videomae.data.synthetic.config import SyntheticConfig
from videomae.data.synthetic.drawing import draw_clip
from videomae.data.synthetic.synthesize import CLASSES, ClipSpec, LabelledConfig, encode_clip
from videomae.data.transforms.augment import resize
from videomae.data.video import decode

SIZES = ((8, 32), (16, 64), (16, 112), (16, 224))  # frames, pixels
_MANY: dict[str, Any] = {"objects": (2, 6), "radius": (0.1, 0.4)}
STAGES = {
    "single motions (default)": SyntheticConfig(),
    "static circles": SyntheticConfig(shapes="circles", motion="still", textures="plain", **_MANY),
    "moving circles": SyntheticConfig(shapes="circles", motion="constant", textures="plain", **_MANY),
    "moving shapes": SyntheticConfig(motion="constant", textures="plain", **_MANY),
    "accelerating, transforming": SyntheticConfig(motion="transforming", textures="plain", **_MANY),
    "the same with textures": SyntheticConfig(motion="transforming", textures="procedural", **_MANY),
}
_SECONDS = 0.25  # of drawing, in one round of one stage and size
_PIXELS, _EPOCHS, _BATCH = 32, 12, 64


def draw_speeds(*, rounds: int) -> dict[str, dict[str, float]]:
    """Clips a CPU second by stage and size."""
    tune_malloc()
    found: dict[str, dict[str, list[float]]] = {
        stage: {f"{frames}x{size}x{size}": [] for frames, size in SIZES} for stage in STAGES
    }
    for number in range(rounds):
        for stage, config in STAGES.items():
            for frames, size in SIZES:
                speed = _draw_for(config, frames, size, first=number << 20)
                found[stage][f"{frames}x{size}x{size}"].append(speed)
    return {stage: {size: statistics.median(each) for size, each in sizes.items()} for stage, sizes in found.items()}


def _draw_for(config: SyntheticConfig, frames: int, size: int, *, first: int) -> float:
    memory_THWC = np.empty((frames, size, size, 3), np.uint8)
    clips, spent = 0, 0.0
    while spent < _SECONDS:
        rng = generator(key=(0, 0), counter=(first + clips, 0, 0))
        start = time.process_time()
        draw_clip(config, rng, frames=frames, size=size, out=memory_THWC)
        spent += time.process_time() - start
        clips += 1
    return clips / spent


def single_frame(clips: int) -> dict[str, float]:
    """The accuracy of a CNN that sees one frame of a clip, by frame, and that of one that sees eight."""
    torch.manual_seed(0)
    videos_NTCHW, label_N = _encoded(clips + clips // 4)
    last = videos_NTCHW.shape[1] - 1
    seen = {"first frame": [0], "middle frame": [last // 2], "last frame": [last], "eight frames": range(0, last, 2)}
    return {
        name: _accuracy(videos_NTCHW[:, list(frames)].flatten(1, 2), label_N, train=clips)
        for name, frames in seen.items()
    }


def _encoded(clips: int) -> tuple[Tensor, Tensor]:
    """Clips as `videomae shards synthesize` writes them, decoded and shrunk: videos_NTCHW, label_N."""
    config = LabelledConfig(train=8, val=8)
    videos = []
    with progress.track("Encoding", total=clips) as task:
        for number in range(clips):
            spec = ClipSpec(split="train", class_name=CLASSES[number % len(CLASSES)], group=number)
            frames_THWC = decode(encode_clip(spec, config), np.arange(16))
            videos.append(resize(frames_THWC, _PIXELS))
            task.advance()
    return torch.stack(videos), torch.arange(clips) % len(CLASSES)


def _accuracy(frames_NCHW: Tensor, label_N: Tensor, *, train: int) -> float:
    channels = frames_NCHW.shape[1]
    widths = (channels, 32, 64, 128)
    layers = [
        nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU())
        for before, after in itertools.pairwise(widths)
    ]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * widths[-1], len(CLASSES)))
    steps = _EPOCHS * (train // _BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for _ in range(_EPOCHS):
        for chosen in torch.randperm(train)[: train // _BATCH * _BATCH].split(_BATCH):
            loss = functional.cross_entropy(model(frames_NCHW[chosen] / 255 - 0.5), label_N[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        guesses = torch.cat([model(part / 255 - 0.5).argmax(1) for part in frames_NCHW[train:].split(256)])
    return (guesses == label_N[train:]).float().mean().item()


def _table(result: dict[str, Any]) -> list[str]:
    sizes = [f"{frames}x{size}x{size}" for frames, size in SIZES]
    lines = [f"{'clips a CPU second':28}" + "".join(f"{size:>14}" for size in sizes)]
    for stage, speeds in result["speed"].items():
        lines.append(f"{stage:28}" + "".join(f"{speeds[size]:14.0f}" for size in sizes))
    for name, accuracy in result["single_frame"].items():
        lines.append(f"{name + ', accuracy':28}{accuracy:14.1%}")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.synthetic", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--single-frame", type=int, default=0, metavar="N", help="clips to train the CNN on; 0: none")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args(arguments)

    def act() -> None:
        if given.rounds < 1:
            raise UserError(f"--rounds must be at least 1, got {given.rounds}")
        if given.single_frame and given.single_frame < 8 * _BATCH:
            raise UserError(f"--single-frame needs {8 * _BATCH} clips or more, got {given.single_frame}")
        result: dict[str, Any] = {
            "speed": draw_speeds(rounds=given.rounds),
            "single_frame": single_frame(given.single_frame) if given.single_frame else {},
        }
        print(json.dumps(result) if given.json else "\n".join(_table(result)))

    return guarded(act)


if __name__ == "__main__":
    sys.exit(main())
