"""The simulated cluster job: soon started anywhere, of constant memory, at a cost that does not grow with its size."""

import json

import pytest

from benchmarks.order_at_scale import main


def test_a_cluster_job_is_planned_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--samples", "1e10", "--ranks", "16384", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["samples"] == 10**10
    assert result["worst_seconds"] > 0
    assert result["memory_megabytes"] < 100
    assert all(point["worst_seconds"] > 0 for point in result["curve"])
    plans = {plan["lanes"]: plan for plan in result["plans"]}
    assert plans[16384]["shards_per_rank"] < 20 < plans[1]["shards_per_rank"]
    assert plans[16384]["cache_hits"] > 0.95


def test_the_figures_are_also_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--samples", "1e6", "--ranks", "8", "--lanes", "8,2"]) == 0
    assert "first batch at any place of an epoch" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong", [["--samples", "0"], ["--ranks", "0"], ["--samples", "10", "--ranks", "64"], ["--lanes", "7"]]
)
def test_impossible_jobs_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ranks", "16", *wrong]) == 2
    assert "error: " in capsys.readouterr().err
