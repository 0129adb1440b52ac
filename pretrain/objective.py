"""The pretraining loss: mean squared error between predicted and original pixels of hidden patches.

Each patch's target is normalised by its own mean and standard deviation per channel (He et al. 2022, section 4;
Tong et al. 2022): pixels in [0, 1], minus the mean, divided by (the square root of the unbiased variance + 1e-6).
A model that predicts the mean has a normalised loss of (n - 1) / n for n pixels per patch and channel, close to 1.

To compare runs with different targets, the error in pixels and the normalised error can be measured beside the loss.
For plain pixel targets, the normalised error is the error divided by the variance within patches, both averaged over
the global batch because a patch without contrast has no finite ratio of its own; predicting each patch's mean again
gives (n - 1) / n.

Shapes: B batch, N tokens, V visible tokens, H hidden tokens (height in BCTHW), X pixels of a patch, C channels, P
values of a patch, flattened as (pixel, channel).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from pretrain.batch import PretrainBatch
from videomae.core.config import configclass
from videomae.data.batch import Ratio, weighted_mean
from videomae.data.transforms.augment import IMAGENET_MEAN, IMAGENET_STD
from videomae.models.encoder import EncoderConfig, patchify, take_tokens
from videomae.run.metrics.plateau import TrivialLoss

EPSILON = 1e-6


@configclass
class ObjectiveConfig:
    """Choice of the target and of the predicted patches."""

    normalize: bool = True  # by each patch's own mean and deviation; off: plain pixels in [0, 1]
    # Part of the hidden patches that is predicted, drawn at random for each clip (CrossMAE: 0.25). Below 1 the decoder
    # has mask tokens at these alone and costs less; the objective is another one.
    decoder_share: float = Field(1.0, gt=0, le=1)


@dataclass(frozen=True)
class PatchStatistics:
    """Mean and deviation of each patch and channel, both (B, H, 1, C)."""

    mean: Tensor
    deviation: Tensor


def hidden_targets(
    video_BCTHW: Tensor, hidden_BH: Tensor, *, encoder: EncoderConfig, normalize: bool
) -> tuple[Tensor, PatchStatistics]:
    """The `patch_targets` of the patches at `hidden_BH` (int64) of a clip, uint8 or floats in [0, 1]."""
    return patch_targets(take_tokens(patchify(video_BCTHW, encoder), hidden_BH), normalize=normalize)


def patch_targets(patches_BHP: Tensor, *, normalize: bool) -> tuple[Tensor, PatchStatistics]:
    """Float32 targets of patches, and the statistics that convert predictions back to pixels.

    `patches_BHP` holds uint8 pixels, or floats in [0, 1], and is not changed.
    """
    unit = 255.0 if patches_BHP.dtype == torch.uint8 else 1.0  # of the pixels below; the targets have none
    pixels_BHXC = rearrange(patches_BHP.to(torch.float32, copy=True), "b h (x c) -> b h x c", c=3)
    # Two passes of sums: var_mean over an axis that is not the innermost takes several times as long on a CPU.
    mean = pixels_BHXC.mean(dim=2, keepdim=True)
    centred_BHXC = pixels_BHXC - mean if not normalize else pixels_BHXC.sub_(mean)
    variance = centred_BHXC.square().sum(dim=2, keepdim=True) / (pixels_BHXC.shape[2] - 1)
    deviation = variance.sqrt() + EPSILON * unit
    targets_BHXC = centred_BHXC.div_(deviation) if normalize else pixels_BHXC.div_(unit)
    return rearrange(targets_BHXC, "b h x c -> b h (x c)"), PatchStatistics(mean / unit, deviation / unit)


def to_pixels(predictions_BHP: Tensor, statistics: PatchStatistics, *, normalize: bool) -> Tensor:
    """Convert predictions to pixels of about [0, 1], undoing the normalisation with each patch's own statistics."""
    if not normalize:
        return predictions_BHP.float()
    predictions_BHXC = rearrange(predictions_BHP.float(), "b h (x c) -> b h x c", c=3)
    return rearrange(predictions_BHXC * statistics.deviation + statistics.mean, "b h x c -> b h (x c)")


def patch_loss(
    predictions_BHP: Tensor, patches_BHP: Tensor, weight_B: Tensor | None = None, *, normalize: bool
) -> Tensor:
    """The `reconstruction_loss` for the targets of patches; compiled, it reads predictions and pixels once."""
    targets_BHP, _ = patch_targets(patches_BHP, normalize=normalize)
    return reconstruction_loss(predictions_BHP, targets_BHP, weight_B)


def reconstruction_loss(predictions_BHP: Tensor, targets_BHP: Tensor, weight_B: Tensor | None = None) -> Tensor:
    """Mean squared error over the values of all hidden patches, a float32 scalar; `weight_B` weights the clips."""
    if weight_B is None:
        return nn.functional.mse_loss(predictions_BHP.float(), targets_BHP)
    return weighted_mean(nn.functional.mse_loss(predictions_BHP.float(), targets_BHP, reduction="none"), weight_B)


