"""What a run does with its evaluations on the holdout: the best, when to stop, when to lower the rate."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finetune.config import ReduceLrConfig, SelectionConfig
from finetune.evaluation import Evaluation
from finetune.predictions import Predictions, PredictionsError
from finetune.selection import PlateauSchedule, Selection, reductions
from tests.tiny import world_of_one
from videomae.core.config import parse
from videomae.engine.schedule import ScheduleConfig, make_schedule


def result(correct: int) -> Evaluation:
    """Of ten videos, as many of them correct."""
    labels_S = np.arange(10) % 2
    wrong_S = np.arange(10) >= correct
    probabilities_SK = np.eye(2)[np.where(wrong_S, 1 - labels_S, labels_S)] * 0.8 + 0.1
    names = tuple(f'clip "{number}", a' for number in range(10))
    return Evaluation(
        Predictions(
            classes=("Fight", "NonFight"),
            keys=names,
            sources=tuple(str(number // 2) for number in range(10)),
            labels_S=labels_S,
            probabilities_SK=probabilities_SK,
            clip_hits_S2=np.stack([~wrong_S, np.ones(10)], axis=1).astype(float),
            duplicate_S=np.arange(10) == 9,
        ),
        "1x1",
    )


@given(st.lists(st.integers(0, 4).map(float), max_size=25), st.integers(0, 3))
def test_the_rate_falls_as_in_torch(values: list[float], patience: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=0.5, patience=patience, threshold=0, eps=0
    )
    for value in values:
        reference.step(value)
    assert optimizer.param_groups[0]["lr"] == 0.5 ** reductions(values, patience=patience)


def test_the_best_is_kept_the_run_stops_and_a_restart_knows_it(tmp_path: Path) -> None:
    config = SelectionConfig(patience=2, reduce_lr=ReduceLrConfig(factor=0.5, patience=0))
    selection, saved = Selection(config, tmp_path, world_of_one()), []
    improved = [selection.observe(step, result(correct), saved.append) for step, correct in ((10, 5), (20, 7), (30, 7))]
    assert improved == [True, True, False]
    assert saved == [tmp_path / "best"] * 2
    assert not selection.stalled
    again = Selection(config, tmp_path, world_of_one())
    again.resume(25)
    assert again.history == [(10, 0.5), (20, 0.7)]
    assert again.best == (20, 0.7)
    again.observe(30, result(6), saved.append)
    again.observe(40, result(7), saved.append)
    assert again.stalled
    schedule = make_schedule(
        ScheduleConfig(duration="100 steps", warmup="0 steps", final_factor=1.0),
        peak_lr=8.0,
        steps_per_epoch=1,
        batch=1,
    )
    plateau = PlateauSchedule.of(schedule, again)
    assert [plateau.lr(step) for step in (0, 29, 30, 39, 40)] == [8.0, 8.0, 4.0, 4.0, 2.0]


@pytest.mark.parametrize(("by", "best"), [("accuracy", 0.9), ("f1", 10 / 11), ("auc", 0.9), ("loss", None)])
def test_what_it_selects_by(tmp_path: Path, by: str, best: float | None) -> None:
    selection = Selection(parse(SelectionConfig, {"by": by}, source="test"), tmp_path, world_of_one())
    good, bad = selection.score(result(9)), selection.score(result(3))
    assert good > bad
    if best is not None:
        assert good == pytest.approx(best)


def test_predictions_come_back_from_their_file(tmp_path: Path) -> None:
    predictions = result(7).predictions
    predictions.save(tmp_path / "predictions.csv")
    again = Predictions.load(tmp_path / "predictions.csv")
    assert again.keys == predictions.keys
    assert again.classes == predictions.classes
    for name in ("labels_S", "probabilities_SK", "clip_hits_S2", "duplicate_S"):
        assert np.array_equal(getattr(again, name), getattr(predictions, name)), name
    (tmp_path / "predictions.csv").write_text("key,label\nx,Fight\n")
    with pytest.raises(PredictionsError, match="not a file of predictions"):
        Predictions.load(tmp_path / "predictions.csv")


def test_videos_that_are_in_the_train_split_are_reported_apart() -> None:
    found = result(9).to_dict()
    assert (found["correct"], found["total"]) == (9, 10)
    assert (found["clean"]["correct"], found["clean"]["total"]) == (9, 9)
    assert found["sources"] == 5
    assert found["positive"] == "Fight"
    assert found["metrics"]["f1"]["value"] == pytest.approx(10 / 11)
