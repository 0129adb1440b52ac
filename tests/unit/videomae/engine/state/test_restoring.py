"""State that ranks read back together: to the bit, each byte once, a file by those who need it; and no rank hangs."""

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

from benchmarks.checkpoint_loading import cut
from tests.processes import run_command
from tests.rank_threads import on_threads
from videomae.core.distributed import World
from videomae.engine.state import fragments, restoring
from videomae.engine.state.fragments import State, StateError, file_of
from videomae.engine.state.rank_file import RankFile
from videomae.engine.state.restoring import exchange, restore
from videomae.engine.state.snapshot import Extras, ParamShard, share, snapshot_to_host

SHAPES = {"embed.weight": (5, 7), "norm.bias": (3,), "head.weight": (64, 3), "head.bias": (1,), "table": (11,)}
FROZEN = ("embed.weight", "head.bias")
MOMENTS = ("exp_avg", "exp_avg_sq", "ema")
ODD = torch.tensor([0x7FC12345, -0x80000000, 0x7F800001, -0x00400000, 1], dtype=torch.int32)  # NaNs, -0, subnormal


def whole(*, frozen: tuple[str, ...] = (), seed: int | None = 0) -> list[ParamShard]:
    """A state as one rank would hold it that keeps everything; bit patterns of all kinds, or zeros without a seed."""
    held = []
    for number, (name, shape) in enumerate(SHAPES.items()):
        keys = ("master",) if name in frozen else ("master", *MOMENTS)
        values = {key: torch.zeros(prod(shape)) for key in keys}
        if seed is not None:
            for key, value in values.items():
                generator = torch.Generator().manual_seed(seed + 100 * number + len(key))
                value.copy_(torch.randn(value.shape, generator=generator))
                value.view(torch.int32)[:5] = ODD[: value.numel()]
        steps = None if name in frozen else torch.tensor(0.0 if seed is None else 3.0 + number)
        held.append(ParamShard(name, shape, 0, values, steps))
    return held


LAYOUTS = {"run": share, "cut": cut}


def write(folder: Path, *, layout: str, size: int, frozen: tuple[str, ...] = ()) -> None:
    """A state of `size` files; every rank has a running mean of its own."""
    folder.mkdir(exist_ok=True)
    for rank in range(size):
        own = LAYOUTS[layout](whole(frozen=frozen), rank=rank, size=size)
        snapshot_to_host(own, Extras({"mean": torch.tensor([rank + 0.5])}), rank=rank, size=size).write(folder)


def load(folder: Path, world: World, *, layout: str, frozen: tuple[str, ...] = ()) -> list[ParamShard]:
    """What a rank holds after a load: everything, or its part of what is trained, and all the rest."""
    empty = whole(frozen=frozen, seed=None)
    alike = empty if layout == "alike" else [part for part in empty if part.name in frozen]
    trained = [part for part in empty if part.name not in frozen]
    own = [] if layout == "alike" else LAYOUTS[layout](trained, rank=world.rank, size=world.size)
    with State.shared(folder, world) as state:
        restore(own, alike, state, world)
    return [*own, *alike]


def differs(parts: list[ParamShard], frozen: tuple[str, ...] = ()) -> list[str]:
    """What is not, to the bit, as it was written."""
    found, written = [], {part.name: part for part in whole(frozen=frozen)}
    for part in parts:
        wanted = written[part.name].cut(part.start, part.stop)
        for key, value in part.values.items():
            if not torch.equal(value.view(torch.int32), wanted.values[key].view(torch.int32)):
                found.append(f"{key} of {part.name}")
        if (part.steps, wanted.steps) != (None, None) and part.steps != wanted.steps:
            found.append(f"steps of {part.name}")
    return found


