"""Load labelled clips from shards: sampling, decoding, augmentation and batching for training and evaluation.

Shapes: B batch, R clips per video, N frames in all R clips, C channels, T frames per clip, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from finetune.config import EvaluationConfig, FinetuneConfig, FinetuneDataConfig
from finetune.models.interface import ModelInput
from finetune.subsets import LabelledSamples, Pairs, cut_holdout, few_labels, find_look_alikes
from videomae.core.distributed import World
from videomae.data.batch import AllocClip, TensorBatch, stack_clips, stack_weights
from videomae.data.datasets import DataSets
from videomae.data.errors import ShardError
from videomae.data.loader.loader import evaluation_stream
from videomae.data.loader.micro_batches import Pipeline, RankSlice
from videomae.data.loader.workers import LoaderConfig
from videomae.data.shards.manifest import MANIFEST, Manifest
from videomae.data.shards.reader import Sample, ShardReader, read_manifest
from videomae.data.stream import BatchStream
from videomae.data.transforms.augment import random_erasing, random_horizontal_flip, random_resized_crop, uniform_crops
from videomae.data.transforms.frame_sampling import Indices, dense_clip, multi_view_clips, uniform_segments
from videomae.data.transforms.rand_augment import rand_augment
from videomae.data.video import FramesTHWC, decode


@dataclass(frozen=True)
class LabelledClip:
    """One uint8 clip, its class index, and its weight in means over the batch."""

    frames_TCHW: Tensor
    label: int
    weight: float = 1.0


@dataclass(frozen=True)
class LabelledBatch(TensorBatch):
    """A micro-batch of labelled clips; pixels stay uint8 until they are on the device."""

    video_BCTHW: Tensor
    label_B: Tensor
    weight_B: Tensor | None = None  # float32; None: all clips have equal weight


def collate(clips: Sequence[LabelledClip], alloc: AllocClip | None = None) -> LabelledBatch:
    """Stack clips into a batch; `alloc` provides the memory of the clips."""
    return LabelledBatch(
        video_BCTHW=stack_clips([clip.frames_TCHW for clip in clips], alloc),
        label_B=torch.tensor([clip.label for clip in clips]),
        weight_B=stack_weights(clip.weight for clip in clips),
    )


@dataclass(frozen=True)
class TrainingClips:
    """Transform a sample into augmented training clips, one per generator.

    All random choices come from the given generators.
    """

    data: FinetuneDataConfig
    input: ModelInput

    def __call__(
        self, sample: Sample, rngs: Sequence[np.random.Generator], alloc: AllocClip | None = None
    ) -> list[LabelledClip]:
        index_RT = np.stack([self._index(sample.frames, rng) for rng in rngs])
        frames_RTHWC = _decode(sample, index_RT)
        return [
            LabelledClip(self._alter(frames_THWC, rng), sample.label, sample.weight)
            for frames_THWC, rng in zip(frames_RTHWC, rngs, strict=True)
        ]

    def _index(self, total: int, rng: np.random.Generator) -> Indices:
        if self.input.frame_sampling == "video":
            return uniform_segments(total, self.input.frames, rng)
        return dense_clip(total, self.input.frames, self.input.stride, rng)

    def _alter(self, frames_THWC: FramesTHWC, rng: np.random.Generator) -> Tensor:
        data = self.data
        frames_TCHW = random_resized_crop(frames_THWC, self.input.size, rng, scale=data.scale, ratio=data.ratio)
        frames_TCHW = random_horizontal_flip(frames_TCHW, rng, probability=data.flip)
        if data.rand_augment is not None:
            frames_TCHW = rand_augment(frames_TCHW, data.rand_augment, rng)
        return random_erasing(frames_TCHW, rng, probability=data.random_erasing)


def _decode(sample: Sample, index_RT: Indices) -> npt.NDArray[np.uint8]:
    """frames_RTHWC of all clips; the video is decoded once."""
    frames_NHWC = decode(sample.video, index_RT.reshape(-1))
    return frames_NHWC.reshape(*index_RT.shape, *frames_NHWC.shape[1:])


@dataclass(frozen=True)
class EvaluationViews:
    """Transform a sample into clips x crops views, each a labelled clip; deterministic."""

    evaluation: EvaluationConfig
    input: ModelInput

    def __call__(
        self, sample: Sample, rngs: Sequence[np.random.Generator], alloc: AllocClip | None = None
    ) -> list[LabelledClip]:
        stride = None if self.input.frame_sampling == "video" else self.input.stride
        index_RT = multi_view_clips(sample.frames, self.input.frames, stride, self.evaluation.clips)
        frames_RTHWC = _decode(sample, index_RT)
        return [
            LabelledClip(crop_TCHW, sample.label)
            for frames_THWC in frames_RTHWC
            for crop_TCHW in uniform_crops(frames_THWC, self.input.size, crops=self.evaluation.crops)
        ]


def evaluation_batches(
    manifest: Manifest,
    views: EvaluationViews,
    world: World,
    *,
    loader: LoaderConfig,
    samples: Sequence[int] | None = None,
) -> Iterator[LabelledBatch]:
    """Yield the views of this rank's part of a split, or of `samples` of it; those of a video are consecutive."""
    return evaluation_stream(
        ShardReader(manifest),
        Pipeline(views, collate),
        RankSlice(world.rank, world.size, micro_batch=views.evaluation.videos),
        config=loader.on(world.device),
        samples=samples,
    )


