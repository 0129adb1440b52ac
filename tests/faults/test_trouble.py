"""Steps that do harm, ranks that hang and starts in vain: every rank does the same about them, in bounded time."""

import json
import math
import os
import signal
import socket
from pathlib import Path

import pytest

from pretrain.train import train
from tests.faults.started import pretrain
from tests.faults.test_signals import running, status_of
from tests.stages import losses, pretrain_config
from tests.tiny import world_of_one
from videomae.core.signals import LimitReached, Stopped
from videomae.engine.local import LocalEngine
from videomae.run.directory import RunDirectory
from videomae.run.metrics import read_metrics
from videomae.run.status import FILE
from videomae.run.status import read_status as read_status

HEALTH = "health={warmup: 4, window: 8, skips: 2, skip_fraction: 1, hang_seconds: 6}"


def lines(run: Path, kind: str) -> list[dict]:
    return [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == kind]


def progress(run: Path) -> dict:
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    return json.loads((newest / "progress.json").read_text())


def test_a_nan_on_one_rank_is_skipped_by_all_and_many_are_passed_over(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ("engine={kind: deepspeed, zero_stage: 1}", "schedule.duration=12 steps", HEALTH)
    words = pretrain(run, shards, *settings, "checkpoint={every: 3 steps, keep: 9}")
    with running(run, words, on="torchrun", nan={"rank": 1, "batches": [1, 7, 8, 9]}) as started:
        assert started.ended() == 0, started.said
    train_lines = lines(run, "train")
    assert [line["step"] for line in train_lines] == list(range(1, 13))
    assert [line["step"] for line in train_lines if line["skipped"]] == [2]
    # Batches 7, 8 and 9 were skipped, the verdict fell after batch 10; back to step 6, on with batch 11.
    (rollback,) = lines(run, "rollback")
    assert (rollback["step"], rollback["from_step"], rollback["from_batch"], rollback["to_batch"]) == (6, 11, 6, 11)
    assert "3 consecutive steps were skipped" in rollback["reason"]
    assert progress(run)["step"] == 12
    assert progress(run)["batches"] == 17
    assert progress(run)["health"]["rollbacks"] == 1
    said = [(run / "logs" / f"rank-{rank}.log").read_text() for rank in (0, 1)]
    assert all("rolling back to step 6, with other data" in text for text in said)
    assert all(math.isfinite(line["loss"]) for line in train_lines if not line["skipped"])


def test_a_slow_rank_is_named_and_one_that_hangs_ends_the_run_with_the_stacks_of_all(
    shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = pretrain(run, shards, "engine.kind=deepspeed", "loader.workers=1", HEALTH, "schedule.duration=50 steps")
    slow = {"rank": 1, "seconds": 1.0}
    with running(run, words, on="torchrun", slow=slow, hang={"rank": 1, "batch": 5}) as started:
        started.wait_until(lambda: len(losses(run)) >= 5)
        assert started.ended() == 1, started.said
    stacks = [(run / "logs" / f"rank-{rank}.stacks.txt").read_text() for rank in (0, 1)]
    assert all("step 6 has not ended within 6 s" in text for text in stacks)
    assert "faulty.py" in stacks[1]
    assert "all_reduce" in stacks[0]
    named = lines(run, "straggler")
    assert [(line["rank"], line["host"]) for line in named] == [(1, socket.gethostname())]
    assert named[0]["seconds"] > 1 > named[0]["median_seconds"]
    assert f"rank 1 on {socket.gethostname()} slows down all ranks" in (run / "logs" / "rank-0.log").read_text()
    status = status_of(started)
    assert (status.state, status.exit_code) == ("failed", 1)
    assert "step 6 has not ended" in (status.reason or "")


class Poisoned:
    """An engine whose gradients are no numbers at some updates of this process."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, bad: range, stop_before: int | None = None, ask_at: int | None = None
    ) -> None:
        original, self.updates = LocalEngine.train_step, 0

        def update(engine, micro_batches, loss_of, **keywords):
            if self.updates == stop_before:
                self.updates += 1
                raise KeyboardInterrupt
            if self.updates == ask_at:
                os.kill(os.getpid(), signal.SIGTERM)
            self.updates += 1
            factor = float("nan") if self.updates - 1 in bad else 1.0
            return original(engine, micro_batches, lambda module, batch: loss_of(module, batch) * factor, **keywords)

        monkeypatch.setattr(LocalEngine, "train_step", update)


def test_when_going_back_does_not_help_the_run_ends_and_says_what_to_type(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ("schedule.duration=30 steps", "checkpoint.every=3 steps", HEALTH)
    config = pretrain_config(tmp_path / "run", shards, *overrides, "health.rollbacks=2")
    Poisoned(monkeypatch, bad=range(7, 99))
    with pytest.raises(LimitReached, match=r"health\.rollbacks=2.*run=PATH.*checkpoint\.resume=.*health\.rollbacks=5"):
        train(config, world_of_one())
    status = read_status(tmp_path / "run" / FILE)
    assert status is not None
    assert (status.state, status.exit_code) == ("failed", 76)
    assert len(lines(tmp_path / "run", "rollback")) == 2
    with pytest.raises(LimitReached, match="rolled back 2 times"):  # a restart remembers
        train(config, world_of_one())
    monkeypatch.undo()
    train(pretrain_config(tmp_path / "run", shards, *overrides, "health.rollbacks=3"), world_of_one())
    assert progress(tmp_path / "run")["step"] == 30


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Poisoned(monkeypatch, bad=range(1, 99))
    config = pretrain_config(tmp_path / "run", shards, "schedule.duration=30 steps", HEALTH)
    with pytest.raises(LimitReached, match="rolled back 0 times"):
        train(config, world_of_one())


def test_a_kill_between_skips_and_rollback_changes_nothing(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ("schedule.duration=16 steps", "checkpoint.every=3 steps", HEALTH)
    with monkeypatch.context() as patch:
        Poisoned(patch, bad=range(7, 10))
        train(pretrain_config(tmp_path / "whole", shards, *overrides), world_of_one())
    assert len(lines(tmp_path / "whole", "rollback")) == 1
    config = pretrain_config(tmp_path / "run", shards, *overrides)
    with monkeypatch.context() as patch:
        Poisoned(patch, bad=range(7, 10), stop_before=9)
        with pytest.raises(KeyboardInterrupt):
            train(config, world_of_one())
    with monkeypatch.context() as patch:
        Poisoned(patch, bad=range(1, 4))  # it goes on after step 6: batches 7 to 9 again
        train(config, world_of_one())
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    ours, theirs = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("run", "whole"))
    assert [(line["kind"], line["step"]) for line in ours] == [(line["kind"], line["step"]) for line in theirs]


def test_a_stop_after_going_back_is_saved_at_the_step_of_the_start_too(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = pretrain_config(
        tmp_path / "run", shards, "schedule.duration=16 steps", "checkpoint={every: 3 steps, keep: 9}", HEALTH
    )
    with monkeypatch.context() as patch:
        Poisoned(patch, bad=range(6, 7), ask_at=6)
        with pytest.raises(Stopped, match="saved at step 7"):
            train(config, world_of_one())
    with monkeypatch.context() as patch:
        Poisoned(patch, bad=range(2), ask_at=3)  # back to step 6, for at step 7 it was in trouble already
        with pytest.raises(Stopped, match="saved at step 7"):
            train(config, world_of_one())
    assert [line["step"] for line in lines(tmp_path / "run", "rollback")] == [6]
    assert (progress(tmp_path / "run")["step"], progress(tmp_path / "run")["batches"]) == (7, 11)


def test_a_spike_of_the_gradient_is_skipped(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, updates = LocalEngine.train_step, []

    def update(engine, micro_batches, loss_of, **keywords):
        updates.append(keywords["skip_threshold"])
        factor = 1e6 if len(updates) == 9 else 1.0
        return original(engine, micro_batches, lambda module, batch: loss_of(module, batch) * factor, **keywords)

    monkeypatch.setattr(LocalEngine, "train_step", update)
    train(pretrain_config(tmp_path / "run", shards, "schedule.duration=14 steps", HEALTH), world_of_one())
    assert [line["step"] for line in lines(tmp_path / "run", "train") if line["skipped"]] == [9]
    assert updates[:5] == [math.inf] * 5
    assert all(math.isfinite(ceiling) for ceiling in updates[5:])


def test_starts_in_vain_end_and_a_checkpoint_makes_a_start_count(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = pretrain_config(tmp_path / "run", shards, "checkpoint.every=3 steps", "health.starts_without_progress=2")
    with monkeypatch.context() as patch:
        patch.setattr("pretrain.train.initial_model", broken)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="no memory left"):
                train(config, world_of_one())
        with pytest.raises(
            LimitReached, match=r"last 2 starts.*RuntimeError: no memory left.*remove .*status\.json, or type health"
        ):
            train(config, world_of_one())
    (tmp_path / "run" / FILE).unlink()
    with monkeypatch.context() as patch:
        Poisoned(patch, bad=range(0), stop_before=4)
        with pytest.raises(KeyboardInterrupt):
            train(config, world_of_one())
    status = read_status(tmp_path / "run" / FILE)
    assert status is not None
    assert (status.state, status.starts_without_progress) == ("failed", 0)
    (RunDirectory(tmp_path / "run").path / "STOP").touch()
    with pytest.raises(Stopped):
        train(config, world_of_one())
    train(config, world_of_one())
    status = read_status(tmp_path / "run" / FILE)
    assert status is not None
    assert (status.state, status.step, status.exit_code) == ("finished", 6, 0)


def broken(*arguments: object) -> None:
    raise RuntimeError("no memory left")
