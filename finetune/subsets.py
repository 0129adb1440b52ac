"""Choose samples of a labelled split: few-label subsets, and a holdout that shares no source video with the rest.

Two clips share a source if the shards give them the same group or if their source files are identical. All choices are
functions of the labels, the sources and a seed, so every model of a benchmark gets the same samples.

Shapes: S samples of a split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from videomae.core.errors import UserError
from videomae.data.shards.manifest import Manifest
from videomae.data.shards.reader import ShardReader

Ids = npt.NDArray[np.int64]


class SubsetError(UserError):
    """The samples cannot be chosen as the config asks."""


@dataclass(frozen=True)
class LabelledSamples:
    """What a choice depends on: label and source of each sample; sources are numbered from 0."""

    place: str  # of the shards, for messages
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    labels_S: Ids
    sources_S: Ids

    @classmethod
    def read(cls, manifest: Manifest) -> LabelledSamples:
        """Read the index of a split. Raises ShardError."""
        reader = ShardReader(manifest)
        entries = [reader.entry(sample) for sample in range(manifest.samples)]
        return cls(
            place=manifest.url or str(manifest.folder),
            classes=manifest.classes,
            keys=tuple(entry.key for entry in entries),
            labels_S=np.array([entry.label for entry in entries], dtype=np.int64),
            sources_S=source_numbers([(entry.group, entry.sha256) for entry in entries]),
        )


def source_numbers(names: Sequence[tuple[str, str]]) -> Ids:
    """Number the sources: samples whose group or whose file hash is equal, directly or over others, share a number."""
    nodes: dict[tuple[str, str], int] = {}
    edges = [
        (sample, len(names) + nodes.setdefault((kind, name), len(nodes)))
        for sample, (group, digest) in enumerate(names)
        for kind, name in (("group", group), ("file", digest))
        if name
    ]
    size = len(names) + len(nodes)
    start, end = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(edges)), (start, end)), shape=(size, size))
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


def _ranks(samples: LabelledSamples, seed: int) -> Ids:
    """The place of each sample in an order in which sources are shuffled and their samples adjacent."""
    random = np.random.default_rng([seed, 1])
    source_rank = random.permutation(int(samples.sources_S.max(initial=-1)) + 1)
    within = random.permutation(len(samples.sources_S))
    order = np.lexsort((within, source_rank[samples.sources_S]))
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return ranks
