"""Ranks restore state together: exact, each byte read once, each file opened only by ranks that need it, no hangs."""

import json
import shutil
import threading
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.checkpoint_loading import partition
from tests.processes import run_command
from tests.rank_threads import on_threads
from videomae.core.distributed import World
from videomae.engine.state.index import FileRead, read_index
from videomae.engine.state.rank_file import RankFile, StateError, rank_file_name
from videomae.engine.state.reader import StateReader
from videomae.engine.state.restore import plan_reads, read_and_all_gather, restore
from videomae.engine.state.snapshot import Extras, ParamShard, snapshot_to_host, split_replicated

SHAPES = {"embed.weight": (5, 7), "norm.bias": (3,), "head.weight": (64, 3), "head.bias": (1,), "table": (11,)}
FROZEN = ("embed.weight", "head.bias")
MOMENTS = ("exp_avg", "exp_avg_sq", "ema")
ODD = torch.tensor([0x7FC12345, -0x80000000, 0x7F800001, -0x00400000, 1], dtype=torch.int32)  # NaNs, -0, subnormal


def full_state(*, frozen: tuple[str, ...] = (), seed: int | None = 0) -> list[ParamShard]:
    """The full state as shards; unusual bit patterns included, or zeros without a seed."""
    shards = []
    for number, (name, shape) in enumerate(SHAPES.items()):
        keys = ("master",) if name in frozen else ("master", *MOMENTS)
        values = {key: torch.zeros(prod(shape)) for key in keys}
        if seed is not None:
            for key, value in values.items():
                generator = torch.Generator().manual_seed(seed + 100 * number + len(key))
                value.copy_(torch.randn(value.shape, generator=generator))
                value.view(torch.int32)[:5] = ODD[: value.numel()]
        steps = None if name in frozen else torch.tensor(0.0 if seed is None else 3.0 + number)
        shards.append(ParamShard(name, shape, 0, values, steps))
    return shards


LAYOUTS = {"contiguous": split_replicated, "partitioned": partition}


def write(folder: Path, *, layout: str, size: int, frozen: tuple[str, ...] = ()) -> None:
    """Write a state of `size` files; each rank has its own running mean."""
    folder.mkdir(exist_ok=True)
    for rank in range(size):
        own = LAYOUTS[layout](full_state(frozen=frozen), rank=rank, size=size)
        snapshot_to_host(own, Extras({"mean": torch.tensor([rank + 0.5])}), rank=rank, size=size).write(folder)


def load(folder: Path, world: World, *, layout: str, frozen: tuple[str, ...] = ()) -> list[ParamShard]:
    """Load, and return the rank's shards: all if replicated, else its part of trained and all frozen parameters."""
    empty = full_state(frozen=frozen, seed=None)
    replicated = empty if layout == "replicated" else [part for part in empty if part.name in frozen]
    trained = [part for part in empty if part.name not in frozen]
    own = [] if layout == "replicated" else LAYOUTS[layout](trained, rank=world.rank, size=world.size)
    with StateReader.open_on_all_ranks(folder, world) as state:
        restore(own, replicated, state, world)
    return [*own, *replicated]


def differs(parts: list[ParamShard], frozen: tuple[str, ...] = ()) -> list[str]:
    """The values that are not bit-equal to what was written."""
    found, written = [], {part.name: part for part in full_state(frozen=frozen)}
    for part in parts:
        wanted = written[part.name].narrow(part.start, part.stop)
        for key, value in part.values.items():
            if not torch.equal(value.view(torch.int32), wanted.values[key].view(torch.int32)):
                found.append(f"{key} of {part.name}")
        if (part.steps, wanted.steps) != (None, None) and part.steps != wanted.steps:
            found.append(f"steps of {part.name}")
    return found


