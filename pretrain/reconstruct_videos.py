"""Reconstruct the hidden patches of videos: `videomae reconstruct RUN|WEIGHTS VIDEO...`.

The model is a pretraining run, whose newest checkpoint holds the decoder, or a pretraining checkpoint of the official
VideoMAE or of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from einops import rearrange
from PIL import Image
from torch import Tensor

from pretrain.autoencoder import DecoderConfig, MaskedAutoencoder
from pretrain.batch import PretrainItem, collate
from pretrain.config import PretrainConfig
from pretrain.masking import MaskConfig, draw_mask
from pretrain.reconstruct import reconstruct, strip
from videomae.core.config import load, parse
from videomae.core.files import atomic_path
from videomae.data.build.packing import stored_sample
from videomae.data.transforms.augment import uniform_crops
from videomae.data.transforms.frame_sampling import dense_clip
from videomae.data.video import EncodingConfig, decode, naming, open_writer
from videomae.engine.state.rank_file import EMA, MASTER
from videomae.engine.state.reader import read_full
from videomae.models.weights.convert import read_official
from videomae.models.weights.files import WeightsError, load_strictly
from videomae.models.weights.official import encoder_config, take_apart
from videomae.run.checkpoint.inspection import pick_checkpoint
from videomae.run.directory import RunDirectory

_OFFICIAL_STRIDE = 2  # at 15 stored frames a second: about the 4 of 30 that the official recipe takes
_HEAD_DIM = 64  # of the published decoders
_PANEL = 224  # pixels to which smaller clips are enlarged in moving pictures


@dataclass(frozen=True)
class TrainedAutoencoder:
    """An autoencoder in evaluation mode, and how its clips were sampled and its targets made."""

    model: MaskedAutoencoder
    mask: MaskConfig
    stride: int
    normalized: bool
    share: float = 1.0


@dataclass(frozen=True)
class Reconstruction:
    """The pictures written for one video, and the mean squared error of its hidden pixels, in [0, 1]."""

    source: str
    pixel_error: float
    hidden: float  # fraction of the patches
    files: tuple[str, ...]


def load_autoencoder(path: Path) -> TrainedAutoencoder:
    """Load the newest checkpoint of a pretraining run, or the weights of others.

    Raises:
        UserError: there is no valid checkpoint, or the weights hold no decoder.
    """
    run = RunDirectory(path)
    if run.config.is_file():
        config = load(PretrainConfig, run.config)
        state = read_full(pick_checkpoint(path).folder, EMA if config.optimizer.ema is not None else MASTER)
        model = MaskedAutoencoder(config.encoder, config.decoder)
        load_strictly(model, state, source=str(path))
        target = config.objective
        return TrainedAutoencoder(model.eval(), config.mask, config.data.stride, target.normalize, target.decoder_share)
    return _load_official(path)


def _load_official(path: Path) -> TrainedAutoencoder:
    state, theirs = read_official(path)
    parts = take_apart(state, source=str(path))
    if "encoder_to_decoder.weight" not in parts.rest:
        raise WeightsError(f"{path} holds no decoder; give a pretraining run, or a pretraining checkpoint of VideoMAE")
    dim = len(parts.rest["encoder_to_decoder.weight"])
    blocks = [int(found[1]) for key in parts.rest if (found := re.match(r"decoder\.blocks\.(\d+)\.", key))]
    decoder = DecoderConfig(
        dim=dim, depth=1 + max(blocks), heads=theirs.get("decoder_num_attention_heads") or max(1, dim // _HEAD_DIM)
    )
    encoder = encoder_config(
        parts.encoder,
        frames=theirs.get("num_frames", 16),
        size=theirs.get("image_size", 224),
        heads=theirs.get("num_attention_heads"),
    )
    model = MaskedAutoencoder(encoder, decoder)
    complete = {f"encoder.{key}": value for key, value in parts.encoder.items()} | parts.rest
    load_strictly(model, complete, source=str(path))
    return TrainedAutoencoder(model.eval(), MaskConfig(), _OFFICIAL_STRIDE, bool(theirs.get("norm_pix_loss", True)))


def reconstruct_videos(
    trained: TrainedAutoencoder, videos: Sequence[Path], out: Path, *, mask: MaskConfig, seed: int = 0
) -> list[Reconstruction]:
    """Write a PNG strip, a GIF and an mp4 of the central clip of each video: original, masked, reconstructed.

    Raises:
        VideoError: a video cannot be read.
        UserError: the mask does not fit the model.
    """
    stems = [path.stem for path in videos]
    names = stems if len(set(stems)) == len(stems) else [f"{number:04}-{stem}" for number, stem in enumerate(stems)]
    out.mkdir(parents=True, exist_ok=True)
    return [
        _reconstruct_one(trained, path, out / name, mask, np.random.default_rng([seed, number]))
        for number, (path, name) in enumerate(zip(videos, names, strict=True))
    ]


def _reconstruct_one(
    trained: TrainedAutoencoder, path: Path, stem: Path, mask: MaskConfig, rng: np.random.Generator
) -> Reconstruction:
    encoder = trained.model.encoder.config
    clip_TCHW, fps = _clip(path, encoder.frames, encoder.size, trained.stride)
    item = PretrainItem(clip_TCHW, draw_mask(mask, encoder, rng))
    (triple,) = reconstruct(trained.model, collate([item]), normalized=trained.normalized, share=trained.share)
    hidden = len(item.mask.hidden_H) / encoder.num_patches
    error = ((triple[0].float() - triple[2].float()) / 255).square().mean().item() / hidden
    files = [stem.with_name(stem.name + suffix) for suffix in (".png", ".gif", ".mp4")]
    with atomic_path(files[0]) as part:
        strip(triple).save(part, format="PNG")
    _write_moving(triple, files[1], files[2], fps)
    return Reconstruction(str(path), error, hidden, tuple(str(file) for file in files))


def _clip(path: Path, frames: int, size: int, stride: int) -> tuple[Tensor, float]:
    """The central clip of a video, uint8 (T, C, H, W), and its pictures a second."""
    with naming(path):
        sample = stored_sample(path, EncodingConfig())
        frames_THWC = decode(sample.video, dense_clip(sample.frames, frames, stride, None))
    return uniform_crops(frames_THWC, size)[0], sample.fps / stride


def _write_moving(triple: Tensor, gif: Path, mp4: Path, fps: float) -> None:
    """Write the three clips side by side as GIF and as mp4."""
    zoom = max(1, _PANEL // triple.shape[-1])
    panels = rearrange(triple, "row c t h w -> t h (row w) c").cpu().numpy()
    pictures = [np.ascontiguousarray(panel.repeat(zoom, 0).repeat(zoom, 1)) for panel in panels]
    first, *rest = [Image.fromarray(picture) for picture in pictures]
    with atomic_path(gif) as part:
        first.save(part, format="GIF", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
    with open_writer(mp4, fps=fps) as writer:
        for picture in pictures:
            writer.write(picture)


def mask_config(trained: TrainedAutoencoder, kind: str | None, ratio: float | None) -> MaskConfig:
    """The mask of the training, or another kind or ratio. Raises UserError."""
    if kind is None and ratio is None:
        return trained.mask
    values = {"kind": kind or trained.mask.kind, "ratio": trained.mask.ratio if ratio is None else ratio}
    return parse(MaskConfig, values, source="the mask")
