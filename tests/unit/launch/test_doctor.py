"""Judgements of given answers, and probes that crash or hang."""

import json
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.cli import main
from launch.doctor import machine, network, storage
from launch.doctor.check import (
    Answer,
    Check,
    CheckResult,
    Context,
    Judge,
    call_within,
    passed,
    run_checks,
    worst_level,
)
from launch.doctor.runner import CHECKS
from pretrain.config import PretrainConfig
from tests.processes import ROOT
from tests.tiny import world_of_one
from videomae.core.config import load
from videomae.core.distributed import World

DEMO = ROOT / "configs/demo/own_videos/pretrain.yaml"
GPUS = World(rank=0, size=4, local_rank=0, device=torch.device("cuda", 0))
GIB = 2**30


def context(*overrides: str, world: World | None = None, run: Path = Path()) -> Context:
    config = load(PretrainConfig, DEMO, [*overrides])
    return Context(world=world or world_of_one(), host="a", config=config, run=run)


def judged(judge: Judge, values: Sequence[Any], where: Context | None = None, hosts: str = "aabb") -> CheckResult:
    """The one result on these answers; ranks 0 and 1 are on host a, 2 and 3 on b."""
    answers = [Answer(rank, host, value) for rank, (host, value) in enumerate(zip(hosts, values, strict=False))]
    (result,) = judge(answers, where or context())
    assert (result.level == "green") == (result.remedy == ""), "what is not green says what to do"
    return result


