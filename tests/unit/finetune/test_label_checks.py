"""Labels are checked before anything else: at the start of fine-tuning and evaluation, and by the doctor."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from finetune.config import FinetuneConfig
from finetune.evaluate import FinishedRun
from finetune.export import ClassifierDescription, save_classifier
from finetune.models import build
from finetune.stream import check_labels, split
from finetune.train import check_splits, train
from launch.cli import main
from launch.doctor.check import Context, run_checks
from launch.doctor.storage import CHECKS
from tests.processes import ROOT
from tests.stages import finetune_config
from tests.tiny import world_of_one
from videomae.core.config import dump, load
from videomae.core.errors import UserError
from videomae.data.build.external_tars import index_folder
from videomae.run.directory import RunDirectory


def shards(folder: Path, video: bytes, **labels: Sequence[str | None]) -> Path:
    """Shards of the given splits, as another program would write them, indexed with the classes 0, 1 and 2."""
    for name, values in labels.items():
        (folder / name).mkdir(parents=True)
        with tarfile.open(folder / name / "a.tar", "w") as archive:
            for number, label in enumerate(values):
                for suffix, content in (("mp4", video), ("cls", None if label is None else label.encode())):
                    if content is not None:
                        info = tarfile.TarInfo(f"{number}.{suffix}")
                        info.size = len(content)
                        archive.addfile(info, io.BytesIO(content))
    index_folder(folder)
    return folder


def config(folder: Path) -> FinetuneConfig:
    return load(FinetuneConfig, ROOT / "configs/finetune/c3d.yaml", [f"data.shards={folder}", f"run={folder}/run"])


@pytest.fixture
def video(tmp_path: Path, write_video: Callable[..., Path]) -> bytes:
    return write_video(tmp_path / "v.mp4", 1).read_bytes()


@pytest.mark.parametrize(
    ("train_labels", "val_labels", "said"),
    [
        (["0", None, "1", None], ["0", "1"], r"train: 2 of 4 samples have no label, such as a.tar/1, a.tar/3; add"),
        (["0", "1"], ["0", "1", None], r"val: 1 of 3 samples have no label, such as a.tar/2"),
        ([None, None], [None], "train has no classes, which suffices for pretraining only"),
        (["0", "0"], ["0"], "train has only the class '0'"),
    ],
)
def test_fine_tuning_refuses_missing_labels_before_it_writes_anything(
    tmp_path: Path, video: bytes, train_labels: list[str | None], val_labels: list[str | None], said: str
) -> None:
    folder = shards(tmp_path / "shards", video, train=train_labels, val=val_labels)
    with pytest.raises(UserError, match=said):
        train(config(folder), world_of_one())
    assert not (folder / "run").exists()


def test_classes_of_one_split_are_said(tmp_path: Path, video: bytes, caplog: pytest.LogCaptureFixture) -> None:
    folder = shards(tmp_path / "shards", video, train=["0", "1"], val=["0", "2"])
    check_splits(config(folder))
    assert "1 classes have no samples in val: 1" in caplog.text
    assert "1 classes have no samples in train: 2" in caplog.text


def test_shards_with_test_but_no_val_say_what_to_type(tmp_path: Path, video: bytes) -> None:
    folder = shards(tmp_path / "shards", video, train=["0", "1"], test=["0", "1"])
    with pytest.raises(UserError, match=f"has test/, but no val/.*type: mv {folder}/test {folder}/val"):
        split(config(folder), "val")
    (folder / "test").rename(folder / "val")
    assert check_labels(split(config(folder), "val")) == {0, 1}


def test_the_doctor_looks_at_the_labels(tmp_path: Path, video: bytes) -> None:
    checks = [check for check in CHECKS if check.name == "shards"]
    for name, labels, level in (("good", ["0", "1"], "green"), ("bad", ["0", "1", None], "red")):
        folder = shards(tmp_path / name, video, train=["0", "1"], val=labels)
        (result,) = run_checks(Context(world=world_of_one(), host="a", config=config(folder)), checks)
        assert result.level == level, result
        assert ("1 of 3 samples have no label, such as a.tar/2" in result.message) == (level == "red")


@pytest.mark.parametrize("order", [("1", "0"), ("0", "1", "2"), ("Calm", "Fight")])
def test_evaluation_refuses_shards_with_other_classes_than_the_run(
    tmp_path: Path, video: bytes, order: tuple[str, ...]
) -> None:
    folder = shards(tmp_path / "shards", video, train=["0", "1"], val=["0", "1"])
    run = RunDirectory(tmp_path / "run")
    settings = finetune_config(run.path, folder)
    run.path.mkdir()
    run.config.write_text(dump(settings))
    module = build(settings.model, len(order), initialise=False)
    save_classifier(module.state_dict(), ClassifierDescription(model=settings.model, classes=order), run.export)
    with pytest.raises(
        UserError, match=f"has the classes {', '.join(order)}, but the shards in .* have 0, 1; evaluate"
    ):
        FinishedRun.read(run.path).evaluate()


def test_the_card_counts_samples_without_a_label(
    tmp_path: Path, video: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shards(tmp_path / "shards", video, train=["0", None, "1", None, None], val=[None])
    assert main(["shards", "show", str(folder), "--clips", "1", "--json"]) == 0
    train_card, val_card = json.loads(capsys.readouterr().out)["splits"]
    assert (train_card["classes"], train_card["unlabelled"]) == ({"0": 1, "1": 1}, 3)
    assert val_card["unlabelled"] == 1
    assert main(["shards", "show", str(folder / "train"), "--clips", "1"]) == 0
    assert "classes     0 1, 1 1, without a label 3" in capsys.readouterr().out
