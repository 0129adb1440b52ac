"""Data sets mixed by weight: each in its own order, once an epoch of its own, the same for any ranks and workers."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.splits import write_split
from videomae.data.batch import AllocClip
from videomae.data.loader.loader import train_stream
from videomae.data.loader.micro_batches import Pipeline, RankSlice
from videomae.data.loader.workers import LoaderConfig
from videomae.data.order.mixture import MixedReader, Mixture
from videomae.data.order.order import OrderConfig, OrderError, SampleSlot
from videomae.data.shards.manifest import Manifest, Shard
from videomae.data.shards.reader import Sample, ShardReader


def manifest(samples: int) -> Manifest:
    shard = Shard(name="0.tar", samples=samples, bytes=1, sha256="", index_sha256="")
    return Manifest(folder=Path(), split="train", classes=(), shards=(shard,))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(40, 200), st.floats(0.5, 2)), min_size=1, max_size=4),
    st.integers(30, 40),
    st.integers(1, 64),
    st.integers(0, 10**6),
)
def test_ranks_share_batches_and_each_set_comes_once_an_epoch(
    sets: list[tuple[int, float]], batch: int, ranks: int, number: int
) -> None:
    config = OrderConfig(seed=1, partial="pad")
    mixture = Mixture(config, [manifest(size) for size, _ in sets], weights=[w for _, w in sets], batch=batch)
    edges = [batch * rank // ranks for rank in range(ranks + 1)]
    together = [place for start, stop in itertools.pairwise(edges) for place in mixture.slots(number, start, stop)]
    assert together == mixture.slots(number)
    starts = np.cumsum([0, *(size for size, _ in sets)])
    for which, order in enumerate(mixture.orders):
        places = [
            place
            for step in range(order.batches)
            for place in mixture.slots(step)
            if place.position % len(sets) == which
        ]
        real = sorted(place.sample for place in places if place.weight)
        assert real == list(range(starts[which], starts[which + 1]))
    for step in [*range(mixture.batches), number]:
        weights = [place.weight for place in mixture.slots(step)]
        assert sum(weights) == pytest.approx(batch, rel=1e-12)
        assert len({weight for weight in weights if weight}) == 1


def test_weights_decide_the_shares() -> None:
    mixture = Mixture(OrderConfig(), [manifest(100), manifest(1000), manifest(50)], weights=[5, 3, 2], batch=20)
    sets = Counter(0 if place.sample < 100 else 1 if place.sample < 1100 else 2 for place in mixture.slots(7))
    assert sets == {0: 10, 1: 6, 2: 4}
    halves = [Counter(place.sample < 100 for place in mixture.slots(7, start, start + 10))[True] for start in (0, 10)]
    assert halves == [5, 5]  # no rank gets one set alone


def test_a_bad_sample_is_replaced_from_its_own_set() -> None:
    mixture = Mixture(OrderConfig(), [manifest(30), manifest(50)], weights=[1, 1], batch=4)
    for place in mixture.slots(0):
        stand_ins = {mixture.replacements.sample(place, attempt) for attempt in range(100)}
        assert stand_ins <= (set(range(30)) if place.sample < 30 else set(range(30, 80)))
        assert len(stand_ins) > 20


@pytest.mark.parametrize(("weights", "said"), [([1], "2 data sets"), ([1, 0], "above 0"), ([1, 1e-6], "larger batch")])
def test_weights_that_cannot_be_are_refused(weights: list[float], said: str) -> None:
    with pytest.raises(OrderError, match=said):
        Mixture(OrderConfig(), [manifest(30), manifest(50)], weights=weights, batch=8)


def look(
    sample: Sample, rngs: tuple[np.random.Generator, ...], alloc: AllocClip | None
) -> list[tuple[str, int, float]]:
    return [(sample.key, sample.id, float(rng.random())) for rng in rngs]


def as_list(items: list[tuple[str, int, float]], alloc: AllocClip | None) -> list[tuple[str, int, float]]:
    return items


def test_mixed_sets_stream_through_workers(tmp_path: Path) -> None:
    manifests = []
    for name, count in (("a", 12), ("b", 30)):
        keys = [f"{name}{number}" for number in range(count)]
        manifests.append(write_split(tmp_path / name, {key: key.encode() * 9 for key in keys}))
    with (tmp_path / "b" / "000000.tar").open("r+b") as file:
        file.seek(ShardReader(manifests[1]).entry(3).offset)
        file.write(b"#")

    def stream(workers: int, start: int) -> list[list[tuple[str, int, float]]]:
        batches = train_stream(
            MixedReader(manifests),
            Mixture(OrderConfig(), manifests, weights=[1, 2], batch=6),
            Pipeline(look, as_list, repeated_aug=2),
            RankSlice(micro_batch=6, start=start),
            config=LoaderConfig(workers=workers),
            quarantine=tmp_path / "quarantine.jsonl",
        )
        return list(itertools.islice(batches, 20 - start))

    whole = stream(0, 0)
    assert stream(2, 0) == whole
    assert stream(0, 13) == whole[13:]
    assert all(Counter(key[0] for key, _, _ in batch) == {"a": 4, "b": 8} for batch in whole)
    assert not any(key == "b3" for batch in whole for key, _, _ in batch)
    (line,) = (tmp_path / "quarantine.jsonl").read_text().splitlines()
    assert "b/000000.tar" in line
    assert isinstance(Mixture(OrderConfig(), manifests, weights=[1, 2], batch=6).slots(0)[0], SampleSlot)