@pytest.fixture
def h100(monkeypatch: pytest.MonkeyPatch) -> Context:
    """Four ranks on GPUs of the table."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    return context(world=GPUS)


def test_versions_that_differ_name_the_ranks() -> None:
    here = machine.probe_versions(context())
    assert judged(machine.judge_versions, [here, here]).level == "green"
    result = judged(machine.judge_versions, [here, here, {**here, "torch": "2.0.0"}])
    assert result.level == "red"
    assert "2.0.0 on rank 2 (b)" in result.message
    assert "pip install" in result.remedy
    assert "driver" in judged(machine.judge_versions, [here, {**here, "driver": "1.2"}]).remedy
    assert "checkout" in judged(machine.judge_versions, [here, {**here, "git commit": "0"}]).remedy


def test_devices_must_be_alike_and_free() -> None:
    free = {"name": "NVIDIA H200", "used": 0.01}
    assert judged(machine.judge_devices, [free, free]).level == "green"
    assert judged(machine.judge_devices, [{**free, "name": "cpu"}]).level == "yellow"
    mixed = judged(machine.judge_devices, [free, free, free, {**free, "name": "cpu"}])
    assert (mixed.level, "cpu on rank 3 (b)" in mixed.message) == ("red", True)
    taken = judged(machine.judge_devices, [free, {**free, "used": 0.4}])
    assert (taken.level, "40% on rank 1 (a)" in taken.message) == ("red", True)


def test_devices_that_cannot_reach_each_other_are_told() -> None:
    good = {"blocked": [], "kinds": ["NV18"]}
    assert judged(machine.judge_links, [good, good]).level == "green"
    barred = judged(machine.judge_links, [good, good, {**good, "blocked": [(0, 1), (1, 0)], "kinds": ["SYS"]}])
    assert (barred.level, "2 pairs on b" in barred.message) == ("yellow", True)


def test_a_slow_rank_is_named(h100: Context) -> None:
    assert judged(machine.judge_speed, [600.0, 610.0, 590.0, 605.0], h100).level == "green"
    slow = judged(machine.judge_speed, [600.0, 610.0, 300.0, 605.0], h100)
    assert (slow.level, "rank 2 (b)" in slow.message) == ("red", True)
    assert "989" in judged(machine.judge_speed, [200.0] * 4, h100).message
    assert judged(machine.judge_speed, [0.1, 0.05]).level == "yellow", "processes on CPUs slow each other"


def test_slow_links_are_told(h100: Context) -> None:
    fast, poor, bad = ({"latency": 5e-5, "bandwidth": rate * 1e9} for rate in (350, 250, 100))
    assert judged(network.judge_all_reduce, [fast] * 4, h100, "aaaa").level == "green"
    assert judged(network.judge_all_reduce, [fast, poor, fast, fast], h100, "aaaa").level == "yellow"
    slow = judged(network.judge_all_reduce, [fast, fast, bad, fast], h100, "aaaa")
    assert (slow.level, "rank 2 (a)" in slow.message) == ("red", True)
    across = [{"latency": 5e-5, "bandwidth": rate * 1e9} for rate in (38, 3)]
    assert judged(network.judge_all_reduce, [across[0]] * 4, h100).level == "green"
    result = judged(network.judge_all_reduce, [across[1]] * 4, h100)
    assert (result.level, "NCCL_IB_HCA" in result.remedy) == ("red", True)
    late = judged(network.judge_all_reduce, [{**fast, "latency": 0.01}] * 4, h100, "aaaa")
    assert late.level == "yellow"


def test_names_and_ports() -> None:
    assert judged(network.judge_names, [network.probe_names(context())]).level in ("green", "red")  # as this host is
    wrong = judged(network.judge_names, [["'x' does not resolve (no)"]])
    assert wrong.level == "red"
    assert judged(network.judge_ports, [None, None]).level == "green"
    assert judged(network.judge_ports, [None, "b:1 refuses a (timed out)"]).level == "red"


def test_a_name_that_does_not_resolve_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "no-such-host.invalid")
    assert any("no-such-host.invalid" in fault for fault in network.probe_names(context()))


def test_clocks_are_compared_beyond_what_the_round_took() -> None:
    near = {"offset": 0.0, "error": 0.001}
    assert judged(network.judge_clock, [near, {"offset": -0.05, "error": 0.001}]).level == "green"
    assert judged(network.judge_clock, [near, {"offset": 0.4, "error": 0.001}]).level == "yellow"
    assert judged(network.judge_clock, [near, {"offset": 0.4, "error": 0.5}]).level == "green", (
        "the round was that slow"
    )
    far = judged(network.judge_clock, [near, near, {"offset": -90.0, "error": 0.001}])
    assert (far.level, "-90.00 s on rank 2 (b)" in far.message) == ("red", True)


def test_shared_memory_must_hold_the_loaders_batches() -> None:
    batches = "loader={workers: 4, prefetch: 2}"
    need = machine.loader_bytes(context(batches), 2)
    assert need == 2 * (4 * 2 + 1) * 32 * 3 * 16 * 64 * 64
    room = [8 * GIB, need + GIB, need // 2]
    assert judged(machine.judge_shared_memory, [room[0]] * 2, context(batches)).level == "green"
    assert judged(machine.judge_shared_memory, [room[1]] * 2, context(batches)).level == "green"
    assert judged(machine.judge_shared_memory, [room[0], room[0], room[2], room[2]], context(batches)).level == "red"
    assert judged(machine.judge_shared_memory, [GIB // 2], context("loader.workers=0")).level == "yellow"


def test_limits_of_files_processes_and_locked_memory(h100: Context) -> None:
    good = {"files": 65536, "processes": -1, "locked": -1}
    assert judged(machine.judge_limits, [good]).level == "green"
    assert judged(machine.judge_limits, [{**good, "files": 2048}]).level == "yellow"
    few = judged(machine.judge_limits, [{**good, "files": 256}])
    assert (few.level, "ulimit -n" in few.remedy) == ("red", True)
    assert judged(machine.judge_limits, [{**good, "processes": 100}]).level == "red"
    assert judged(machine.judge_limits, [{**good, "locked": 65536}]).level == "green", "not needed without an adapter"
    assert judged(machine.judge_limits, [{**good, "locked": 65536}], h100).level == "yellow"


def test_cores_for_processes_and_workers() -> None:
    def cores(count: int, threads: str | None) -> dict[str, Any]:
        return {"cores": list(range(count)), "threads": threads}

    assert judged(machine.judge_cores, [cores(8, "2")] * 2, context("loader.workers=3")).level == "green"
    crowded = judged(machine.judge_cores, [cores(8, "2")] * 2, context("loader.workers=16"))
    assert (crowded.level, crowded.remedy.startswith("type loader.workers=3")) == ("yellow", True)
    assert judged(machine.judge_cores, [cores(1, "1")] * 2, context("loader.workers=1")).level == "red"
    unset = judged(machine.judge_cores, [cores(8, None)] * 2, context("loader.workers=1"))
    assert (unset.level, unset.remedy) == ("yellow", "export OMP_NUM_THREADS=4")


def test_disk_room_for_the_checkpoints_and_its_speed(tmp_path: Path) -> None:
    where = context(run=tmp_path / "not" / "there")
    seen = storage.probe_disk(where)
    assert seen["folder"] == str(tmp_path)
    assert not list(tmp_path.iterdir())
    assert storage.needed_bytes(where) == GIB + 3 * 12 * 2_286_336
    room = {"folder": "/x", "free": 10**10, "speed": 1e9}
    assert judged(storage.judge_disk, [room, room], where).level == "green"
    assert judged(storage.judge_disk, [room, {**room, "speed": 1e6}], where).level == "yellow"
    full = judged(storage.judge_disk, [room, {**room, "free": 10**8}], where)
    assert (full.level, "rank 1 (a)" in full.message, "run=PATH" in full.remedy) == ("red", True, True)


def test_shards_are_read_and_missing_ones_said(shards: Path, tmp_path: Path) -> None:
    (check,) = [check for check in CHECKS if check.name == "shards"]
    (read,) = run_checks(context(f"data.shards={shards / 'train'}"), [check])
    assert (read.level, read.message.startswith("24 samples")) == ("green", True)
    (missing,) = run_checks(context(f"data.shards={tmp_path / 'none'}"), [check])
    assert missing.level == "red"
    assert "no manifest.json" in missing.message
    other = judged(storage.judge_shards, [{"samples": 24, "seconds": 0.1}, {"samples": 23, "seconds": 0.1}])
    assert other.level == "red"


def test_a_server_that_answers_and_one_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "x")
        online = context("metrics.wandb=online")
        assert judged(network.judge_wandb, [network.probe_wandb(online)]).level == "green"
        monkeypatch.delenv("WANDB_API_KEY")
        monkeypatch.setenv("HOME", "/nonexistent")
        assert "wandb login" in judged(network.judge_wandb, [network.probe_wandb(online)]).remedy
    assert judged(network.judge_wandb, [network.probe_wandb(online)]).level == "red"
    assert judged(network.judge_wandb, [network.probe_wandb(context("metrics.wandb=auto"))]).level == "yellow"
    assert judged(network.judge_wandb, [network.probe_wandb(context("metrics.wandb=disabled"))]).level == "green"


def _green(answers: Sequence[Answer], where: Context) -> list[CheckResult]:
    return passed(str(answers[0].value))


def test_a_probe_that_crashes_or_hangs_is_a_red_line() -> None:
    def crash(where: Context) -> None:
        raise KeyError("lost")

    def judge_badly(answers: Sequence[Answer], where: Context) -> list[CheckResult]:
        raise RuntimeError("what is this")

    crashed, hung, unjudged, sound = run_checks(
        context(),
        [
            Check(name="crash", probe=crash, judge=_green),
            Check(name="hang", probe=lambda where: threading.Event().wait(), judge=_green, timeout=0.2),
            Check(name="judge", probe=lambda where: 1, judge=judge_badly),
            Check(name="sound", probe=lambda where: 5, judge=_green),
        ],
    )
    assert "KeyError: 'lost'" in crashed.message
    assert "no answer within 0.2 s" in hung.message
    assert "what is this" in unjudged.message
    assert [result.level for result in (crashed, hung, unjudged, sound)] == ["red", "red", "red", "green"]
    silent = Check(name="silent", probe=lambda where: 1, judge=lambda answers, where: [])
    assert run_checks(context(), [silent]) == []
    assert worst_level([crashed, sound]) == "red"
    assert worst_level([]) == "green"


def test_ranks_that_do_not_answer_leave_what_rank_0_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_gather_object(world: World, value: Any) -> list[Any]:
        threading.Event().wait()
        return []

    monkeypatch.setattr(World, "all_gather_object", all_gather_object)
    where = Context(world=World(0, 2, 0, torch.device("cpu")), host="a", timeout=0.2)
    meeting = Check(name="meeting", probe=lambda where: 1, judge=_green, collective=True)
    found = run_checks(where, [meeting, Check(name="own", probe=lambda where: 7, judge=_green)])
    assert [(result.check, result.level) for result in found] == [("network", "red"), ("own", "green")]
    assert "not all of 2 ranks answer" in found[0].message
    assert call_within(0.1, lambda: 3) == (3, None)


def test_json_and_the_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(machine, "SECONDS", 0.01)
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {result["check"] for result in found["results"]} >= {"versions", "devices", "limits", "disk", "W&B"}
    assert (
        main(
            [
                "doctor",
            ]
        )
        == 0
    )
    assert "what to do" in capsys.readouterr().out


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "configs/demo/pretrian.yaml"]) == 2
    assert "did you mean configs/demo/pretrain.yaml" in capsys.readouterr().err
    assert main(["doctor", str(DEMO), "speling=1"]) == 2
    assert "unknown key 'speling'" in capsys.readouterr().err
