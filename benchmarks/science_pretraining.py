"""The first part of `benchmarks.science`: masked pretraining on synthetic clips, then on real ones too.

Shapes: B batch, H hidden tokens, V visible tokens, U units of a mask.
"""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.science_memory import ClipMemory, RealClips, SyntheticMemory, View, every, labelled_motions
from benchmarks.science_training import Size, make_engine, timed, write_result
from finetune.linear_probe import fit
from finetune.models.probes import StatisticsPool
from pretrain.autoencoder import MaskedAutoencoder
from pretrain.batch import PretrainBatch
from pretrain.masking import MaskConfig, hidden_count
from pretrain.objective import Objective, ObjectiveConfig
from videomae.core.distributed import World
from videomae.data.synthetic.config import SyntheticConfig
from videomae.data.transforms.augment import IMAGENET_MEAN, IMAGENET_STD, normalize
from videomae.engine.optimizer import OptimizerConfig
from videomae.models.encoder import EncoderConfig, VideoEncoder
from videomae.models.weights.export import save_encoder

TRIALS, SYNTHETIC = 0.35, 0.7  # shares of the time that is left: of all trials, then of synthetic clips alone
RESERVE = 3.0  # seconds for the last probe
OWN = 0.5  # share of real clips in the last batches
CLIPS = SyntheticConfig(motion="transforming", textures="procedural", objects=(1, 4))


@dataclass(frozen=True)
class Trial:
    """What is compared; the learning rate is that of any batch size."""

    kind: Any = "random"
    ratio: float = 0.9
    share: float = 0.3  # of the hidden patches that are predicted
    lr: float = 2e-3


COMPARED = (Trial(), Trial("tube"), Trial("tube", 0.75), Trial(lr=1e-3), Trial(share=1.0))


class Pretraining:
    """One masked autoencoder that is trained on synthetic clips, and on real ones."""

    def __init__(self, trial: Trial, size: Size, world: World, synthetic: ClipMemory, real: ClipMemory) -> None:
        torch.manual_seed(0)
        self.trial, self._size, self._world, self._memories = trial, size, world, (synthetic, real)
        self._mask = MaskConfig(kind=trial.kind, ratio=trial.ratio)
        self._rng = torch.Generator(device=world.device).manual_seed(0)
        self.model = MaskedAutoencoder(size.encoder, size.decoder)
        self._engine = make_engine(self.model, OptimizerConfig(kind="muon"), world)
        self._objective = Objective(ObjectiveConfig(), encoder=size.encoder, device=world.device)
        self.clips = 0

    def run(self, seconds: float, *, until: float, own: float = 0.0, decay: float = 0.15) -> dict[str, Any]:
        """Train for `seconds`, a fraction `own` of each batch on real clips; in the last `decay` the rate falls."""
        before, began = self.clips, time.time()
        losses: list[Tensor] = []
        for scale in timed(seconds, until=until, decay=decay):
            step = self._engine.train_step([self._batch(own)], self._objective, lr=self.trial.lr * scale)
            losses.append(step.loss)
            for memory in self._memories:
                memory.refresh()
        loss, spent = torch.stack(losses[-50:]).mean().item(), time.time() - began
        speed = round((self.clips - before) / spent, 1)  # with the time of compiling
        return {**asdict(self.trial), "own": own, "loss": loss, "clips_seen": self.clips, "clips_per_s": speed}

    def _batch(self, own: float) -> PretrainBatch:
        encoder, parts = self._size.encoder, []
        real = round(own * self._size.batch)
        for memory, count in zip(self._memories, (self._size.batch - real, real), strict=True):
            if count:
                index_B = torch.randint(len(memory), (count,), generator=self._rng, device=self._world.device)
                parts.append(memory.views(index_B, View(encoder.frames, encoder.size), self._rng))
        self.clips += self._size.batch
        masks = draw_masks(self._mask, encoder, self._size.batch, self.trial.share, self._rng)
        return PretrainBatch(torch.cat(parts), *masks, masks[1][:, :0])


