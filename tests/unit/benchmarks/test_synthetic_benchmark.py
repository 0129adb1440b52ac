"""The benchmark of synthetic clips: every stage and size gets a speed, and impossible arguments are refused."""

import json

import pytest

from benchmarks import synthetic


def test_every_stage_and_size_has_a_speed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(synthetic, "_SECONDS", 1e-9)  # one clip each
    assert synthetic.main(["--rounds", "1", "--json"]) == 0
    speed = json.loads(capsys.readouterr().out)["speed"]
    assert speed.keys() == synthetic.STAGES.keys()
    assert all(len(sizes) == 4 and min(sizes.values()) > 0 for sizes in speed.values())


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--rounds", "0"], "--rounds must be at least 1"), (["--single-frame", "9"], "needs 512 clips or more, got 9")],
)
def test_impossible_arguments_are_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert synthetic.main(words) == 2
    assert said in capsys.readouterr().err
