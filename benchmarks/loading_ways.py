"""The ways of loading that a benchmark compares: each makes the same kind of clip from the same videos, with N workers.

- ours, ours_k4: `train_stream` over the shards, one crop or four from a decoding.
- webdataset: stock `webdataset` over the same tars: its reading, shuffling, decoding of the JSON, batching; frames by
  our decoder for files of any kind (`decode_with_demuxer`), which converts them whole; the crop and size as ours.
- webdataset_lent: the same with the decoder of our reader, which leaves out frames that nobody needs and
  converts only crops.
- official, official_originals: see `OfficialWay`, over files of short side 320, and over the originals.
- floor: a loop that reads each sample's bytes, opens them with PyAV, decodes up to the last wanted frame and converts
  the wanted ones to RGB: no crop, no batch.

torchcodec is no way of its own: it has no build for every torch. Beside them once (0.13, on PyAV's FFmpeg), it took as
long for the same frames as `decode_with_demuxer`, 1.6 times as long as `decode`, with the same pixels.
"""

from __future__ import annotations

import importlib
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from webdataset.compat import WebDataset

from benchmarks.loading_clips import Clips
from videomae.data.batch import AllocClip, stack_clips
from videomae.data.loader.loader import train_stream
from videomae.data.loader.micro_batches import Pipeline, RankSlice
from videomae.data.loader.workers import LoaderConfig
from videomae.data.order.order import Order, OrderConfig
from videomae.data.shards.manifest import Manifest
from videomae.data.shards.reader import Sample, ShardReader
from videomae.data.transforms.augment import IMAGENET_MEAN, IMAGENET_STD, multi_scale_box, resize
from videomae.data.transforms.augment import crop as crop_box
from videomae.data.transforms.frame_sampling import Indices, uniform_segments
from videomae.data.video import FrameHWC, FramesTHWC, decode_boxes, decode_with_demuxer

FRAMES, SIZE, CROPS = 16, 224, 4
CLIPS_OF_A_VIDEO = {"ours_k4": CROPS}  # by way; one if it is not here
MICRO_BATCH = 4
_PREFETCH = 2
_SHUFFLED = 100  # samples in webdataset's shuffle buffer

Way = Callable[[int], Iterator[Tensor]]  # number of workers -> batches of clips without end


def ways(clips: Clips, *, official: bool) -> dict[str, Way]:
    """Every way by its name."""
    found: dict[str, Way] = {
        "ours": lambda workers: _ours(clips, repeats=1, workers=workers),
        "ours_k4": lambda workers: _ours(clips, repeats=CROPS, workers=workers),
        "webdataset": lambda workers: _webdataset(clips.manifest, crop_whole, workers),
        "webdataset_lent": lambda workers: _webdataset(clips.manifest, crop_early, workers),
        "floor": lambda _: _floor(clips.manifest),
    }
    if official:
        found["official"] = lambda workers: _official(OfficialWay(clips.resized), workers)
        found["official_originals"] = lambda workers: _official(OfficialWay(clips.originals), workers)
    return found


def crop_clips(sample: Sample, rngs: tuple[np.random.Generator, ...], alloc: AllocClip | None = None) -> list[Tensor]:
    """One uint8 clip_TCHW for every generator, from one decoding that converts only the crops."""
    index_T = uniform_segments(sample.frames, FRAMES, rngs[0])
    boxes = [multi_scale_box(sample.height, sample.width, rng) for rng in rngs]
    return [resize(frames_THWC, SIZE, alloc) for frames_THWC in decode_boxes(sample.video, index_T, boxes)]


def _ours(clips: Clips, *, repeats: int, workers: int) -> Iterator[Tensor]:
    reader = ShardReader(clips.manifest)
    batch = min(MICRO_BATCH, len(reader))
    return train_stream(
        reader,
        Order.of(clips.manifest, batch, OrderConfig()),
        Pipeline(crop_clips, stack_clips, repeated_aug=repeats),
        RankSlice(micro_batch=batch),
        config=LoaderConfig(workers=workers, prefetch=_PREFETCH),
        quarantine=clips.manifest.folder / "quarantine.jsonl",
    )


