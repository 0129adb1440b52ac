"""The streams: equal for any workers and ranks, resumed as if never stopped; bad samples found and bounded."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from videomae.data.batch import AllocClip
from videomae.data.loader.loader import evaluation_stream, train_stream
from videomae.data.loader.micro_batches import Pipeline, RankSlice
from videomae.data.loader.quarantine import BadSampleError, QuotaConfig
from videomae.data.loader.workers import LoaderConfig
from videomae.data.order.order import Order, OrderConfig, Partial
from videomae.data.shards.index import SampleMeta
from videomae.data.shards.manifest import Manifest
from videomae.data.shards.reader import Sample, ShardReader, read_manifest
from videomae.data.shards.writer import ShardWriter

Seen = tuple[str, float, float]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """50 samples in shards of 20; the loader does not look into the videos, so a few bytes stand for each."""
    target = tmp_path / "train"
    target.mkdir()
    shards = []
    for number in range(3):
        writer = ShardWriter(target, number)
        for sample in range(20 * number, min(50, 20 * number + 20)):
            meta = SampleMeta(
                label=sample % 2, class_name="ab"[sample % 2], group=str(sample // 5), frames=9, fps=5.0,
                width=8, height=6, sha256="0" * 64, source=f"{sample}.mp4",
            )  # fmt: skip
            writer.add(f"{sample:03d}", b"%d" % sample * 50, meta)
        shards.append(writer.finish())
    Manifest(folder=target, split="train", classes=("a", "b"), shards=tuple(shards)).write()
    return target


def look(sample: Sample, rngs: tuple[np.random.Generator, ...], alloc: AllocClip | None) -> list[Seen]:
    assert sample.video == sample.key.lstrip("0").encode() * 50 or sample.key == "000"
    return [(sample.key, float(rng.random()), sample.weight) for rng in rngs]


def as_list(items: list[Seen], alloc: AllocClip | None) -> list[Seen]:
    return items


def stream(
    folder: Path,
    *,
    rank: int = 0,
    size: int = 1,
    start: int = 0,
    count: int = 12,
    partial: Partial = "drop",
    **options: object,
) -> list:
    config = LoaderConfig(**{"workers": 0, **options})  # pyright: ignore[reportArgumentType]
    reader = ShardReader(read_manifest(folder))
    batches = train_stream(
        reader,
        Order.of(reader.manifest, 8, OrderConfig(seed=3, partial=partial)),
        Pipeline(look, as_list, repeated_aug=2),
        RankSlice(rank, size, micro_batch=2, start=start),
        config=config,
        quarantine=folder.parent / "quarantine.jsonl",
    )
    return list(itertools.islice(batches, count * 4 // size))


def damage(folder: Path, *keys: str) -> None:
    reader = ShardReader(read_manifest(folder))
    for number in range(len(reader)):
        entry = reader.entry(number)
        if entry.key in keys:
            shard, _ = reader.manifest.locate(number)
            with (folder / reader.manifest.shards[shard].name).open("r+b") as file:
                file.seek(entry.offset)
                file.write(b"#")


@pytest.mark.parametrize(
    "options", [{"workers": 1}, {"workers": 3, "prefetch": 1}, {"workers": 1, "start_method": "spawn"}]
)
def test_workers_change_nothing(folder: Path, options: dict[str, object]) -> None:
    assert stream(folder, **options) == stream(folder)


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_share_out_the_same_batches(folder: Path, size: int) -> None:
    ranks = [stream(folder, rank=rank, size=size) for rank in range(size)]
    each = 4 // size
    together = [micro for batch in range(12) for rank in ranks for micro in rank[batch * each : (batch + 1) * each]]
    assert together == stream(folder)


def test_a_resumed_stream_goes_on_as_if_never_stopped(folder: Path) -> None:
    assert stream(folder, start=5, count=7) == stream(folder, count=12)[5 * 4 :]


def test_bad_samples_are_replaced_listed_once_and_alike_everywhere(folder: Path) -> None:
    whole = stream(folder)
    damage(folder, "007", "031")
    replaced = stream(folder, workers=2)
    assert replaced == stream(folder)
    for before, after in zip(itertools.chain(*whole), itertools.chain(*replaced), strict=True):
        assert (before == after) == (before[0] not in {"007", "031"})
        assert after[0] not in {"007", "031"}
    lines = [json.loads(line) for line in (folder.parent / "quarantine.jsonl").read_text().splitlines()]
    assert [(line["shard"], line["key"]) for line in sorted(lines, key=lambda line: line["key"])] == [
        ("000000.tar", "007"),
        ("000001.tar", "031"),
    ]
    assert all("damaged" in line["reason"] and 0 <= line["step"] < 6 for line in lines)


def test_a_replacement_has_the_weight_of_its_place(folder: Path) -> None:
    whole = list(itertools.chain(*stream(folder, partial="pad", count=7)))
    assert {weight for _, _, weight in whole} == {0.0, 1.0, 4.0}  # the seventh batch of 8 has 2 of the 50 samples
    bad = next(key for key, _, weight in whole if weight == 4)
    damage(folder, bad)
    replaced = list(itertools.chain(*stream(folder, partial="pad", count=7)))
    assert [weight for _, _, weight in replaced] == [weight for _, _, weight in whole]
    assert bad not in {key for key, _, _ in replaced}


@pytest.mark.parametrize(
    ("quota", "said"),
    [
        (QuotaConfig(samples=1), "quota.samples"),
        (QuotaConfig(fraction=0.02), "quota.fraction"),
        (QuotaConfig(per_shard=1), "quota.per_shard in 000000.tar"),
    ],
)
def test_quotas_end_the_run(folder: Path, quota: QuotaConfig, said: str) -> None:
    damage(folder, "007", "009")
    with pytest.raises(BadSampleError, match=said):
        stream(folder, quota=quota)


def test_a_missing_shard_is_counted_not_hung_on(folder: Path) -> None:
    (folder / "000001.tar").unlink()
    with pytest.raises(BadSampleError, match="quota"):
        stream(folder, workers=1)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("size", [1, 3])
def test_evaluation_reads_each_sample_once(folder: Path, workers: int, size: int) -> None:
    reader = ShardReader(read_manifest(folder))
    keys = [
        item[0]
        for rank in range(size)
        for batch in evaluation_stream(
            reader,
            Pipeline(look, as_list),
            RankSlice(rank, size, micro_batch=7),
            config=LoaderConfig(workers=workers),
        )
        for item in batch
    ]
    assert keys == [f"{number:03d}" for number in range(50)]


def test_in_evaluation_a_bad_sample_is_an_error(folder: Path) -> None:
    damage(folder, "031")
    reader = ShardReader(read_manifest(folder))
    with pytest.raises(BadSampleError, match="031"):
        list(
            evaluation_stream(reader, Pipeline(look, as_list), RankSlice(micro_batch=4), config=LoaderConfig(workers=1))
        )


def test_a_batch_that_does_not_divide_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="multiple of 6"):
        stream(folder, size=3)
