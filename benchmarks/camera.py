"""`python -m benchmarks.camera [--windows 10000] [--cuts 4] [--json]`: watch a camera that is cut and restored.

The RTSP camera of the tests sends pictures that show their own number, faster than a real camera. A small classifier
scores its windows as `videomae predict` does, the connection is cut again and again, and each picture is looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from finetune.export import TrainedClassifier
from finetune.models import build
from finetune.models.examples import ExampleConfig
from finetune.predict import Classifier
from finetune.predict.live import CameraReader, LiveConfig, LiveScore, Loss, predict_live
from finetune.predict.windows import WindowConfig
from finetune.stored_clips import StoredClips
from tests.rtsp import HEIGHT, Camera, number_of
from videomae.data.video import Picture

FPS = 100
LENGTH = 8  # pictures of a window; one window ends with each picture
_DEADLINE = 3600.0  # seconds, after which the watching ends with fewer windows


@dataclass
class Watched:
    """What came of watching; the delay in seconds, memory in bytes."""

    windows: int = 0  # complete ones
    scored: int = 0  # the newest whenever the model was free
    losses: int = 0
    pictures: int = 0
    repeated: int = 0  # pictures that show the number of the one before
    invented: int = 0  # pictures that go back, or that the camera has not sent
    spanning: int = 0  # scored windows that last longer than their pictures
    longest_delay: float = 0.0  # from the arrival of a window's last picture to its score
    memory_after_a_fifth: int = 0
    memory_at_the_end: int = 0
    last: int = -1  # number of the newest picture

    def see(self, picture: Picture, camera: Camera) -> None:
        number = number_of(picture.frame_HWC)
        self.pictures += 1
        self.repeated += number == self.last
        self.invented += number < self.last or number > camera.sent
        self.last = number

    def add(self, event: LiveScore) -> None:
        self.scored += 1
        self.windows = self.scored + event.dropped
        self.spanning += event.score.end - event.score.start > (LENGTH + 0.5) / FPS
        self.longest_delay = max(self.longest_delay, event.behind)


def watch(windows: int, *, cuts: int) -> Watched:
    """Watch until so many windows are complete, and cut the connection at equal distances."""
    found, quick = Watched(), LiveConfig(timeout=5, backoff=(0.2, 0.5))
    config = WindowConfig(fps=FPS, length=LENGTH, hop=1, clips=1, crops=1)
    deadline = time.monotonic() + _DEADLINE
    with Camera(fps=FPS) as camera:
        model = _classifier()
        reader = CameraReader(
            camera.address, config, model, quick, on_picture=lambda picture: found.see(picture, camera)
        )
        connected, made = True, 0
        for event in predict_live(
            model, reader, stopped=lambda: found.windows >= windows or time.monotonic() > deadline
        ):
            if isinstance(event, Loss):
                found.losses += 1
                camera.restore()
                connected = True
                continue
            found.add(event)
            if connected and made < cuts and found.windows >= windows * (made + 1) // (cuts + 1):
                camera.cut()
                connected, made = False, made + 1
            if not found.memory_after_a_fifth and found.windows >= windows // 5:
                found.memory_after_a_fifth = _resident_bytes()
        found.memory_at_the_end = _resident_bytes()
    return found


def _classifier() -> Classifier:
    config = ExampleConfig(frames=4, size=16)
    stored = StoredClips(fps=FPS, seconds=LENGTH / FPS, longest=1.0, short_side=HEIGHT)
    torch.manual_seed(0)
    trained = TrainedClassifier(build(config, 2).eval(), config, ("Calm", "Fight"), stored)
    return Classifier(trained, device=torch.device("cpu"))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.camera", description="Watch a camera that is cut.")
    parser.add_argument("--windows", type=int, default=10_000)
    parser.add_argument("--cuts", type=int, default=4)
    parser.add_argument("--json", action="store_true", help="print the result as JSON, alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    values = asdict(watch(given.windows, cuts=given.cuts))
    if given.json:
        sys.stdout.write(json.dumps(values) + "\n")
        return
    for name, value in values.items():
        sys.stdout.write(f"{name.replace('_', ' '):>24}  {value:,}\n")


if __name__ == "__main__":
    main()