@torch.no_grad()
def measure(
    predictions_BHP: Tensor,
    targets_BHP: Tensor,
    statistics: PatchStatistics,
    *,
    normalized: bool,
    weight_B: Tensor | None = None,
) -> dict[str, Ratio]:
    """The scalar errors `pixel_loss` (pixels in [0, 1]) and `normalized_loss` of predictions."""
    error_BHP = nn.functional.mse_loss(predictions_BHP.float(), targets_BHP, reduction="none")
    error_BH1C = rearrange(error_BHP, "b h (x c) -> b h x c", c=3).mean(dim=2, keepdim=True)
    variance = statistics.deviation.square()
    error, one = weighted_mean(error_BH1C, weight_B), error_BHP.new_ones(())
    if normalized:
        pixel_error = weighted_mean(error_BH1C * variance, weight_B)
        return {"normalized_loss": Ratio(error, one), "pixel_loss": Ratio(pixel_error, one)}
    return {"normalized_loss": Ratio(error, weighted_mean(variance, weight_B)), "pixel_loss": Ratio(error, one)}


def trivial_loss(encoder: EncoderConfig) -> TrivialLoss:
    """The normalised error of a model that predicts the mean of each patch and channel."""
    pixels = encoder.tubelet * encoder.patch**2
    return TrivialLoss(
        key="normalized_loss",
        value=(pixels - 1) / pixels,
        answer="predicting the mean of every patch",
        advice="if it stays there, raise optimizer.lr or the duration, lower mask.ratio for small data sets, and look "
        "at the clips (videomae shards show SHARDS): flat patches leave only noise to predict, "
        "for which objective.normalize=false is the better target",
    )


class PatchNormalizer:
    """Normalises pixels as `videomae.data.transforms.augment.normalize` does, in patches ordered by `patchify`."""

    def __init__(self, encoder: EncoderConfig, device: torch.device) -> None:
        # Made once: building a tensor from Python numbers makes the host wait for a GPU.
        pixels = encoder.patch_dim // 3
        mean_P, std_P = (torch.tensor(values * pixels) for values in (IMAGENET_MEAN, IMAGENET_STD))
        self._scale_P = (1 / (255 * std_P)).to(device)
        self._shift_P = (mean_P / std_P).to(device)

    def __call__(self, patches_BNP: Tensor) -> Tensor:
        """Float32 patches from uint8 ones."""
        return patches_BNP * self._scale_P - self._shift_P


class Objective:
    """Computes the loss of a module on a batch; moves the batch to the device and normalises its pixels there.

    While `measuring` is set, the errors of `measure` are collected too; `measured` returns and clears them.
    """

    def __init__(
        self, config: ObjectiveConfig, *, encoder: EncoderConfig, device: torch.device, compiled: bool = False
    ) -> None:
        """`compiled` compiles the loss, as `engine.compile` does the blocks."""
        self._config, self._encoder, self._device = config, encoder, device
        self._normalize = PatchNormalizer(encoder, device)
        self._loss = torch.compile(patch_loss) if compiled else patch_loss
        self.measuring = False
        self._measured: list[dict[str, Ratio]] = []

    def __call__(self, module: nn.Module, batch: PretrainBatch) -> Tensor:
        batch = batch.to(self._device)
        patches_BNP = patchify(batch.video_BCTHW, self._encoder)  # uint8: only selected patches become floats
        visible_BVP = self._normalize(take_tokens(patches_BNP, batch.visible_BV))
        predictions_BHP = module(visible_BVP, batch.visible_BV, batch.hidden_BH, batch.ignored_BS)
        hidden_BHP = take_tokens(patches_BNP, batch.hidden_BH)
        normalized = self._config.normalize
        if self.measuring:
            targets_BHP, statistics = patch_targets(hidden_BHP, normalize=normalized)
            seen, weight_B = predictions_BHP.detach(), batch.weight_B
            errors = measure(seen, targets_BHP, statistics, normalized=normalized, weight_B=weight_B)
            self._measured.append(errors)
        return self._loss(predictions_BHP, hidden_BHP, batch.weight_B, normalize=normalized)

    def measured(self) -> dict[str, Ratio]:
        """Mean errors over the micro-batches since the last call; empty if none was measured."""
        seen, self._measured = self._measured, []
        return {name: _mean([one[name] for one in seen]) for name in seen[0]} if seen else {}


def _mean(ratios: Sequence[Ratio]) -> Ratio:
    return Ratio(
        torch.stack([ratio.numerator for ratio in ratios]).mean(),
        torch.stack([ratio.denominator for ratio in ratios]).mean(),
    )
