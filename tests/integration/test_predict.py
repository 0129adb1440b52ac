"""Predictions of a finished run: equal to the evaluation's on files, by windows on long videos."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from finetune.evaluate import Evaluator
from finetune.export import load_trained
from finetune.predict import Classifier
from launch.cli import main
from tests.stages import finetune_config
from tests.tiny import world_of_one
from videomae.core.errors import UserError
from videomae.data.shards.reader import ShardReader, read_manifest
from videomae.data.video import EncodingConfig, decode, encode, probe


def test_predictions_equal_the_evaluation(finetuned: Path, shards: Path, videos: Path, tmp_path: Path) -> None:
    """On the stored clips and on the original files, which are stored like the shards before they are scored."""
    config = finetune_config(tmp_path / "run", shards, "evaluation={clips: 2, crops: 3}")
    trained = load_trained(finetuned)
    val = read_manifest(shards / "val")
    evaluated_SK, _ = Evaluator(
        val, trained.model.input, config.evaluation, config.loader, world_of_one()
    ).probabilities(trained.module)
    classifier, reader = Classifier.load(finetuned), ShardReader(val)
    assert classifier.stored.fps == 10
    assert (classifier.stored.clips, classifier.stored.crops) == (2, 3)
    originals = sorted((videos / "val").rglob("*.mp4"))
    for number, wanted_K in enumerate(evaluated_SK):
        sample = reader.read(number)
        (tmp_path / "stored.mp4").write_bytes(sample.video)
        np.testing.assert_allclose(classifier(tmp_path / "stored.mp4").probabilities, wanted_K, atol=1e-5)
        original = next(path for path in originals if sample.key.endswith(f"-{path.stem}"))
        np.testing.assert_allclose(classifier(original).probabilities, wanted_K, atol=1e-5)


def test_windows_of_a_long_video_equal_the_clips_cut_out(finetuned: Path, videos: Path, tmp_path: Path) -> None:
    first, second = sorted((videos / "val").rglob("*.mp4"))[:2]
    lossless = EncodingConfig(short_side=None, fps=None, crf=0)
    size = (probe(first).height // 2 * 2, probe(first).width // 2 * 2)
    frames = [frame for path in (first, second, first) for frame in decode(path, range(20))[:, : size[0], : size[1]]]
    (tmp_path / "long.mp4").write_bytes(encode(frames, 10, lossless))
    classifier = Classifier.load(finetuned)
    prediction = classifier(tmp_path / "long.mp4")
    assert [window.start for window in prediction.windows] == pytest.approx([0, 1, 2, 3, 4])
    assert [window.end for window in prediction.windows] == pytest.approx([2, 3, 4, 5, 6])
    for start, window in ((0, prediction.windows[0]), (20, prediction.windows[2])):
        (tmp_path / "cut.mp4").write_bytes(encode(frames[start : start + 20], 10, lossless))
        alone = classifier(tmp_path / "cut.mp4")
        np.testing.assert_allclose(alone.probabilities, window.probabilities, atol=2e-3)  # the cut is stored lossily
    np.testing.assert_allclose(prediction.windows[0].probabilities, prediction.windows[4].probabilities, atol=1e-5)
    assert sum(prediction.probabilities) == pytest.approx(1)
    assert prediction.score == prediction.scores[prediction.label]


def test_what_cannot_be_predicted_is_refused(finetuned: Path, tmp_path: Path) -> None:
    classifier = Classifier.load(finetuned / "export")
    (tmp_path / "page.mp4").write_text("<html>not found</html>")
    with pytest.raises(UserError, match="not a readable video"):
        classifier(tmp_path / "page.mp4")
    with pytest.raises(UserError, match="no such file"):
        classifier(tmp_path / "nowhere.mp4")
    with pytest.raises(UserError, match="no run at"):
        Classifier.load(tmp_path)
    (tmp_path / "config.yaml").write_text((finetuned / "config.yaml").read_text())
    with pytest.raises(UserError, match="the run is not finished"):
        Classifier.load(tmp_path)
    with pytest.raises(UserError, match="wanted 0 < hop <= window"):
        classifier.windows(seconds=2, hop=3)


def test_the_scores_of_negatives_set_the_threshold_of_a_prediction(
    finetuned: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From `evaluate --negatives` to `predict --negatives`, which reads what the first wrote."""
    run = shutil.copytree(finetuned, tmp_path / "run")
    quiet = videos / "val" / "right"
    words = ["evaluate", str(run), "--negatives", str(quiet), "--false-alarms", "90000", "--json"]
    assert main(words) == 0
    alarms = json.loads(capsys.readouterr().out)
    assert alarms == json.loads((run / "negatives.json").read_text())
    assert alarms["videos"] == len(list(quiet.iterdir()))
    clip = next((videos / "val" / "left").iterdir())
    words = ["predict", str(run), str(clip), "--alarm", alarms["positive"], "--false-alarms", "90000", "--json"]
    assert main([*words, "--negatives", str(run / "negatives")]) == 0
    (prediction,) = json.loads(capsys.readouterr().out)
    assert prediction["alarm"]["on"] == pytest.approx(alarms["threshold"], abs=2e-6)  # CSV files keep six digits
    assert bool(prediction["alarms"]) == (prediction["scores"]["left"] >= prediction["alarm"]["on"])
    assert main([*words, "--negatives", str(tmp_path / "none")]) == 2
    assert "no scores at" in capsys.readouterr().err
