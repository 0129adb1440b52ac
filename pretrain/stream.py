"""Masked clips: read from shards (sampling, decoding, cropping) or drawn, then masked and batched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pretrain.batch import PretrainBatch, PretrainItem, collate
from pretrain.config import PretrainConfig
from pretrain.masking import draw_mask
from videomae.core.distributed import World
from videomae.core.progress import logger
from videomae.data.batch import AllocClip
from videomae.data.datasets import DataSets
from videomae.data.errors import ShardError
from videomae.data.shards.reader import Sample
from videomae.data.stream import BatchStream
from videomae.data.synthetic.drawing import draw_clip
from videomae.data.synthetic.source import SyntheticSample
from videomae.data.transforms.augment import multi_scale_box, random_horizontal_flip, resize
from videomae.data.transforms.frame_sampling import dense_clip
from videomae.data.video import VideoError, decode_boxes


@dataclass(frozen=True)
class MaskedClips:
    """Transform a sample into masked clips, one per generator.

    All random choices come from the given generators. The clips share the same frames, which the first generator draws.
    """

    config: PretrainConfig

    def __call__(
        self, sample: Sample, rngs: Sequence[np.random.Generator], alloc: AllocClip | None = None
    ) -> list[PretrainItem]:
        if isinstance(sample, SyntheticSample):
            return self._drawn(sample, rngs, alloc)
        data, encoder = self.config.data, self.config.encoder
        index_T = dense_clip(sample.frames, encoder.frames, data.stride, rngs[0])
        boxes = [multi_scale_box(sample.height, sample.width, rng, data.scales) for rng in rngs]
        items = []
        for frames_THWC, rng in zip(decode_boxes(sample.video, index_T, boxes), rngs, strict=True):
            frames_TCHW = resize(frames_THWC, encoder.size, alloc)
            frames_TCHW = random_horizontal_flip(frames_TCHW, rng, probability=data.flip, in_place=True)
            items.append(self._masked(frames_TCHW, rng, sample.weight))
        return items

    def _drawn(
        self, sample: SyntheticSample, rngs: Sequence[np.random.Generator], alloc: AllocClip | None
    ) -> list[PretrainItem]:
        """Draw one clip for each generator; there is no video to share."""
        encoder, items = self.config.encoder, []
        for rng in rngs:
            shape = (encoder.frames, encoder.size, encoder.size, 3)
            frames_THWC = torch.empty(shape, dtype=torch.uint8) if alloc is None else alloc(shape)
            draw_clip(sample.config, rng, frames=encoder.frames, size=encoder.size, out=frames_THWC.numpy())
            frames_TCHW = random_horizontal_flip(
                frames_THWC.permute(0, 3, 1, 2), rng, probability=self.config.data.flip, in_place=True
            )
            items.append(self._masked(frames_TCHW, rng, sample.weight))
        return items

    def _masked(self, frames_TCHW: Tensor, rng: np.random.Generator, weight: float) -> PretrainItem:
        config = self.config
        mask = draw_mask(config.mask, config.encoder, rng, share=config.objective.decoder_share)
        return PretrainItem(frames_TCHW, mask, weight)


def open_stream(config: PretrainConfig, world: World) -> BatchStream[PretrainItem, PretrainBatch]:
    """Open the stream of batches of a pretraining run."""
    sets = DataSets.read(config.data.shards)
    plan = config.batch_plan(world)
    return BatchStream(plan, sets, world, data=config.data, transform=MaskedClips(config), collate=collate)


def examples(config: PretrainConfig, count: int) -> PretrainBatch | None:
    """Return up to `count` clips, evenly spaced over the data, cropped and masked as in training; deterministic.

    All hidden patches are to be predicted, whatever the decoder share. Samples that cannot be read are skipped. Returns
    None if no sample can be read.
    """
    sets = DataSets.read(config.data.shards)
    whole = replace(config, objective=replace(config.objective, decoder_share=1.0))
    reader, clips = sets.reader(), MaskedClips(whole)
    items = []
    for id in np.linspace(0, sets.samples - 1, count).round().astype(int):
        try:
            items += clips(reader.read(int(id)), [np.random.default_rng([config.seed, id])])
        except (ShardError, VideoError) as error:
            logger.warning("no picture of sample %d: %s", id, error)
    return collate(items) if items else None
