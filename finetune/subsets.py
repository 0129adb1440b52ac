"""Choose samples of a labelled split: few-label subsets, and a holdout that shares no source video with the rest.

Two clips share a source if the shards give them the same group, if their source files are identical, or, where asked
for, if they look alike. All choices are functions of the labels, the sources and a seed, so every model of a benchmark
gets the same samples.

Clips look alike if at most a tenth of the bits of their difference hashes differ: whether each pixel of three frames,
reduced to 8 x 9 grey pixels, is brighter than the next one. Copies that are encoded, scaled or named anew do, and clips
of one fixed camera may.

Shapes: S samples of a split, B bits, T frames, H height, W width, C channels.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from videomae.core.distributed import World
from videomae.core.errors import UserError
from videomae.core.progress import track
from videomae.data.shards.manifest import Manifest
from videomae.data.shards.reader import ShardReader
from videomae.data.video import FramesTHWC, decode

Ids = npt.NDArray[np.int64]
Pairs = tuple[tuple[int, int], ...]
_TOLERANCE = 0.1  # share of the bits in which clips that look alike may differ
_ROWS = 1024  # clips that are compared with all others at once


class SubsetError(UserError):
    """The samples cannot be chosen as the config asks."""


@dataclass(frozen=True)
class LabelledSamples:
    """What a choice depends on: label and source of each sample; sources are numbered from 0."""

    place: str  # of the shards, for messages
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    groups: tuple[str, ...]
    files: tuple[str, ...]  # SHA-256 of the source files
    labels_S: Ids
    sources_S: Ids

    @classmethod
    def read(cls, manifest: Manifest, alike: Pairs = ()) -> LabelledSamples:
        """Read the index of a split; the samples of each pair of `alike` share a source, too. Raises ShardError."""
        reader = ShardReader(manifest)
        entries = [reader.entry(sample) for sample in range(manifest.samples)]
        return cls(
            place=manifest.url or str(manifest.folder),
            classes=manifest.classes,
            keys=tuple(entry.key for entry in entries),
            groups=tuple(entry.group for entry in entries),
            files=tuple(entry.sha256 for entry in entries),
            labels_S=np.array([entry.label for entry in entries], dtype=np.int64),
            sources_S=source_numbers([(entry.group, entry.sha256) for entry in entries], alike),
        )

    @property
    def source_names(self) -> tuple[str, ...]:
        """The source of each sample as the group of the source's first sample."""
        first = np.unique(self.sources_S, return_index=True)[1]
        return tuple(self.groups[first[source]] for source in self.sources_S)


@functools.lru_cache(maxsize=4)  # the runs of a benchmark share it
def find_look_alikes(manifest: Manifest, world: World) -> Pairs:
    """The pairs of samples of a split that look alike; all ranks must call this function.

    Each rank decodes three frames of every clip of its share of the split, and compares its share with all clips, so no
    rank waits long for another.

    Raises:
        ShardError, VideoError: a clip cannot be read; on every rank.
    """
    share = np.array_split(np.arange(manifest.samples), world.size)[world.rank]  # adjacent samples share a shard
    hashes = world.run_all_or_raise(lambda: _difference_hashes(manifest, share, show=world.is_main))
    bits_SB = np.array(list(itertools.chain(*world.all_gather_object(hashes))), dtype=bool)
    return tuple(itertools.chain(*world.all_gather_object(alike(bits_SB, share))))


def _difference_hashes(manifest: Manifest, samples: Ids, *, show: bool) -> list[npt.NDArray[np.bool_]]:
    reader, hashes = ShardReader(manifest), []
    with track("Looking for clips that look alike", total=len(samples), show=show) as task:
        for number in samples.tolist():
            sample = reader.read(number)
            places = np.linspace(0, sample.frames - 1, 5).round().astype(int)[1:-1]
            hashes.append(difference_hash(decode(sample.video, places)))
            task.advance()
    return hashes


def difference_hash(frames_THWC: FramesTHWC) -> npt.NDArray[np.bool_]:
    """The bits_B of uint8 frames, 64 a frame."""
    small = [Image.fromarray(frame).convert("L").resize((9, 8), Image.Resampling.BOX) for frame in frames_THWC]
    return np.concatenate([np.diff(np.asarray(image, dtype=np.int16), axis=1).ravel() > 0 for image in small])