class Reads:
    """Counts files opened and bytes read by each thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: Counter[tuple[threading.Thread, int]] = Counter()  # by (thread, file's rank)
        self.bytes: Counter[threading.Thread] = Counter()
        opening, filling = RankFile.__init__, RankFile._fill

        def opened(file: RankFile, folder: Path, rank: int) -> None:
            self.opened[threading.current_thread(), rank] += 1
            opening(file, folder, rank)

        def filled(file: RankFile, room: memoryview, offset: int) -> None:
            self.bytes[threading.current_thread()] += len(room)
            filling(file, room, offset)

        monkeypatch.setattr(RankFile, "__init__", opened)
        monkeypatch.setattr(RankFile, "_fill", filled)

    def files(self) -> int:
        """How often this thread has opened a file."""
        return sum(count for (thread, _), count in self.opened.items() if thread == threading.current_thread())


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


@pytest.mark.parametrize("frozen", [(), FROZEN], ids=["trained", "frozen"])
@pytest.mark.parametrize("written", ["contiguous-1", "contiguous-2", "contiguous-5", "partitioned-2", "partitioned-4"])
@pytest.mark.parametrize("layout", ["replicated", "contiguous", "partitioned"])
def test_any_number_of_ranks_reads_what_any_number_wrote(
    tmp_path: Path, written: str, layout: str, frozen: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    how, count = written.split("-")
    write(tmp_path, layout=how, size=int(count), frozen=frozen)
    monkeypatch.setattr("videomae.engine.state.restore.PART", 50)
    for size in (1, 2, 3, 4, 8):
        shards = on_threads(size, lambda world: load(tmp_path, world, layout=layout, frozen=frozen))
        assert [differs(parts, frozen) if isinstance(parts, list) else parts for parts in shards] == [[]] * size


@given(size=st.integers(1, 6), bucket=st.integers(1, 400), written=st.integers(1, 4))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_bucket_may_have_any_size(tmp_path: Path, size: int, bucket: int, written: int) -> None:
    folder = tmp_path / str(written)
    write(folder, layout="partitioned", size=written)

    def fill(world: World) -> list[ParamShard]:
        shards = full_state(seed=None)
        with StateReader.open_on_all_ranks(folder, world) as state:
            read_and_all_gather(plan_reads(shards, state), state, world, bucket=bucket)
        return shards

    for shards in on_threads(size, fill):
        assert isinstance(shards, list), shards
        assert {line for line in differs(shards) if not line.startswith("steps")} == set()


@pytest.mark.parametrize("how", ["contiguous", "partitioned"])
@pytest.mark.parametrize("size", [2, 4, 8])
def test_replicated_values_are_read_once_by_all_ranks_together(
    tmp_path: Path, reads: Reads, size: int, how: str
) -> None:
    write(tmp_path, layout=how, size=8)

    def act(world: World) -> tuple[int, int]:
        shards = full_state(seed=None)
        with StateReader.open_on_all_ranks(tmp_path, world) as state:
            before = reads.files(), reads.bytes[threading.current_thread()]
            restore([], shards, state, world)
        return reads.files() - before[0], reads.bytes[threading.current_thread()] - before[1]

    found = [result for result in on_threads(size, act) if not isinstance(result, Exception)]
    assert len(found) == size
    kept = sum(value.numel() * 4 for part in full_state() for value in part.values.values())
    assert sum(read for _, read in found) == kept
    assert max(read for _, read in found) <= kept / size + 4
    assert max(opens for opens, _ in found) <= 8 // size + 1


def test_rank_0_alone_reads_the_headers_and_a_rank_only_the_file_that_is_its_own(tmp_path: Path, reads: Reads) -> None:
    size = 32
    write(tmp_path, layout="partitioned", size=size)
    found = on_threads(size, lambda world: (differs(load(tmp_path, world, layout="partitioned")), reads.files()))
    assert found == [([], 1)] * size
    assert sum(reads.opened.values()) == 2 * size, "the headers, read by threads of rank 0, and the values"


@pytest.mark.timeout(120)
def test_one_of_many_ranks_opens_a_file_or_two() -> None:
    """As the benchmark counts it."""
    for found in json.loads(run_command("benchmarks.checkpoint_loading", "--files", "24", "--json")):
        assert found["index_opens"] == 24
        assert found["own_opens"] == 1
        assert found["replicated_opens"] <= 2


def refusals(folder: Path, size: int, *, layout: str) -> list[str]:
    """The errors of the ranks, each of which must refuse to load."""
    found = on_threads(size, lambda world: load(folder, world, layout=layout))
    assert all(isinstance(error, StateError) for error in found), found
    return [str(error) for error in found]


@pytest.mark.parametrize("layout", ["replicated", "contiguous", "partitioned"])
def test_a_damaged_header_is_an_error_on_every_rank(tmp_path: Path, layout: str) -> None:
    write(tmp_path, layout="contiguous", size=3)
    (tmp_path / rank_file_name(2)).write_bytes(b"what")
    complaints = refusals(tmp_path, 4, layout=layout)
    assert len(set(complaints)) == 1
    assert f"{rank_file_name(2)} is damaged" in complaints[0]


@pytest.mark.parametrize("layout", ["replicated", "contiguous", "partitioned"])
def test_a_disk_that_fails_one_rank_is_an_error_on_every_rank(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, layout="contiguous", size=4)
    reading = StateReader.read

    def read_or_fail(state: StateReader, item: FileRead, **out: Any) -> None:
        if item.rank == 2:
            raise StateError("rank-00002.safetensors cannot be read")
        reading(state, item, **out)

    monkeypatch.setattr(StateReader, "read", read_or_fail)
    monkeypatch.setattr("videomae.engine.state.restore.PART", 20)
    assert set(refusals(tmp_path, 4, layout=layout)) == {"rank-00002.safetensors cannot be read"}


@pytest.mark.parametrize("layout", ["replicated", "contiguous"])
def test_a_file_that_differs_on_another_host_is_an_error_on_every_rank(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, layout="contiguous", size=4)
    indexing = read_index

    def index_then_change(folder: Path) -> Any:
        index = indexing(folder)
        (folder / rank_file_name(3)).write_bytes((folder / rank_file_name(3)).read_bytes()[:-8])
        return index

    monkeypatch.setattr("videomae.engine.state.reader.read_index", index_then_change)
    complaints = refusals(tmp_path, 4, layout=layout)
    assert len(set(complaints)) == 1
    assert f"{rank_file_name(3)} is damaged" in complaints[0]
    assert "expected" in complaints[0]


@pytest.mark.parametrize("layout", ["replicated", "contiguous", "partitioned"])
def test_a_range_that_one_rank_lacks_is_an_error_on_every_rank_and_changes_nothing(tmp_path: Path, layout: str) -> None:
    write(tmp_path, layout="contiguous", size=4)
    part = [shards for shards in split_replicated(full_state(), rank=3, size=4) if shards.name != "table"]
    snapshot_to_host(part, Extras({"mean": torch.tensor([3.5])}), rank=3, size=4).write(tmp_path)
    kept: dict[int, list[ParamShard]] = {}

    def act(world: World) -> None:
        empty = full_state(seed=None)
        kept[world.rank] = empty if layout == "replicated" else LAYOUTS[layout](empty, rank=world.rank, size=world.size)
        own, replicated = ([], kept[world.rank]) if layout == "replicated" else (kept[world.rank], [])
        with StateReader.open_on_all_ranks(tmp_path, world) as state:
            restore(own, replicated, state, world)

    errors = on_threads(4, act)
    assert {type(error) for error in errors} == {StateError}
    assert len({str(error) for error in errors}) == 1
    assert "of table from value" in str(errors[0])
    assert not any(value.any() for shards in kept.values() for part in shards for value in part.values.values())


def test_a_missing_ema_is_refused_with_what_to_type(tmp_path: Path) -> None:
    shards = [ParamShard("w", (2,), 0, {"master": torch.ones(2)})]
    snapshot_to_host(shards, Extras(), rank=0, size=1).write(tmp_path)
    wanted = [ParamShard("w", (2,), 0, {"master": torch.zeros(2), "ema": torch.zeros(2)})]

    def act(world: World) -> None:
        with StateReader.open_on_all_ranks(tmp_path, world) as state:
            restore([], wanted, state, world)

    assert all("type optimizer.ema=null" in str(error) for error in on_threads(2, act))


def test_few_files_are_open_at_a_time(tmp_path: Path) -> None:
    write(tmp_path, layout="partitioned", size=40)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with StateReader(tmp_path) as state:
        for rank in range(40):
            state.buffers(rank=rank, size=40)
        assert len(list(Path("/proc/self/fd").iterdir())) - before <= 8
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    shutil.rmtree(tmp_path)
