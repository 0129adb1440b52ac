"""Synthetic pretraining, own clips, fine-tuning against training from scratch, on one device within minutes.

    bash benchmarks/science.sh OUT --minutes 8 [--device cpu --tiny]

Clips stay decoded in the memory of the device; on CUDA, training is in bfloat16 and blocks are compiled. In order:

- masks and decoder shares compared on synthetic video, each for a short time, by a linear probe of motion with 5 labels
  a class;
- the best one trained for long on synthetic video, then with the real clips as half of each batch;
- fine-tuning on the real clips, from scratch, from the encoder, and a 3D CNN, all for the same time, three seeds each.

Each result is written as it comes; a part that fails does not stop those after it. Decoding and compiling come on top
of the minutes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from benchmarks.science_memory import ClipMemory, SyntheticMemory, labelled_motions, read_split
from benchmarks.science_training import Finetuning, Pretraining, probe_motions
from finetune.models.s3d import S3dConfig
from finetune.models.videomae import VideomaeConfig
from pretrain.autoencoder import DecoderConfig
from pretrain.masking import MaskConfig
from videomae.core.distributed import World
from videomae.core.files import write_atomic, write_json
from videomae.data.synthetic.config import SyntheticConfig
from videomae.models.encoder import EncoderConfig
from videomae.models.weights.export import save_encoder

DATA = Path("../shared/data/surveillance-fights")
TRIAL, SYNTHETIC, OWN, FINETUNE = 0.055, 0.34, 0.14, 0.033  # shares of the time, for 4, 1, 1 and 9 parts
TRIALS = (("tube", 0.9, 0.3), ("random", 0.9, 0.3), ("tube", 0.75, 0.3), ("random", 0.9, 1.0))
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Size:
    """Model, memory and batches."""

    encoder: EncoderConfig
    decoder: DecoderConfig
    batch: int
    finetune_batch: int
    clips: int  # synthetic clips in memory
    tests: int  # labelled motions to test probes on, of each class
    videos: int | None  # of each class and split; None: all
    workers: int


FULL = Size(
    encoder=EncoderConfig(frames=16, size=112, tubelet=2, patch=8, dim=384, depth=12, heads=6),
    decoder=DecoderConfig(dim=192, depth=2, heads=3),
    batch=256,
    finetune_batch=32,
    clips=12_000,  # 7 GB
    tests=50,
    videos=None,
    workers=14,
)
TINY = Size(
    encoder=EncoderConfig(frames=8, size=32, tubelet=2, patch=8, dim=48, depth=2, heads=3),
    decoder=DecoderConfig(dim=24, depth=1, heads=3),
    batch=16,
    finetune_batch=8,
    clips=64,
    tests=10,
    videos=3,
    workers=1,
)


class Science:
    """The parts of the run; each writes its result to `out`."""

    def __init__(self, out: Path, size: Size, device: torch.device, seconds: float) -> None:
        self.out, self.size, self.seconds = out, size, seconds
        self.world = World(rank=0, size=1, local_rank=0, device=device)
        self.trials: list[tuple[dict[str, Any], Pretraining]] = []
        self.rows: list[dict[str, Any]] = []
        self.pool = ProcessPoolExecutor(size.workers, multiprocessing.get_context("spawn"))
        out.mkdir(parents=True, exist_ok=True)
        self._load()

    def _load(self) -> None:
        """Decode the real clips and fill the memory of synthetic ones."""
        encoder, size, began = self.size.encoder, self.size, time.perf_counter()
        self.train, self.test = self._real("train"), self._real("val")
        decoded, shape = time.perf_counter(), {"frames": encoder.frames, "size": encoder.size}
        config = SyntheticConfig(motion="transforming", textures="procedural", objects=(1, 4))
        self.synthetic = SyntheticMemory(
            config, self.pool, clips=size.clips, device=self.world.device, pending=3 * size.workers, **shape
        )
        drawn = size.clips / (time.perf_counter() - decoded)
        single = SyntheticConfig(motion="single")
        self.motions = (
            labelled_motions(single, 5, seed=0, **shape),
            labelled_motions(single, size.tests, seed=1, **shape),
        )
        videos = len(self.train[0]) + len(self.test[0])
        self._write("load", {"videos": videos, "decode_seconds": decoded - began, "drawn_per_s": drawn})

    def _real(self, split: str) -> tuple[ClipMemory, Tensor]:
        encoder, size = self.size.encoder, self.size
        clips_NTHWC, label_N = read_split(
            DATA / split, self.pool, frames=2 * encoder.frames, size=encoder.size * 8 // 7, most=size.videos
        )
        return ClipMemory(clips_NTHWC, self.world.device), label_N.to(self.world.device)

    def trial(self, kind: Any, ratio: float, share: float) -> None:
        """Train one mask and decoder share for a short time."""
        torch.manual_seed(0)
        pretraining = Pretraining(
            self.size.encoder,
            self.size.decoder,
            self.world,
            mask=MaskConfig(kind=kind, ratio=ratio),
            share=share,
            synthetic=self.synthetic,
            real=self.train[0],
        )
        result = self._pretrain(f"trial-{kind}-{ratio}-{share}", pretraining, TRIAL)
        self.trials.append((result, pretraining))

    def pretrain(self) -> None:
        """Go on with the best trial: synthetic video, then real clips as half of each batch; export the encoder."""
        _, best = max(self.trials, key=lambda trial: trial[0]["probe"])
        self.trials = []  # frees the others
        self._pretrain("synthetic", best, SYNTHETIC, decay=0.0)
        self._save(best, "encoder-synthetic")
        self._pretrain("own", best, OWN, own=0.5, decay=0.5)
        self._save(best, "encoder")

    def _pretrain(self, name: str, pretraining: Pretraining, share: float, **settings: float) -> dict[str, Any]:
        found = pretraining.run(share * self.seconds, batch=self.size.batch, **settings)
        found["probe"] = probe_motions(pretraining.model.encoder, *self.motions, self.world.device)
        return self._write(name, found)

    def _save(self, pretraining: Pretraining, folder: str) -> None:
        state = pretraining.model.encoder.state_dict()
        save_encoder(state, self.size.encoder, self.out / folder, {"run": folder, "clips": pretraining.clips})

    def finetune(self, title: str, config: Any, seed: int, layer_decay: float) -> None:
        """Train and test a classifier on the real clips."""
        finetuning = Finetuning(self.world, self.train, self.test)
        seconds, batch = FINETUNE * self.seconds, self.size.finetune_batch
        found = finetuning.run(config, seed=seed, seconds=seconds, batch=batch, layer_decay=layer_decay)
        self.rows.append(self._write(f"finetune-{title}-{seed}", {"title": title, **found}))

    def run(self) -> None:
        """Run all parts in order."""
        for kind, ratio, share in TRIALS:
            self._part(lambda kind=kind, ratio=ratio, share=share: self.trial(kind, ratio, share))
        self._part(self.pretrain)
        self.synthetic.close()
        self.pool.shutdown()
        encoder = self.size.encoder
        models: dict[str, tuple[Any, float]] = {
            "3d-cnn": (S3dConfig(frames=encoder.frames, size=encoder.size), 1.0),
            "videomae-scratch": (VideomaeConfig(encoder=encoder, drop_path=0.1), 1.0),
            "videomae-pretrained": (lambda: VideomaeConfig(weights=str(self.out / "encoder"), drop_path=0.1), 0.75),
        }
        for seed in SEEDS:
            for title, (config, decay) in models.items():
                make: Callable[[], Any] = config if callable(config) else lambda config=config: config
                self._part(
                    lambda title=title, make=make, seed=seed, decay=decay: self.finetune(title, make(), seed, decay)
                )

    def _part(self, part: Callable[[], object]) -> None:
        try:
            part()
        except Exception:  # of any kind: the next part may still give its result
            traceback.print_exc()

    def table(self) -> str:
        """The accuracies on the real clips, one line a model."""
        lines = ["| model | accuracy, three seeds | mean |", "|---|---|---|"]
        for title in dict.fromkeys(row["title"] for row in self.rows):
            found = [row["accuracy"] for row in self.rows if row["title"] == title]
            lines.append(
                f"| {title} | {', '.join(f'{100 * one:.1f} %' for one in found)} | {100 * mean(found):.1f} % |"
            )
        return "\n".join(lines) + "\n"

    def _write(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        write_json(self.out / f"{name}.json", values)
        sys.stderr.write(f"{name}: {json.dumps(values)}\n")
        return values


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.science", description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--minutes", type=float, default=8.0, help="of training, in all")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="a rehearsal: a small model, few clips")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; type --device cpu --tiny to rehearse")
    if not DATA.is_dir():
        parser.error(f"no clips at {DATA}")
    science = Science(given.out, TINY if given.tiny else FULL, torch.device(given.device), 60 * given.minutes)
    science.run()
    write_atomic(given.out / "table.md", science.table())
    sys.stdout.write(science.table())
    return 0 if len(science.rows) == 9 else 1


if __name__ == "__main__":
    sys.exit(main())