@dataclass(frozen=True)
class ChosenSamples:
    """The ids of the samples of the train split to train on, and of those held out; None: all, and none."""

    train: tuple[int, ...] | None = None
    holdout: tuple[int, ...] | None = None


def choose_samples(config: FinetuneConfig, world: World) -> ChosenSamples:
    """Choose the labels to train on, and cut the holdout from them; all ranks must call this. Raises SubsetError."""
    data, selection = config.data, config.selection
    if data.labels_per_class is None and data.label_fraction is None and selection is None:
        return ChosenSamples()
    samples = LabelledSamples.read(split(config, "train"), look_alikes(config, "train", world))
    ids = np.arange(len(samples.keys))
    if data.labels_per_class is not None or data.label_fraction is not None:
        ids = few_labels(samples, seed=config.seed, per_class=data.labels_per_class, fraction=data.label_fraction)
    if selection is None:
        return ChosenSamples(train=tuple(ids.tolist()))
    train, holdout = cut_holdout(samples, ids, fraction=selection.fraction, seed=config.seed)
    return ChosenSamples(train=tuple(train.tolist()), holdout=tuple(holdout.tolist()))


def open_stream(
    config: FinetuneConfig, world: World, samples: ChosenSamples | None = None
) -> BatchStream[LabelledClip, LabelledBatch]:
    """Open the stream of training batches from the train split, or from the samples chosen of it."""
    chosen = choose_samples(config, world) if samples is None else samples
    return BatchStream(
        config.batch_plan(world),
        DataSets((split(config, "train"),), subset=chosen.train),
        world,
        data=config.data,
        transform=TrainingClips(config.data, config.model.input),
        collate=collate,
    )


def look_alikes(config: FinetuneConfig, name: str, world: World) -> Pairs:
    """The pairs of samples of a split that look alike, where the config asks for them; all ranks must call this."""
    return find_look_alikes(split(config, name), world) if config.data.look_alikes else ()


def split(config: FinetuneConfig, name: str) -> Manifest:
    """Read the manifest of the split `train` or `val`. Raises ShardError."""
    folder = Path(config.data.shards)
    if name == "val" and (folder / "test" / MANIFEST).is_file() and not (folder / name).exists():
        remedy = f"type: mv {folder}/test {folder}/val"
        raise ShardError(f"{folder} has test/, but no val/, on which models are evaluated; {remedy}")
    return read_manifest(folder / name)


def check_labels(manifest: Manifest) -> set[int]:
    """Check that every sample of a split has a label, and return the labels that occur.

    Reads the index of every shard, of which remote ones are fetched.

    Raises:
        ShardError: the split has no classes or only one, or samples without a label, which the message names.
    """
    place = manifest.url or str(manifest.folder)
    if len(manifest.classes) < 2:
        found = f"only the class {manifest.classes[0]!r}" if manifest.classes else "no classes"
        raise ShardError(
            f"{place} has {found}, which suffices for pretraining only; fine-tuning needs at least two: build the "
            "shards from train/<class>/ and val/<class>/ or from lists with labels"
        )
    reader = ShardReader(manifest)
    labels = [reader.entry(sample).label for sample in range(manifest.samples)]
    missing = [sample for sample, label in enumerate(labels) if label < 0]
    if missing:
        named = ", ".join("/".join(reader.shard_and_key(sample)) for sample in missing[:3])
        raise ShardError(
            f"{place}: {len(missing)} of {len(labels)} samples have no label, such as {named}; add KEY.cls to each, "
            "or remove them, and index the tars again"
        )
    return set(labels)
