"""Initialisation of ViViT from an image transformer or from a VideoMAE encoder (ViViT section 3.4).

From an image ViT: the patch kernel is inflated over the tubelet, into its central frame (zeros elsewhere) or evenly;
position embeddings are interpolated to the grid and repeated over time; the class token is used by the models that have
one. From VideoMAE: the patch embedding is copied, and the sine-cosine table initialises the learned positions.
Parameters without a source (class token of models 1 and 2 from VideoMAE, temporal blocks, head) keep their random
initialisation. Key biases of an image ViT are dropped: they shift all scores of a query equally, which softmax cancels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from videomae.models.encoder import sincos_table
from videomae.models.weights.export import load_encoder
from videomae.models.weights.files import State, WeightsError, load_strictly
from videomae.models.weights.image_vit import image_vit_state

if TYPE_CHECKING:
    from finetune.models.vivit import VivitConfig

_FRESH = ("head.", "temporal_")


def initialise_from(model: nn.Module, config: VivitConfig) -> None:
    """Load `config.weights` into `model` in place; every parameter with a source and every tensor read must match.

    Raises:
        WeightsError: the weights have other dimensions or do not suit `config.embedding`.
    """
    assert config.weights is not None
    state = _from_videomae(config) if config.from_videomae else _from_image(config)
    own = model.state_dict()
    fresh = [key for key in own if any(part in key for part in _FRESH)]
    if config.from_videomae and "cls_token" in own:
        fresh.append("cls_token")
        if config.name == "vivit_1":  # the class token's position comes first
            state["pos_embed"] = torch.cat([own["pos_embed"][:, :1], state["pos_embed"]], dim=1)
        else:
            first = state["pos_embed"][:, : config.patches_per_frame]  # every time uses the positions of the first
            state["pos_embed"] = torch.cat([own["pos_embed"][:, :1], first], dim=1)
    load_strictly(model, state, source=f"weights {config.weights} for {config.name}", fresh=fresh)


def _from_videomae(config: VivitConfig) -> State:
    assert config.weights is not None
    export = load_encoder(config.weights)
    if config.embedding == "uniform":
        raise WeightsError(
            f"{config.weights} embeds patches of {export.config.tubelet} frames, embedding=uniform single frames; "
            "set model.embedding=tubelet"
        )
    expected = (config.tubelet, config.patch, config.dim, config.depth, config.heads, config.mlp_ratio)
    got = export.config
    offered = (got.tubelet, got.patch, got.dim, got.depth, got.heads, got.mlp_ratio)
    if expected != offered:
        raise WeightsError(
            f"tubelet, patch, dim, depth, heads and mlp_ratio are {expected} in the model and {offered} in "
            f"{config.weights}; set the model's to the latter"
        )
    table_ND = sincos_table(config.num_patches, config.dim)
    return export.state | {"pos_embed": table_ND[None]}


def _from_image(config: VivitConfig) -> State:
    assert config.weights is not None
    state = image_vit_state(config.weights, dim=config.dim, depth=config.depth, patch=config.patch)
    frames = 1 if config.embedding == "uniform" else config.tubelet
    state["patch_embed.proj.weight"] = inflate(state["patch_embed.proj.weight"], frames, how=config.inflation)
    class_position, grid = _split_positions(state.pop("pos_embed"), config)
    if config.name in ("vivit_3", "vivit_4"):
        state.pop("cls_token", None)
        return state | {"pos_embed": repeat(grid, "b p d -> b (s p) d", s=config.grid_t)}
    if class_position is None or "cls_token" not in state:
        raise WeightsError(f"{config.weights} has no class token, which {config.name} needs; use vivit_3 or vivit_4")
    if config.name == "vivit_1":
        grid = repeat(grid, "b p d -> b (s p) d", s=config.grid_t)
    return state | {"pos_embed": torch.cat([class_position, grid], dim=1)}


def inflate(kernel_DCHW: Tensor, frames: int, *, how: str) -> Tensor:
    """kernel_DCTHW: "central" sets frame frames // 2 to the image kernel, "average" every frame to kernel / frames."""
    if how == "average":
        return repeat(kernel_DCHW, "d c h w -> d c t h w", t=frames) / frames
    inflated_DCTHW = kernel_DCHW.new_zeros(*kernel_DCHW.shape[:2], frames, *kernel_DCHW.shape[2:])
    inflated_DCTHW[:, :, frames // 2] = kernel_DCHW
    return inflated_DCTHW


def _split_positions(positions_1ND: Tensor, config: VivitConfig) -> tuple[Tensor | None, Tensor]:
    """Position embeddings of the class token, if any, and of the grid, interpolated to the model's grid."""
    grid_size = int(positions_1ND.shape[1] ** 0.5)
    extra = positions_1ND.shape[1] - grid_size**2
    class_11D = positions_1ND[:, :1] if extra else None
    if extra > 1:
        raise WeightsError(
            f"{positions_1ND.shape[1]} positions are not a square grid with at most one class token; give a plain ViT"
        )
    grid = rearrange(positions_1ND[:, extra:], "b (h w) d -> b d h w", h=grid_size)
    if grid_size != config.grid_size:
        grid = nn.functional.interpolate(
            grid, size=(config.grid_size, config.grid_size), mode="bicubic", antialias=True
        )
    return class_11D, rearrange(grid, "b d h w -> b (h w) d")
