"""Engine state on disk: assembled from shards, exact, and refused where it does not fit."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.tiny import world_of_one
from videomae.engine.local import LocalEngine
from videomae.engine.optimizer import OptimizerConfig, parameter_groups
from videomae.engine.protocol import EngineConfig, EnginePlan
from videomae.engine.state.rank_file import FORMAT, StateError, rank_file_name
from videomae.engine.state.reader import StateReader, read_full
from videomae.engine.state.restore import restore
from videomae.engine.state.snapshot import Extras, ParamShard, snapshot_to_host, split_replicated


class Model(nn.Module):
    """Two layers, one of them not trained, and a batch norm with statistics of its own."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.first = nn.Linear(4, width).requires_grad_(False)
        self.norm = nn.BatchNorm1d(width)
        self.last = nn.Linear(width, 3)

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.first(x_BD)))


def engine_of(model: nn.Module, *, steps: int = 2, precision: str = "fp32") -> LocalEngine:
    plan = EnginePlan(EngineConfig(kind="local", precision=precision), OptimizerConfig(ema=0.5), world_of_one())
    engine = LocalEngine(model, parameter_groups(model, weight_decay=0.1), plan)
    for seed in range(steps):
        x_BD = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
        engine.train_step([x_BD], lambda module, x_BD: module(x_BD).float().square().mean(), lr=0.1)
    return engine


@pytest.fixture
def saved(tmp_path: Path) -> tuple[LocalEngine, Path]:
    torch.manual_seed(0)
    engine = engine_of(Model())
    engine.snapshot().write(tmp_path)
    return engine, tmp_path


def test_the_whole_state_is_read_back(saved: tuple[LocalEngine, Path]) -> None:
    engine, folder = saved
    for key, average in (("master", False), ("ema", True)):
        state, found = engine.full_state(ema=average), read_full(folder, key)
        assert found.keys() == state.keys()
        assert all(torch.equal(value, found[name]) for name, value in state.items())
    assert read_full(folder, "exp_avg_sq").keys() == {"norm.weight", "norm.bias", "last.weight", "last.bias"}
    assert read_full(folder)["norm.running_mean"].abs().sum() > 0


def test_loading_restores_everything_to_the_bit(saved: tuple[LocalEngine, Path]) -> None:
    engine, folder = saved
    other = engine_of(Model(), steps=0)
    other.load(folder)
    ours, theirs = engine.snapshot(), other.snapshot()
    assert ours.index == theirs.index
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(value, theirs.tensors[name]) for name, value in ours.tensors.items())


def test_the_loss_scale_is_restored(tmp_path: Path) -> None:
    engine = engine_of(Model(), precision="fp16")
    huge = [torch.full((8, 4), 1e4)]
    assert engine.train_step(huge, lambda module, x_BD: module(x_BD).float().square().sum() * 1e30, lr=0.1).skipped == 1
    engine.snapshot().write(tmp_path)
    other = engine_of(Model(), steps=0, precision="fp16")
    other.load(tmp_path)
    scaler = other.snapshot().tensors["scaler"]
    assert scaler.tolist() == [2.0**15, 0.0]


def test_a_snapshot_is_of_its_moment_also_when_written_later(tmp_path: Path) -> None:
    engine = engine_of(Model())
    state, snapshot = engine.full_state(), engine.snapshot()
    writing = threading.Thread(target=snapshot.write, args=(tmp_path,))
    engine.train_step([torch.ones(8, 4)], lambda module, x_BD: module(x_BD).square().mean(), lr=0.1)
    writing.start()
    writing.join()
    found = read_full(tmp_path)
    assert all(torch.equal(value, found[name]) for name, value in state.items())
    file = (tmp_path / rank_file_name(0)).read_bytes()
    header = 8 + int.from_bytes(file[:8], "little")
    assert snapshot.bytes == len(file) - header


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6), size=st.integers(1, 9))
def test_ranks_share_what_all_of_them_have(sizes: list[int], size: int) -> None:
    shards = [ParamShard(str(i), (numel,), 0, {"master": torch.arange(numel).float()}) for i, numel in enumerate(sizes)]
    parts = [split_replicated(shards, rank=rank, size=size) for rank in range(size)]
    counts = [sum(part.stop - part.start for part in own) for own in parts]
    assert sum(counts) == sum(sizes)
    assert max(counts) - min(counts) <= 1
    seen = {(part.name, index) for own in parts for part in own for index in range(part.start, part.stop)}
    assert len(seen) == sum(sizes)
    assert all(torch.equal(p.values["master"], torch.arange(p.start, p.stop).float()) for own in parts for p in own)