def draw_masks(
    mask: MaskConfig, encoder: EncoderConfig, batch: int, share: float, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw visible_BV and hidden_BH on the device, with the distribution of `pretrain.masking`: tube or random."""
    hidden, tube = hidden_count(mask, encoder), mask.kind == "tube"
    units = encoder.patches_per_frame if tube else encoder.num_patches
    order_BU = torch.rand(batch, units, generator=rng, device=rng.device).argsort(1)
    parts = []
    for chosen_BU in (order_BU[:, hidden:], order_BU[:, :hidden]):
        if tube:
            starts_T = torch.arange(encoder.grid_t, device=rng.device) * encoder.patches_per_frame
            chosen_BU = (starts_T[:, None] + chosen_BU[:, None, :]).flatten(1)
        parts.append(chosen_BU.sort(1).values)
    visible_BV, hidden_BH = parts
    if share < 1:
        count = max(1, round(share * hidden_BH.shape[1]))
        chosen_BH = torch.rand(hidden_BH.shape, generator=rng, device=rng.device).argsort(1)[:, :count].sort(1).values
        hidden_BH = hidden_BH.gather(1, chosen_BH)
    return visible_BV, hidden_BH


@torch.no_grad()
def probe_motions(encoder: VideoEncoder, motions: Sequence[ClipMemory], device: torch.device) -> float:
    """The accuracy of a linear probe of the frozen encoder on the classes of `motions`: clips to fit, and to test."""
    pool, features = StatisticsPool(encoder.config.grid_t), []
    encoder.eval()
    for memory in motions:
        videos = [memory.clips_NTHWC[index_B].permute(0, 4, 1, 2, 3) for index_B in every(len(memory), 40)]
        pixels = [normalize(video.to(device), IMAGENET_MEAN, IMAGENET_STD) for video in videos]
        features.append(torch.cat([pool(encoder(video)).double().cpu() for video in pixels]))
    encoder.train()
    mean_F, deviation_F = features[0].mean(0), features[0].std(0) + 1e-6
    train_SF, test_SF = ((part - mean_F) / deviation_F for part in features)
    label_S, expected_S = (torch.arange(len(part)) % 8 for part in features)
    with torch.enable_grad():
        weight_KF, bias_K = fit(train_SF, label_S, 8, 0.01)
    return ((test_SF @ weight_KF.T + bias_K).argmax(1) == expected_S).double().mean().item()


class PretrainPart:
    """Loads, compares, trains; `until` is the time at which it ends."""

    def __init__(self, out: Path, data: Path, size: Size, device: torch.device, until: float) -> None:
        self._out, self._size, self._until = out, size, until
        self._world = World(rank=0, size=1, local_rank=0, device=device)
        self._pool = ProcessPoolExecutor(size.workers, multiprocessing.get_context("spawn"))
        encoder, began = size.encoder, time.time()
        shape = {"frames": encoder.frames, "size": encoder.size}
        self._real = RealClips.read(data / "train", self._pool, encoder=encoder, most=size.videos).memory(device)
        decoded = time.time()
        pending = 2 * size.workers
        self._synthetic = SyntheticMemory(CLIPS, self._pool, clips=size.clips, device=device, pending=pending, **shape)
        single = SyntheticConfig(motion="single")
        self._motions = [labelled_motions(single, count, seed, **shape) for seed, count in enumerate((5, size.tests))]
        drawn = size.clips / (time.time() - decoded)
        self._write({"name": "load", "videos": len(self._real), "seconds": decoded - began, "drawn_per_s": drawn})

    def run(self) -> None:
        """Compare the trials, and go on with the best."""
        results: list[tuple[float, Pretraining]] = []
        seconds = TRIALS * self._left() / len(COMPARED)
        for trial in COMPARED:
            if results and self._left() < 2 * seconds:
                break
            try:
                pretraining = Pretraining(trial, self._size, self._world, self._synthetic, self._real)
                results.append((self._train("trial", pretraining, seconds), pretraining))
            except Exception:  # of any kind, such as too little memory: the next one may do
                traceback.print_exc()
        best = max(results, key=lambda result: result[0])[1]
        results.clear()  # frees the others
        self._train("synthetic", best, SYNTHETIC * self._left(), decay=0.0)
        self._save(best, "encoder-synthetic")
        self._train("own", best, max(0.0, self._left() - RESERVE), own=OWN, decay=0.5)
        self._save(best, "encoder-own")

    def close(self) -> None:
        """Stop the workers."""
        self._synthetic.close()
        self._pool.shutdown()

    def _train(self, name: str, pretraining: Pretraining, seconds: float, **settings: float) -> float:
        result = pretraining.run(seconds, until=self._until, **settings)
        probe = probe_motions(pretraining.model.encoder, self._motions, self._world.device)
        self._write({"name": name, **result, "probe": probe})
        return probe

    def _save(self, pretraining: Pretraining, folder: str) -> None:
        state = pretraining.model.encoder.state_dict()
        save_encoder(state, self._size.encoder, self._out / folder, {"run": folder, "clips": pretraining.clips})

    def _left(self) -> float:
        return max(0.0, self._until - time.time())

    def _write(self, values: dict[str, Any]) -> None:
        write_result(self._out, "pretrain", values)


def run(out: Path, data: Path, size: Size, device: torch.device, until: float) -> int:
    """The whole part; returns the exit code."""
    part = PretrainPart(out, data, size, device, until)
    try:
        part.run()
    except Exception:  # of any kind: the encoders that are there serve the next part
        traceback.print_exc()
        return 1
    finally:
        part.close()
    return 0