def alike(bits_SB: npt.NDArray[np.bool_], samples: Ids) -> Pairs:
    """The pairs (i < j) of hashes that hardly differ, with i among `samples`.

    The product of two hashes of +1 and -1 is B minus twice the number of bits that differ.
    """
    signs_SB = np.where(bits_SB, 1, -1).astype(np.float32)
    least = bits_SB.shape[1] * (1 - 2 * _TOLERANCE)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(samples), _ROWS):
        some = samples[start : start + _ROWS]
        rows, others = (signs_SB[some] @ signs_SB.T >= least).nonzero()
        later = others > some[rows]
        pairs += zip(some[rows[later]].tolist(), others[later].tolist(), strict=True)
    return tuple(pairs)


def source_numbers(names: Sequence[tuple[str, str]], pairs: Pairs = ()) -> Ids:
    """Number the sources: samples with the same group or file hash, or in one of the `pairs`, share a number, and so
    do those that are linked over others.
    """
    nodes: dict[tuple[str, str], int] = {}
    edges = [
        (sample, len(names) + nodes.setdefault((kind, name), len(nodes)))
        for sample, (group, digest) in enumerate(names)
        for kind, name in (("group", group), ("file", digest))
        if name
    ]
    size = len(names) + len(nodes)
    start, end = np.array([*edges, *pairs], dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(start)), (start, end)), shape=(size, size))
    _, numbers = connected_components(graph, directed=False)
    return np.unique(numbers[: len(names)], return_inverse=True)[1].astype(np.int64)


def few_labels(samples: LabelledSamples, *, seed: int, per_class: int | None, fraction: float | None) -> Ids:
    """Return the ids of a subset with `per_class` samples of each class, or with a `fraction` of each class.

    Sources are taken whole, in an order drawn from the seed, until a class is complete; at most one source per class is
    cut. With the same seed, a smaller subset is part of every larger one.

    Raises:
        SubsetError: a class has fewer samples, or the fraction leaves it empty.
    """
    ranks_S = _ranks(samples, seed)
    chosen = []
    for label, name in enumerate(samples.classes):
        members = np.flatnonzero(samples.labels_S == label)
        wanted = per_class if per_class is not None else int((fraction or 0) * len(members) + 0.5)
        if wanted < 1:
            raise SubsetError(
                f"{samples.place}: label_fraction={fraction} leaves the class {name!r} empty, which has "
                f"{len(members)} samples; type a larger fraction, or labels_per_class=1"
            )
        if wanted > len(members):
            raise SubsetError(
                f"{samples.place}: labels_per_class={wanted}, but the class {name!r} has only {len(members)} samples"
            )
        chosen.append(members[np.argsort(ranks_S[members])][:wanted])
    return np.sort(np.concatenate(chosen))


def cut_holdout(samples: LabelledSamples, ids: Ids, *, fraction: float, seed: int) -> tuple[Ids, Ids]:
    """Split `ids` into those to train on and a holdout of about this fraction of each class, without shared sources.

    Raises:
        SubsetError: the sources are too few to give both parts every class.
    """
    labels, sources = samples.labels_S[ids], samples.sources_S[ids]
    folds = round(1 / fraction)
    if len(np.unique(sources)) >= folds and np.bincount(labels).max() >= folds:
        splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a class that is smaller than the number of folds
            for train, holdout in splitter.split(ids, labels, sources):
                if len(np.unique(labels[train])) == len(np.unique(labels[holdout])) == len(samples.classes):
                    return ids[train], ids[holdout]
    counts = ", ".join(
        f"{len(np.unique(sources[labels == label]))} of {name}" for label, name in enumerate(samples.classes)
    )
    raise SubsetError(
        f"{samples.place}: no holdout of {fraction:g} can be cut off by source video, for {len(ids)} samples come from "
        f"{len(np.unique(sources))} sources ({counts}), and both parts need every class; train on more labels or "
        "sources, or remove selection"
    )


def _ranks(samples: LabelledSamples, seed: int) -> Ids:
    """The place of each sample in an order in which sources are shuffled and their samples adjacent."""
    random = np.random.default_rng([seed, 1])
    source_rank = random.permutation(int(samples.sources_S.max(initial=-1)) + 1)
    within = random.permutation(len(samples.sources_S))
    order = np.lexsort((within, source_rank[samples.sources_S]))
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return ranks
