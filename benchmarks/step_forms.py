"""The forms of a pretraining step that `benchmarks.step` compares, on the same weights and clips.

- ours: this project's model, objective and local engine.
- official: `benchmarks.step_official`, the official model restated.
- huggingface: transformers' `VideoMAEForPreTraining` with PyTorch's fused attention.
- variants of ours, each by the settings in `VARIANTS`; they change the objective or trade time for memory.

All have fused AdamW with the same parameter groups, take the norm of the gradients and run under the same autocast.
Ours gets uint8 clips and normalises them in the step; the others get float clips, which their loaders normalise
beforehand, at no cost here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

import videomae.core.torchvision_compat  # noqa: F401  before transformers, which imports torchvision
from benchmarks.measuring import Clock
from benchmarks.step_official import OfficialAutoencoder, official_loss
from pretrain.autoencoder import MaskedAutoencoder
from pretrain.batch import PretrainBatch, PretrainItem, collate
from pretrain.config import PretrainConfig
from pretrain.cost import DECODERS
from pretrain.masking import draw_mask
from pretrain.objective import Objective
from pretrain.train import initial_model
from videomae.core.config import load, parse, to_dict
from videomae.core.distributed import World
from videomae.data.transforms.augment import IMAGENET_MEAN, IMAGENET_STD, normalize
from videomae.engine.factory import build_engine
from videomae.engine.local import grad_norm
from videomae.engine.mixed_precision import MixedPrecision
from videomae.engine.optimizer import parameter_groups
from videomae.engine.protocol import EnginePlan
from videomae.models.encoder import SIZES
from videomae.models.weights.huggingface import to_huggingface

DEMO = Path(__file__).parent.parent / "configs/demo/pretrain.yaml"
SUBJECTS = (*DECODERS, "demo")
LR, DECAY = 1e-4, 0.05
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "dual": {"mask": {"kind": "tube", "decoder": "running_cell"}},
    "share": {"objective": {"decoder_share": 0.5}},
    "cross": {"decoder": {"kind": "cross"}},
    "checkpointing": {"engine": {"activation_checkpointing": True}},
}


def subject(name: str, *, precision: str, compiled: bool) -> PretrainConfig:
    """The config of a published size with its decoder, or of the demo, for the local engine."""
    engine = {"kind": "local", "precision": precision, "compile": compiled}
    if name == "demo":
        rivals = ["mask.decoder=all", "objective.decoder_share=1.0", "encoder.positions=sincos_1d", "weights=null"]
        values = to_dict(load(PretrainConfig, DEMO, ["run=none", *rivals]))
        return parse(PretrainConfig, {**values, "engine": engine}, source=str(DEMO))
    values = {
        **{"run": "none", "batch": 8, "data": {"shards": "none"}, "engine": engine},
        **{"encoder": dict(SIZES[name]), "decoder": vars(DECODERS[name])},
    }
    return parse(PretrainConfig, values, source=f"size {name}")


def variant_of(config: PretrainConfig, name: str) -> PretrainConfig:
    """The config with the settings of a variant."""
    values = to_dict(config)
    for section, settings in VARIANTS[name].items():
        values[section] = {**values[section], **settings}
    return parse(PretrainConfig, values, source=f"variant {name}")


def draw_clips(config: PretrainConfig, clips: int) -> PretrainBatch:
    """Random uint8 clips with masks, as the loader hands them over."""
    rng, encoder = np.random.default_rng(0), config.encoder
    shape = (encoder.frames, encoder.size, encoder.size, 3)
    return collate(
        [
            PretrainItem(
                torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)).permute(0, 3, 1, 2),
                draw_mask(config.mask, encoder, rng, share=config.objective.decoder_share),
            )
            for _ in range(clips)
        ]
    )


class Form(Protocol):
    """One way to train a step."""

    module: nn.Module

    def take(self, batch: PretrainBatch) -> Any:
        """The batch as this form's loader yields it, page-locked for a GPU."""
        ...

    def step(self, batch: Any, clock: Clock) -> Tensor:
        """Train one step, mark its phases, and return the loss on the device."""
        ...


class Ours:
    """This project's step."""

    def __init__(self, config: PretrainConfig, state: Mapping[str, Tensor], device: torch.device) -> None:
        self.module: nn.Module = MaskedAutoencoder(config.encoder, config.decoder)
        self.module.load_state_dict(state)
        groups = parameter_groups(self.module, weight_decay=DECAY)
        world = World(rank=0, size=1, local_rank=0, device=device)
        self._engine = build_engine(self.module, groups, EnginePlan(config.engine, config.optimizer, world))
        self._objective = Objective(config.objective, encoder=config.encoder, device=device)
        self._device = device

    def take(self, batch: PretrainBatch) -> PretrainBatch:
        return batch.pin_memory() if self._device.type == "cuda" else batch

    def step(self, batch: PretrainBatch, clock: Clock) -> Tensor:
        def loss_of(module: nn.Module, batch: PretrainBatch) -> Tensor:
            on_device = batch.to(self._device)
            clock.mark("data")
            loss = self._objective(module, on_device)
            clock.mark("forward")
            return loss

        clock.start()
        result = self._engine.train_step([batch], loss_of, lr=LR)
        clock.mark("optimizer")
        return result.loss