def write_parts(folder: Path, *, size: int, numel: int = 10, rank_value: float = 0.0) -> None:
    """A parameter w of 0, 1, ... and a buffer, written by `size` ranks."""
    shards = [ParamShard("w", (2, numel // 2), 0, {"master": torch.arange(numel).float()}, torch.tensor(3.0))]
    for rank in range(size):
        extras = Extras({"mean": torch.tensor([rank + rank_value]), "count": torch.tensor(rank)})
        snapshot_to_host(split_replicated(shards, rank=rank, size=size), extras, rank=rank, size=size).write(folder)


def test_any_range_is_read_out_of_the_parts_of_all_ranks(tmp_path: Path) -> None:
    write_parts(tmp_path, size=3)
    with StateReader(tmp_path) as state:
        assert state.read_range("master", "w", 2, 9).tolist() == [2, 3, 4, 5, 6, 7, 8]
        assert state.steps("w") == 3
    assert read_full(tmp_path)["w"].tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_buffers_are_each_ranks_own_or_for_another_number_of_ranks_their_mean(tmp_path: Path) -> None:
    write_parts(tmp_path, size=3, rank_value=0.5)
    with StateReader(tmp_path) as state:
        assert [state.buffers(rank=rank, size=3)["mean"].item() for rank in range(3)] == [0.5, 1.5, 2.5]
        other = state.buffers(rank=1, size=2)
    assert other["mean"].item() == 1.5
    assert other["count"].item() == 0


@contextmanager
def refused(folder: Path, *says: str) -> Iterator[None]:
    """A load that fails, names the folder and says so, and leaves the engine as it was."""
    engine = engine_of(Model(), steps=1)
    before = engine.snapshot()
    yield
    with pytest.raises(StateError) as error:
        engine.load(folder)
    for part in (str(folder), *says):
        assert part in str(error.value)
    after = engine.snapshot()
    assert all(torch.equal(value, after.tensors[name]) for name, value in before.tensors.items())


def test_no_state_is_refused(tmp_path: Path) -> None:
    with refused(tmp_path, "has no rank-00000.safetensors", "type resume=auto"):
        pass


def test_a_missing_rank_is_refused(tmp_path: Path) -> None:
    write_parts(tmp_path, size=3)
    with refused(tmp_path, "has no rank-00001.safetensors"):
        (tmp_path / rank_file_name(1)).unlink()


@pytest.mark.parametrize("keep", [0, 5, 300])
def test_a_truncated_file_is_refused(saved: tuple[LocalEngine, Path], keep: int) -> None:
    path = saved[1] / rank_file_name(0)
    with refused(saved[1], "is damaged", "type resume=auto"):
        path.write_bytes(path.read_bytes()[:keep])


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    with refused(tmp_path, "another kind of file", FORMAT):
        safetensors.torch.save_file({"weight": torch.ones(2)}, tmp_path / rank_file_name(0))


def test_the_state_of_another_model_is_refused(tmp_path: Path) -> None:
    with refused(tmp_path, "it lacks first.bias", "and has 0.bias, 0.weight", "run=PATH"):
        engine_of(nn.Sequential(nn.Linear(4, 3))).snapshot().write(tmp_path)


def test_other_sizes_are_refused(tmp_path: Path) -> None:
    with refused(tmp_path, "has first.weight of shape (7, 4), expected (6, 4)"):
        engine_of(Model(7)).snapshot().write(tmp_path)


def test_a_lost_range_is_refused(saved: tuple[LocalEngine, Path]) -> None:
    path = saved[1] / rank_file_name(0)
    with refused(saved[1], "lacks exp_avg of last.weight from value 0, needed 0 to 18"):
        with safetensors.safe_open(path, framework="pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in list(file.keys())}, file.metadata()
        del tensors["exp_avg|last.weight|0"]
        safetensors.torch.save_file(tensors, path, metadata=metadata)


def test_an_unknown_key_is_refused_with_those_that_are_there(saved: tuple[LocalEngine, Path]) -> None:
    with pytest.raises(StateError, match="holds no momentum, but ema, exp_avg, exp_avg_sq, master"):
        read_full(saved[1], "momentum")


def test_a_file_that_cannot_be_written_is_an_os_error(saved: tuple[LocalEngine, Path]) -> None:
    with pytest.raises(OSError, match=r"nowhere.* cannot be written"):
        saved[0].snapshot().write(saved[1] / "nowhere")


def test_parts_of_ranks_that_count_steps_together_take_the_largest(tmp_path: Path) -> None:
    write_parts(tmp_path, size=1)
    steps = torch.tensor(0.0)
    values = torch.zeros(prod((2, 5)))
    with StateReader(tmp_path) as state:
        shards = [
            ParamShard("w", (2, 5), 0, {"master": values[:5]}, steps),
            ParamShard("w", (2, 5), 5, {"master": values[5:]}),
        ]
        restore(shards, [], state, world_of_one())
    assert steps.item() == 3.0
    assert values.tolist() == list(range(10))
    assert json.loads(safetensors.safe_open(tmp_path / rank_file_name(0), "pt").metadata()["index"])["steps"] == ["w"]