class Reads:
    """Files opened and bytes read, of each thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: Counter[tuple[threading.Thread, int]] = Counter()  # by the rank of the file
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
        """Files that this thread has opened, counted as often as it did."""
        return sum(count for (thread, _), count in self.opened.items() if thread == threading.current_thread())


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


@pytest.mark.parametrize("frozen", [(), FROZEN], ids=["trained", "frozen"])
@pytest.mark.parametrize("written", ["run-1", "run-2", "run-5", "cut-2", "cut-4"])
@pytest.mark.parametrize("layout", ["alike", "run", "cut"])
def test_any_number_of_ranks_reads_what_any_number_wrote(
    tmp_path: Path, written: str, layout: str, frozen: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    how, count = written.split("-")
    write(tmp_path, layout=how, size=int(count), frozen=frozen)
    monkeypatch.setattr(restoring, "PART", 50)
    for size in (1, 2, 3, 4, 8):
        held = on_threads(size, lambda world: load(tmp_path, world, layout=layout, frozen=frozen))
        assert [differs(parts, frozen) if isinstance(parts, list) else parts for parts in held] == [[]] * size


@given(size=st.integers(1, 6), bucket=st.integers(1, 400), written=st.integers(1, 4))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_bucket_may_have_any_size(tmp_path: Path, size: int, bucket: int, written: int) -> None:
    folder = tmp_path / str(written)
    write(folder, layout="cut", size=written)

    def fill(world: World) -> list[ParamShard]:
        held = whole(seed=None)
        with State.shared(folder, world) as state:
            exchange(restoring._locate(held, state), state, world, bucket=bucket)
        return held

    for held in on_threads(size, fill):
        assert isinstance(held, list), held
        assert {line for line in differs(held) if not line.startswith("steps")} == set()


@pytest.mark.parametrize("how", ["run", "cut"])
@pytest.mark.parametrize("size", [2, 4, 8])
def test_what_all_keep_alike_is_read_once_by_all_together(tmp_path: Path, reads: Reads, size: int, how: str) -> None:
    write(tmp_path, layout=how, size=8)

    def act(world: World) -> tuple[int, int]:
        held = whole(seed=None)
        with State.shared(tmp_path, world) as state:
            before = reads.files(), reads.bytes[threading.current_thread()]
            restore([], held, state, world)
        return reads.files() - before[0], reads.bytes[threading.current_thread()] - before[1]

    found = [result for result in on_threads(size, act) if not isinstance(result, Exception)]
    assert len(found) == size
    kept = sum(value.numel() * 4 for part in whole() for value in part.values.values())
    assert sum(read for _, read in found) == kept
    assert max(read for _, read in found) <= kept / size + 4
    assert max(opens for opens, _ in found) <= 8 // size + 1


def test_rank_0_alone_reads_the_headers_and_a_rank_only_the_file_that_is_its_own(tmp_path: Path, reads: Reads) -> None:
    size = 32
    write(tmp_path, layout="cut", size=size)
    found = on_threads(size, lambda world: (differs(load(tmp_path, world, layout="cut")), reads.files()))
    assert found == [([], 1)] * size
    assert sum(reads.opened.values()) == 2 * size, "the headers, read by threads of rank 0, and the values"


@pytest.mark.timeout(120)
def test_one_of_many_ranks_opens_a_file_or_two() -> None:
    """By the command that measures it."""
    for found in json.loads(run_command("benchmarks.checkpoint_loading", "--files", "24", "--json")):
        assert found["index_opens"] == 24
        assert found["own_opens"] == 1
        assert found["alike_opens"] <= 2


def refusals(folder: Path, size: int, *, layout: str) -> list[str]:
    """What the ranks say, each of which must refuse to load."""
    found = on_threads(size, lambda world: load(folder, world, layout=layout))
    assert all(isinstance(error, StateError) for error in found), found
    return [str(error) for error in found]


@pytest.mark.parametrize("layout", ["alike", "run", "cut"])
def test_a_damaged_header_is_an_error_on_every_rank(tmp_path: Path, layout: str) -> None:
    write(tmp_path, layout="run", size=3)
    (tmp_path / file_of(2)).write_bytes(b"what")
    complaints = refusals(tmp_path, 4, layout=layout)
    assert len(set(complaints)) == 1
    assert f"{file_of(2)} is damaged" in complaints[0]


@pytest.mark.parametrize("layout", ["alike", "run", "cut"])
def test_a_disk_that_fails_one_rank_is_an_error_on_every_rank(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, layout="run", size=4)
    reading = fragments.State.load

    def load_or_fail(state: State, chunk: Any, **room: Any) -> None:
        if chunk.rank == 2:
            raise StateError("rank-00002.safetensors cannot be read")
        reading(state, chunk, **room)

    monkeypatch.setattr(fragments.State, "load", load_or_fail)
    monkeypatch.setattr(restoring, "PART", 20)
    assert set(refusals(tmp_path, 4, layout=layout)) == {"rank-00002.safetensors cannot be read"}


@pytest.mark.parametrize("layout", ["alike", "run"])
def test_a_file_that_another_host_sees_otherwise_is_an_error_on_every_rank(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, layout="run", size=4)
    indexing = fragments.read_index

    def index_then_change(folder: Path) -> Any:
        index = indexing(folder)
        (folder / file_of(3)).write_bytes((folder / file_of(3)).read_bytes()[:-8])
        return index

    monkeypatch.setattr(fragments, "read_index", index_then_change)
    complaints = refusals(tmp_path, 4, layout=layout)
    assert len(set(complaints)) == 1
    assert f"{file_of(3)} is damaged" in complaints[0]
    assert "wanted" in complaints[0]


@pytest.mark.parametrize("layout", ["alike", "run", "cut"])
def test_a_range_that_one_rank_lacks_is_an_error_on_every_rank_and_changes_nothing(tmp_path: Path, layout: str) -> None:
    write(tmp_path, layout="run", size=4)
    part = [held for held in share(whole(), rank=3, size=4) if held.name != "table"]
    snapshot_to_host(part, Extras({"mean": torch.tensor([3.5])}), rank=3, size=4).write(tmp_path)
    kept: dict[int, list[ParamShard]] = {}

    def act(world: World) -> None:
        empty = whole(seed=None)
        kept[world.rank] = empty if layout == "alike" else LAYOUTS[layout](empty, rank=world.rank, size=world.size)
        own, alike = ([], kept[world.rank]) if layout == "alike" else (kept[world.rank], [])
        with State.shared(tmp_path, world) as state:
            restore(own, alike, state, world)

    errors = on_threads(4, act)
    assert {type(error) for error in errors} == {StateError}
    assert len({str(error) for error in errors}) == 1
    assert "of table from value" in str(errors[0])
    assert not any(value.any() for held in kept.values() for part in held for value in part.values.values())


def test_an_average_that_is_not_there_is_refused_with_what_to_type(tmp_path: Path) -> None:
    held = [ParamShard("w", (2,), 0, {"master": torch.ones(2)})]
    snapshot_to_host(held, Extras(), rank=0, size=1).write(tmp_path)
    wanted = [ParamShard("w", (2,), 0, {"master": torch.zeros(2), "ema": torch.zeros(2)})]

    def act(world: World) -> None:
        with State.shared(tmp_path, world) as state:
            restore([], wanted, state, world)

    assert all("type optimizer.ema=null" in str(error) for error in on_threads(2, act))


def test_few_files_are_open_at_a_time(tmp_path: Path) -> None:
    write(tmp_path, layout="cut", size=40)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with State(tmp_path) as state:
        for rank in range(40):
            state.buffers(rank=rank, size=40)
        assert len(list(Path("/proc/self/fd").iterdir())) - before <= 8
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    shutil.rmtree(tmp_path)
