"""The list of bad samples outlives kills and full disks."""

import json
import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from videomae.data.loader.quarantine import BadSampleError, Fault, Quarantine, QuotaConfig


def fault(key: str) -> Fault:
    return Fault(shard="0.tar", key=key, reason="cut")


@pytest.mark.parametrize(
    "torn", [b'{"shard": "0.tar", "ke', b"7", b"{}\n", b'{"shard": [], "key": "x"}\n', b"\xff\xfe"]
)
def test_a_line_that_a_kill_cut_is_passed_over_and_harms_no_other(tmp_path: Path, torn: bytes) -> None:
    file = tmp_path / "quarantine.jsonl"
    Quarantine(file, QuotaConfig(), samples=100).record(fault("a"), step=1)
    file.write_bytes(file.read_bytes() + torn)
    Quarantine(file, QuotaConfig(), samples=100).record(fault("b"), step=2)
    quarantine = Quarantine(file, QuotaConfig(samples=2), samples=100)
    quarantine.record(fault("a"), step=3)
    quarantine.record(fault("b"), step=3)
    assert json.loads(file.read_bytes().splitlines()[-1])["key"] == "b"
    with pytest.raises(BadSampleError, match="3 bad samples"):
        quarantine.record(fault("c"), step=3)


def test_a_list_that_cannot_be_written_ends_no_run_but_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    quarantine = Quarantine(tmp_path / "run" / "quarantine.jsonl", QuotaConfig(samples=1), samples=100)
    quarantine.record(fault("a"), step=1)
    assert "cannot write" in caplog.text
    with pytest.raises(BadSampleError, match="2 bad samples"):
        quarantine.record(fault("b"), step=1)


def test_what_other_ranks_append_counts(tmp_path: Path) -> None:
    file = tmp_path / "quarantine.jsonl"
    ranks = [Quarantine(file, QuotaConfig(samples=3), samples=100) for _ in range(2)]
    for rank, key in ((0, "a"), (0, "b"), (1, "b"), (1, "c"), (0, "c"), (0, "a")):
        ranks[rank].record(fault(key), step=1)
    assert [json.loads(line)["key"] for line in file.read_text().splitlines()] == ["a", "b", "c"]  # each once
    with pytest.raises(BadSampleError, match=r"4 bad samples, 3 allowed by quota\.samples"):
        ranks[1].record(fault("d"), step=2)
    with pytest.raises(BadSampleError, match="5 bad samples"):
        ranks[0].record(fault("e"), step=2)


@pytest.mark.parametrize(
    ("quota", "said"), [(QuotaConfig(fraction=0.02), "quota.fraction"), (QuotaConfig(per_shard=2), "quota.per_shard")]
)
def test_every_quota_is_of_the_run(tmp_path: Path, quota: QuotaConfig, said: str) -> None:
    ranks = [Quarantine(tmp_path / "quarantine.jsonl", quota, samples=100) for _ in range(3)]
    ranks[0].record(fault("a"), step=1)
    ranks[1].record(fault("b"), step=1)
    with pytest.raises(BadSampleError, match=f"3 bad samples, 2 allowed by {said}"):
        ranks[2].record(fault("c"), step=1)


def test_a_list_that_is_emptied_while_the_run_goes_on_is_read_from_its_beginning(tmp_path: Path) -> None:
    file = tmp_path / "quarantine.jsonl"
    ranks = [Quarantine(file, QuotaConfig(samples=3), samples=100) for _ in range(2)]
    for key in ("a", "b"):
        ranks[0].record(fault(key), step=1)
    file.write_text("")
    ranks[1].record(fault("c"), step=1)
    with pytest.raises(BadSampleError, match="4 bad samples"):
        ranks[0].record(fault("d"), step=1)


def append(file: Path, rank: int, ready: Barrier) -> None:
    quarantine = Quarantine(file, QuotaConfig(), samples=10**6)
    ready.wait()
    for number in range(40):
        quarantine.record(Fault(shard="0.tar", key=f"{rank}-{number}", reason="long " * 999), step=number)


def test_ranks_that_append_at_once_lose_no_line(tmp_path: Path) -> None:
    file, processes = tmp_path / "quarantine.jsonl", 4
    file.write_bytes(b'{"shard": "0.tar", "ke')  # cut by a kill
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(processes)
    started = [context.Process(target=append, args=(file, rank, ready)) for rank in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0] * processes
    keys = {json.loads(line)["key"] for line in file.read_bytes().splitlines()[1:] if line}
    assert keys == {f"{rank}-{number}" for rank in range(processes) for number in range(40)}
    with pytest.raises(BadSampleError, match="161 bad samples"):
        Quarantine(file, QuotaConfig(samples=160), samples=10**6).record(fault("new"), step=0)
