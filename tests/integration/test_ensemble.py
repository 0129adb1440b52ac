"""Several finished runs as one, by averaging and by an SVM; what cannot be fused is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from finetune.ensemble import fuse
from finetune.evaluate import FinishedRun
from finetune.train import train
from launch.cli import main
from tests.stages import finetune_config
from tests.tiny import world_of_one

STREAMS = (
    "model={name: single_frame, frames: 4, size: 32}",
    "model={name: temporal_stream, frames: 3, size: 32}",
)


@pytest.fixture(scope="module")
def runs(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("streams")
    for number, model in enumerate(STREAMS):
        schedule = "schedule={duration: 2 steps, warmup: 0 steps}"
        train(finetune_config(folder / str(number), shards, model, schedule), world_of_one())
    return [folder / str(number) for number in range(len(STREAMS))]


@pytest.mark.parametrize("fusion", ["average", "svm"])
def test_two_streams_are_fused(runs: list[Path], fusion: str, capsys: pytest.CaptureFixture[str]):
    assert main(["ensemble", *map(str, runs), "--fusion", fusion, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["total"] == 8
    assert np.trace(result["confusion"]) == result["correct"]


def test_a_run_averaged_with_itself_is_that_run(runs: list[Path]):
    run = FinishedRun.read(runs[0])
    alone = run.evaluate()
    twice = fuse([run, run], "average")
    assert twice.predictions.confusion == alone.predictions.confusion
    assert twice.loss == pytest.approx(alone.loss, rel=1e-6)


def test_one_run_is_no_ensemble(runs: list[Path], capsys: pytest.CaptureFixture[str]):
    assert main(["ensemble", str(runs[0])]) == 2
    assert "at least 2 runs" in capsys.readouterr().err