def crop_whole(video: bytes, meta: dict[str, Any], rng: np.random.Generator) -> Tensor:
    """A clip_TCHW cut from frames that were decoded and converted whole."""
    frames_THWC = decode_with_demuxer(video, uniform_segments(meta["frames"], FRAMES, rng))[0]
    _, height, width, _ = frames_THWC.shape
    return resize(crop_box(frames_THWC, multi_scale_box(height, width, rng)), SIZE)


def crop_early(video: bytes, meta: dict[str, Any], rng: np.random.Generator) -> Tensor:
    """The same clip by the decoder that converts only the crop."""
    index_T = uniform_segments(meta["frames"], FRAMES, rng)
    box = multi_scale_box(meta["height"], meta["width"], rng)
    return resize(decode_boxes(video, index_T, [box])[0], SIZE)


def _webdataset(
    manifest: Manifest, crop: Callable[[bytes, dict[str, Any], np.random.Generator], Tensor], workers: int
) -> Iterator[Tensor]:
    seeds = itertools.count()

    def transform(sample: dict[str, Any]) -> Tensor:
        return crop(sample["mp4"], sample["json"], np.random.default_rng(next(seeds)))

    shards = [str(manifest.folder / shard.name) for shard in manifest.shards]
    pipeline: Any = (
        WebDataset(shards, shardshuffle=len(shards), seed=0)
        .shuffle(_SHUFFLED)
        .decode()
        .map(transform)
        .batched(MICRO_BATCH, collation_fn=stack_clips)
    )
    pipeline = pipeline.repeat()
    if workers:
        pipeline = DataLoader(pipeline, batch_size=None, num_workers=workers, prefetch_factor=_PREFETCH)
    return iter(pipeline)


def _floor(manifest: Manifest) -> Iterator[Tensor]:
    reader = ShardReader(manifest)
    for number in itertools.cycle(range(len(reader))):
        sample = reader.read(number)
        index_T = uniform_segments(sample.frames, FRAMES, np.random.default_rng(number))
        yield torch.from_numpy(decode_sequentially(sample.video, index_T))[None]


def decode_sequentially(video: bytes, index_T: Indices) -> FramesTHWC:
    """Decode everything from the start to the last wanted frame, and convert the wanted frames whole."""
    wanted, last = {int(index) for index in index_T}, int(max(index_T))
    found: dict[int, FrameHWC] = {}
    with av.open(io.BytesIO(video), mode="r") as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                found[number] = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
            if number == last:
                break
    return np.stack([found[int(index)] for index in index_T])


def _official(data: OfficialWay, workers: int) -> Iterator[Tensor]:
    places = itertools.cycle(range(len(data)))
    if not workers:
        return (data[number][None] for number in places)
    batches = iter(lambda: list(itertools.islice(places, MICRO_BATCH)), [])
    return iter(DataLoader(data, batch_sampler=batches, num_workers=workers, prefetch_factor=_PREFETCH))


class OfficialWay(Dataset[Tensor]):
    """How the official VideoMAE loads, written anew from its description: item (number) -> float clip_CTHW, normalised.

    decord opens a file and returns the sampled frames, which become PIL images, are cut by TSN's multi-scale crop,
    resized by PIL, and made a normalised float tensor on the CPU. decord comes with the extra `bench`.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._decord = None

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> Tensor:
        self._decord = self._decord or importlib.import_module("decord")
        rng = np.random.default_rng(number)
        reader = self._decord.VideoReader(str(self._files[number % len(self._files)]), num_threads=1)
        index_T = uniform_segments(len(reader), FRAMES, rng)
        images = [Image.fromarray(frame).convert("RGB") for frame in reader.get_batch(index_T.tolist()).asnumpy()]
        box = multi_scale_box(images[0].height, images[0].width, rng)
        corners = (box.left, box.top, box.left + box.width, box.top + box.height)
        images = [image.crop(corners).resize((SIZE, SIZE), Image.Resampling.BILINEAR) for image in images]
        stacked_HWN = torch.from_numpy(np.concatenate([np.asarray(image) for image in images], axis=2))
        clip_TCHW = stacked_HWN.permute(2, 0, 1).contiguous().float().div(255).unflatten(0, (FRAMES, 3))
        mean_C11, std_C11 = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        return ((clip_TCHW - mean_C11) / std_C11).transpose(0, 1)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_decord": None}
