"""A config names one folder of shards or several with weights; a mistake in the list is named with its entry."""

from pathlib import Path

import pytest
import torch

from pretrain.config import PretrainConfig
from videomae.core.config import ConfigError, dump, parse, to_dict
from videomae.data.datasets import DataSets, WeightedSet, manifest_files, names
from videomae.data.loader.workers import LoaderConfig
from videomae.data.order.mixture import MixedReader, Mixture
from videomae.data.order.order import Order, OrderConfig
from videomae.data.shards.manifest import Manifest, Shard
from videomae.data.shards.reader import ShardReader


def config(shards: object) -> PretrainConfig:
    values = {"run": "runs/x", "batch": 8, "data": {"shards": shards}, "schedule": {"duration": "1 steps"}}
    return parse(PretrainConfig, {**values, "optimizer": {"lr": 1e-3}}, source="test")


def write(folder: Path, samples: int) -> str:
    folder.mkdir()
    shard = Shard(name="000000.tar", samples=samples, bytes=1, sha256="", index_sha256="")
    Manifest(folder=folder, split="train", classes=(), shards=(shard,)).write()
    return str(folder)


def test_one_folder_or_several_come_back_as_they_were_written() -> None:
    one = config("a/train")
    assert one.data.shards == (WeightedSet(shards="a/train"),) == config(["a/train"]).data.shards
    assert parse(PretrainConfig, to_dict(one), source="again") == one
    several = config([{"shards": "a/train", "weight": 3}, {"shards": "s3://b/train"}])
    assert several.data.shards == (WeightedSet(shards="a/train", weight=3), WeightedSet(shards="s3://b/train"))
    assert parse(PretrainConfig, to_dict(several), source="again") == several
    assert "weight: 3.0" in dump(several)
    assert [str(file) for file in manifest_files(one.data.shards)] == ["a/train/manifest.json"]
    assert names(several.data.shards) == "a/train (weight 3), s3://b/train (weight 1)"


def test_drawn_clips_stand_alone_or_beside_shards() -> None:
    alone = config({"synthetic": {"epoch": 640}})
    mixed = config([{"shards": "a/train", "weight": 3}, {"synthetic": {}}])
    assert [names(each.data.shards) for each in (alone, mixed)] == [
        "synthetic",
        "a/train (weight 3), synthetic (weight 1)",
    ]
    assert [str(file) for file in manifest_files(mixed.data.shards)] == ["a/train/manifest.json"]
    for each in (alone, mixed):
        assert parse(PretrainConfig, to_dict(each), source="again") == each
    sets = DataSets.read(alone.data.shards)
    assert sets.order(OrderConfig(), 64).batches == 10


@pytest.mark.parametrize(
    ("shards", "said"),
    [
        (5, r"data.shards: got 5; wanted a folder, "),
        ([], r"wanted a folder, .*or a list"),
        ([{"shards": "a"}, {"weight": 2}], r"data.shards.1: wanted \{shards: FOLDER, weight: NUMBER\}"),
        ([{"shards": "a", "synthetic": {}}], r"data.shards.0: wanted \{shards: FOLDER, weight: NUMBER\}"),
        ([{"shards": "a", "wieght": 2}], r"unknown key 'data.shards.0.wieght'; did you mean 'weight'"),
        ([{"shards": "a", "weight": "much"}], r"data.shards.0.weight: got 'much'; .* number"),
        ("synthetic", r"got 'synthetic'; no folder of this name; for synthetic clips type data.shards="),
        ({"synthetic": 3}, r"data.shards.0.synthetic: got 3"),
        ({"synthetik": {}}, r"unknown key 'data.shards.0.synthetik'; did you mean 'synthetic'"),
        ({"synthetic": {"epok": 3}}, r"unknown key 'data.shards.0.synthetic.epok'; did you mean 'epoch'"),
        ([{"shards": "a"}, {"synthetic": {"objects": [3, 1]}}], r"data.shards.1.synthetic: .* fewest first"),
        ([{"synthetic": {}, "weight": 0}], r"data.shards.0.weight: got 0; .* greater than 0"),
        ([{"shards": "a", "weight": 0}], r"data.shards.0.weight: got 0; .* greater than 0"),
        ([{"shards": "a", "weight": float("nan")}], r"data.shards.0.weight: got nan"),
    ],
)
def test_mistakes_name_the_entry(shards: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        config(shards)
    assert "tuple[" not in str(raised.value)


def test_sets_are_ordered_and_read_alone_or_mixed(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", 40), write(tmp_path / "b", 60)
    alone, both = (
        DataSets.read(config(a).data.shards),
        DataSets.read(config([{"shards": a, "weight": 3}, {"shards": b}]).data.shards),
    )
    assert isinstance(alone.order(OrderConfig(), 8), Order)
    assert isinstance(alone.reader(), ShardReader)
    order, reader = both.order(OrderConfig(), 8), both.reader()
    assert isinstance(order, Mixture)
    assert isinstance(reader, MixedReader)
    assert both.samples == len(reader) == 100
    assert sum(place.sample < 40 for place in order.slots(0)) == 6


def test_batches_are_pinned_where_they_go_to_a_gpu() -> None:
    gpu, cpu = torch.device("cuda", 0), torch.device("cpu")
    assert [LoaderConfig().on(device).pin_memory for device in (gpu, cpu)] == [True, False]
    assert [LoaderConfig(pin_memory=False).on(device).pin_memory for device in (gpu, cpu)] == [False, False]
