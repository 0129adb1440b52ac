"""The file of metrics is the truth: cut back to the resumed step, whole after any crash, always valid JSON."""

import json
import logging
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tiny import world_of_one
from videomae.core.files import write_atomic
from videomae.run.directory import RunDirectory
from videomae.run.metrics import MetricsConfig, MetricsLog, read_metrics
from videomae.run.metrics.log import Follower


def open_log(folder: Path) -> MetricsLog:
    return MetricsLog(RunDirectory(folder), MetricsConfig(wandb="disabled"), world=world_of_one())


def test_lines_are_cut_back_to_the_resumed_step(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for step in range(1, 6):
        log.write("train", step, loss=1 / step)
    log.truncate(3)
    log.write("train", 4, loss=9.0)
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path / "metrics.jsonl")][2:] == [
        (3, 1 / 3),
        (4, 9.0),
    ]


def test_a_line_cut_short_by_a_crash_is_skipped_and_gone_after_the_resume(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"kind": "train", "step": 1}\n{"kind": "tra')
    assert read_metrics(file) == [{"kind": "train", "step": 1}]
    log = open_log(tmp_path)
    log.truncate(1)
    log.write("train", 2, loss=0.5)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2]


def test_what_is_no_number_is_valid_json_and_comes_back_as_a_float(tmp_path: Path) -> None:
    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is not JSON")

    open_log(tmp_path).write("train", 1, loss=math.nan, grad_norm=math.inf, low=-math.inf, mfu=None)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=refuse)["grad_norm"] == "Infinity"
    (line,) = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(line["loss"])
    assert (line["grad_norm"], line["low"], line["mfu"]) == (math.inf, -math.inf, None)


def test_the_bare_words_of_older_files_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "loss": NaN}\n[1]\n')
    (line,) = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(line["loss"])


def test_a_follower_gives_whole_lines_once_and_all_again_after_a_cut(tmp_path: Path) -> None:
    file, log = tmp_path / "metrics.jsonl", open_log(tmp_path)
    follower = Follower(file)
    assert follower.new() == (False, [])
    log.write("train", 1)
    log.write("train", 2)
    again, lines = follower.new()
    assert (again, [line["step"] for line in lines]) == (True, [1, 2])
    with file.open("a") as growing:
        growing.write('{"kind": "train", "st')
        growing.flush()
        assert follower.new() == (False, [])
        growing.write('ep": 3}\n')
    assert follower.new() == (False, [{"kind": "train", "step": 3}])
    log.truncate(1)
    log.write("train", 2, loss=0.5)
    assert follower.new() == (True, [{"kind": "train", "step": 1}, {"kind": "train", "step": 2, "loss": 0.5}])


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file grows beyond `size` bytes: the write that would is cut short, the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_a_full_disk_refuses_is_written_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("videomae"), "propagate", True)
    file, log = tmp_path / "metrics.jsonl", open_log(tmp_path)
    file.symlink_to("/dev/full")
    log.write("train", 1)
    log.write("train", 2)
    assert len({record for record in caplog.records if "cannot be written" in record.getMessage()}) == 1
    file.unlink()
    log.write("train", 3)
    log.close()
    assert [line["step"] for line in read_metrics(file)] == [1, 2, 3]


def test_a_write_cut_short_leaves_no_half_line(tmp_path: Path) -> None:
    file, log = tmp_path / "metrics.jsonl", open_log(tmp_path)
    log.write("train", 1)
    before = file.read_bytes()
    with largest_file(len(before) + 10):
        log.write("train", 2)
    assert file.read_bytes() == before
    log.close()
    assert [line["step"] for line in read_metrics(file)] == [1, 2]


def test_waiting_lines_are_cut_back_too(tmp_path: Path) -> None:
    file, log = tmp_path / "metrics.jsonl", open_log(tmp_path)
    with largest_file(0):
        for step in (1, 2, 3):
            log.write("train", step)
    log.truncate(2)
    log.close()
    assert [line["step"] for line in read_metrics(file)] == [1, 2]


def test_a_full_disk_takes_a_cut_of_the_end(tmp_path: Path) -> None:
    file, log = tmp_path / "metrics.jsonl", open_log(tmp_path)
    for step in (1, 2, 3):
        log.write("train", step)
    with largest_file(10):
        log.truncate(2)
    assert [line["step"] for line in read_metrics(file)] == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_full_disk_that_does_not_take_the_cut_loses_nothing_and_says_what_to_do(tmp_path: Path) -> None:
    file, log = tmp_path / "metrics.jsonl", open_log(tmp_path)
    for kind, step in (("train", 1), ("evaluation", 1), ("checkpoint", 1), ("train", 2)):
        log.write(kind, step)
    before = file.read_bytes()
    with (
        largest_file(10),
        pytest.raises(
            OSError, match=r"metrics.jsonl cannot be truncated .*\(File too large\); nothing .* free some space"
        ),
    ):
        log.truncate(1, again=("evaluation",))
    assert file.read_bytes() == before
    log.truncate(1, again=("evaluation",))
    assert [line["kind"] for line in read_metrics(file)] == ["train", "checkpoint"]


def test_an_error_of_writing_says_which_file_is_meant(tmp_path: Path) -> None:
    with largest_file(1), pytest.raises(OSError, match=r"File too large: '.*/config.yaml'"):
        write_atomic(tmp_path / "config.yaml", "run: x")
    assert not list(tmp_path.iterdir())
