"""Timed training on clips in memory, for `benchmarks.science`: masked autoencoders and classifiers.

Shapes: B batch, C channels, T frames, H height (or hidden tokens), W width, V visible tokens, S samples, F features,
K classes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.science_memory import ClipMemory, SyntheticMemory, View, every
from finetune import models
from finetune.layer_decay import layer_lr_scales
from finetune.linear_probe import fit
from finetune.models.interface import ModelInput
from finetune.models.probes import StatisticsPool
from finetune.statistics.intervals import wilson
from pretrain.autoencoder import DecoderConfig, MaskedAutoencoder
from pretrain.batch import PretrainBatch
from pretrain.masking import MaskConfig, hidden_count
from pretrain.objective import Objective, ObjectiveConfig
from videomae.core.distributed import World
from videomae.data.transforms.augment import IMAGENET_MEAN, IMAGENET_STD, normalize
from videomae.engine.factory import build_engine
from videomae.engine.optimizer import OptimizerConfig, parameter_groups
from videomae.engine.protocol import Engine, EngineConfig, EnginePlan
from videomae.engine.schedule import warmup_stable_decay
from videomae.models.encoder import EncoderConfig, VideoEncoder

PRETRAIN_LR, FINETUNE_LR = 2e-3, 5e-4  # of every batch size
COMPILED_STEPS = 3  # before the clock starts


class Pretraining:
    """One masked autoencoder that is trained on synthetic clips, and on real ones."""

    def __init__(
        self,
        encoder: EncoderConfig,
        decoder: DecoderConfig,
        world: World,
        *,
        mask: MaskConfig,
        share: float,
        synthetic: SyntheticMemory,
        real: ClipMemory,
    ) -> None:
        torch.manual_seed(0)
        self.mask, self.share, self._encoder, self._world = mask, share, encoder, world
        self._synthetic, self._real = synthetic, real
        self._rng = torch.Generator(device=world.device).manual_seed(0)
        self.model = MaskedAutoencoder(encoder, decoder)
        self._engine = make_engine(self.model, OptimizerConfig(kind="muon"), world)
        self._objective = Objective(ObjectiveConfig(), encoder=encoder, device=world.device)
        self.clips = 0

    def run(self, seconds: float, *, batch: int, own: float = 0.0, decay: float = 0.15) -> dict[str, Any]:
        """Train for `seconds`, a fraction `own` of each batch on real clips; in the last `decay` the rate falls."""
        before, began, drawn = self.clips, time.perf_counter(), self._synthetic.drawn
        losses: list[Tensor] = []
        for factor in timed(seconds, decay=decay):
            step = self._engine.train_step([self._batch(batch, own)], self._objective, lr=PRETRAIN_LR * factor)
            losses.append(step.loss)
            self._synthetic.refresh()
        loss, spent = torch.stack(losses[-50:]).mean().item(), time.perf_counter() - began
        return {
            "mask": f"{self.mask.kind} {self.mask.ratio}",
            "decoder_share": self.share,
            "own": own,
            "loss": loss,
            "clips_seen": self.clips,
            "clips_per_s": round((self.clips - before) / spent, 1),  # with the time of compiling
            "drawn_per_s": round((self._synthetic.drawn - drawn) / spent, 1),
        }

    def _batch(self, batch: int, own: float) -> PretrainBatch:
        view, parts = View(self._encoder.frames, self._encoder.size), []
        for memory, count in ((self._synthetic, batch - round(own * batch)), (self._real, round(own * batch))):
            if count:
                index_B = torch.randint(len(memory), (count,), generator=self._rng, device=self._world.device)
                parts.append(memory.views(index_B, view, self._rng))
        self.clips += batch
        visible_BV, hidden_BH = draw_masks(self.mask, self._encoder, batch, self.share, self._rng)
        return PretrainBatch(torch.cat(parts), visible_BV, hidden_BH, hidden_BH[:, :0])


class Finetuning:
    """Trains classifiers on real clips, and tests them on two views of each test clip."""

    def __init__(self, world: World, train: tuple[ClipMemory, Tensor], test: tuple[ClipMemory, Tensor]) -> None:
        self._world, (self._train, self._label_N), (self._test, self._expected_N) = world, train, test

    def run(self, config: Any, *, seed: int, seconds: float, batch: int, layer_decay: float = 1.0) -> dict[str, Any]:
        """Train the model of `config` for `seconds`; return steps, accuracy and its 95 % interval."""
        torch.manual_seed(seed)
        rng, given = torch.Generator(device=self._world.device).manual_seed(seed), config.input
        model = models.build(config, int(self._label_N.max()) + 1)
        lr_scale = layer_lr_scales(model, layer_decay)
        engine = make_engine(model, OptimizerConfig(betas=(0.9, 0.999)), self._world, lr_scale=lr_scale)
        view, steps = View(given.frames, given.size, spread=True, least=0.7), 0

        def loss_of(module: nn.Module, index_B: Tensor) -> Tensor:
            video_BCTHW = normalize(self._train.views(index_B, view, rng), given.mean, given.std)
            return functional.cross_entropy(module(video_BCTHW).float(), self._label_N[index_B], label_smoothing=0.1)

        engine.module.train()
        for factor in timed(seconds, decay=0.7):
            index_B = torch.randint(len(self._train), (batch,), generator=rng, device=self._world.device)
            engine.train_step([index_B], loss_of, lr=FINETUNE_LR * factor)
            steps += 1
        total, correct = len(self._test), self._correct(engine.module.eval(), given, view, batch)
        return {"seed": seed, "steps": steps, "accuracy": correct / total, "interval": wilson(correct / total, total)}

    @torch.no_grad()
    def _correct(self, model: nn.Module, given: ModelInput, view: View, batch: int) -> int:
        correct = 0
        for index_B in (part.to(self._world.device) for part in every(len(self._test), batch)):
            videos = [self._test.centre_views(index_B, view, number=number) for number in (0, 1)]
            scores = [model(normalize(video, given.mean, given.std)).float().softmax(1) for video in videos]
            correct += int((torch.stack(scores).mean(0).argmax(1) == self._expected_N[index_B]).sum())
        return correct


@torch.no_grad()
def probe_motions(encoder: VideoEncoder, train: ClipMemory, test: ClipMemory, device: torch.device) -> float:
    """Return the accuracy of a linear probe of the frozen encoder on the classes of motion."""
    pool, features = StatisticsPool(encoder.config.grid_t), []
    encoder.eval()
    for memory in (train, test):
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


def make_engine(model: nn.Module, config: OptimizerConfig, world: World, **groups: Any) -> Engine:
    """Return the local engine; on CUDA in bfloat16 with compiled blocks."""
    cuda = world.device.type == "cuda"
    blocks = any("blocks." in name for name, _ in model.named_parameters())
    engine = EngineConfig(kind="local", precision="bf16" if cuda else "fp32", compile=cuda and blocks)
    found = parameter_groups(model, weight_decay=config.weight_decay, kind=config.kind, **groups)
    return build_engine(model, found, EnginePlan(engine, config, world))


def timed(seconds: float, *, decay: float) -> Iterator[float]:
    """Yield the factor on the peak learning rate at every step until `seconds` are over; at least four steps.

    The clock starts after the steps in which blocks are compiled.
    """
    began, steps = time.perf_counter(), 0
    while steps <= COMPILED_STEPS or time.perf_counter() - began < seconds:
        if steps == COMPILED_STEPS:
            began = time.perf_counter()
        done = 0.0 if steps <= COMPILED_STEPS else (time.perf_counter() - began) / seconds
        place, length = int(1000 * min(1.0, done)), int(1000 * decay)
        yield warmup_stable_decay(place, total=1000, warmup=30, decay=length, start_factor=0.03, final_factor=0.0)
        steps += 1


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
