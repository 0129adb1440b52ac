"""Three lines from a folder of videos to a model."""

from pathlib import Path

import pytest

import videomae
from videomae.core.config import ConfigError
from videomae.core.errors import UserError

ENCODER = {"frames": 8, "size": 32, "tubelet": 2, "patch": 8, "dim": 48, "depth": 2, "heads": 3}
SHORT = {"batch": 8, "schedule": {"duration": "2 steps", "warmup": "1 steps"}, "loader": {"workers": 0}}


def test_from_a_folder_to_a_model(videos: Path, tmp_path: Path) -> None:
    tiny = {"encoder": ENCODER, "decoder": {"dim": 24, "depth": 1, "heads": 3}, "mask": {"ratio": 0.75}}
    encoder = videomae.pretrain(data=videos, out=tmp_path / "encoder", visualizations=0, **tiny, **SHORT)
    shards = tmp_path / "encoder-shards"
    classifier = videomae.finetune(data=shards, out=tmp_path / "run", encoder=encoder, **SHORT)
    prediction = classifier(next((videos / "val").rglob("*.mp4")))
    assert prediction.label in ("left", "right")
    again = videomae.Classifier.load(tmp_path / "run")(prediction.source)
    assert again.probabilities == pytest.approx(prediction.probabilities)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder of videos or shards"):
        videomae.finetune(data=tmp_path / "nowhere", out=tmp_path / "run")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match="unknown key 'bach'"):
        videomae.pretrain(data=tmp_path, out=tmp_path / "run", bach=3)
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        getattr(videomae, "train")  # noqa: B009 - a name that type checkers refuse