@dataclass(frozen=True)
class Rival:
    """What differs between the other forms."""

    module: nn.Module
    loss_of: Callable[[nn.Module, Tensor, Tensor], Tensor]  # (module, normalised video_BCTHW, hidden mask_BN)


class Plain:
    """A rival's step: a plain loop in PyTorch."""

    def __init__(self, rival: Rival, config: PretrainConfig, device: torch.device) -> None:
        self.module = rival.module.to(device).train()
        self._loss_of, self._device, self._patches = rival.loss_of, device, config.encoder.num_patches
        self._precision = MixedPrecision(config.engine.precision, device)
        self._optimizer = torch.optim.AdamW(
            parameter_groups(self.module, weight_decay=DECAY), lr=LR, betas=config.optimizer.betas, fused=True
        )

    def take(self, batch: PretrainBatch) -> tuple[Tensor, Tensor]:
        clips = len(batch.video_BCTHW)
        mask_BN = torch.zeros(clips, self._patches, dtype=torch.bool).scatter_(1, batch.hidden_BH, True)
        host = normalize(batch.video_BCTHW, IMAGENET_MEAN, IMAGENET_STD).contiguous(), mask_BN
        return (host[0].pin_memory(), mask_BN.pin_memory()) if self._device.type == "cuda" else host

    def step(self, batch: tuple[Tensor, Tensor], clock: Clock) -> Tensor:
        clock.start()
        video_BCTHW, mask_BN = (tensor.to(self._device, non_blocking=True) for tensor in batch)
        clock.mark("data")
        with self._precision.autocast():
            loss = self._loss_of(self.module, video_BCTHW, mask_BN)
        clock.mark("forward")
        loss.backward()
        grad_norm(self.module)
        self._optimizer.step()
        self._optimizer.zero_grad()
        clock.mark("optimizer")
        return loss.detach()


def build(name: str, config: PretrainConfig, state: Mapping[str, Tensor], device: torch.device) -> Form:
    """The form called `name`, with the weights of `state` in our names; a variant has its own, from the seed."""
    if name in RIVALS:
        return Plain(RIVALS[name](config, state), config, device)
    if name in VARIANTS:
        changed = variant_of(config, name)
        return Ours(changed, initial_model(changed).state_dict(), device)
    return Ours(config, state, device)


def _official(config: PretrainConfig, state: Mapping[str, Tensor]) -> Rival:
    module = OfficialAutoencoder(config.encoder, config.decoder)
    module.load_state_dict(state)
    _compile(module.encoder.blocks, module.decoder.blocks, config=config)
    encoder, normalized = config.encoder, config.objective.normalize
    return Rival(
        module,
        lambda module, video, mask: official_loss(module, video, mask, encoder=encoder, normalize=normalized),
    )


def _huggingface(config: PretrainConfig, state: Mapping[str, Tensor]) -> Rival:
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    encoder, decoder = config.encoder, config.decoder
    settings: dict[str, Any] = {
        **{"image_size": encoder.size, "num_frames": encoder.frames},
        **{"patch_size": encoder.patch, "tubelet_size": encoder.tubelet},
        **{"hidden_size": encoder.dim, "num_hidden_layers": encoder.depth, "num_attention_heads": encoder.heads},
        **{"decoder_hidden_size": decoder.dim, "decoder_num_hidden_layers": decoder.depth},
        **{"decoder_num_attention_heads": decoder.heads, "decoder_intermediate_size": 4 * decoder.dim},
        "intermediate_size": round(encoder.dim * encoder.mlp_ratio),
        "layer_norm_eps": 1e-6,
        "norm_pix_loss": config.objective.normalize,
        "use_mean_pooling": False,
        "attn_implementation": "sdpa",
    }
    module = VideoMAEForPreTraining(VideoMAEConfig(**settings))
    for layer in module.modules():
        if isinstance(layer, nn.LayerNorm):
            layer.eps = 1e-6  # transformers leaves torch's 1e-5 in the decoder's last norm
    module.load_state_dict(to_huggingface(state, form="v5"))
    _compile(module.videomae.encoder.layer, module.decoder.decoder_layers, config=config)

    def loss_of(module: nn.Module, video_BCTHW: Tensor, mask_BN: Tensor) -> Tensor:
        return module(video_BCTHW.transpose(1, 2), bool_masked_pos=mask_BN).loss

    return Rival(module, loss_of)


RIVALS: dict[str, Callable[[PretrainConfig, Mapping[str, Tensor]], Rival]] = {
    "official": _official,
    "huggingface": _huggingface,
}


def _compile(*stacks: nn.ModuleList, config: PretrainConfig) -> None:
    """Compile each block, as `engine.compile` does with ours."""
    if config.engine.compile:
        for block in (block for stack in stacks for block in stack):
            compiled: Any = torch.compile(block.forward)
            block.forward = compiled
