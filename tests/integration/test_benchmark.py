"""A whole small benchmark in one process: search on the holdout, seeds, few labels, other data, rows one by one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks import demo_curves
from finetune.benchmark.command import publish
from finetune.benchmark.config import BenchmarkConfig
from finetune.benchmark.protocol import Chosen, jobs, run_jobs
from finetune.benchmark.results import read_rows
from finetune.predictions import Predictions
from tests.processes import ROOT, run_processes
from tests.stages import finetune_settings, losses
from tests.tiny import world_of_one
from videomae.core.config import parse, to_dict
from videomae.core.errors import UserError


def settings(folder: Path, shards: Path, **changes: object) -> BenchmarkConfig:
    protocol = finetune_settings(folder, shards)
    for key in ("run", "model"):
        del protocol[key]
    protocol |= {
        "schedule": {"duration": "2 steps", "warmup": "0 steps"},
        "selection": {"fraction": 0.25},
        "mixup": {},
    }
    protocol["data"]["partial"] = "pad"
    values = {
        "run": str(folder),
        "seeds": [0, 1],
        "protocol": protocol,
        "rows": [
            {"title": "Single frame", "model": {"name": "single_frame", "frames": 2, "size": 32}},
            {"title": "Early fusion", "model": {"name": "early_fusion", "frames": 4, "size": 32}},
        ],
        "search": {"lr": [1e-4, 1e-3, 1e-2], "trials": 2},
        "labels": {"per_class": [2, 3], "rows": ["Early fusion"]},
        "evaluate_on": [{"elsewhere": str(shards)}],
        **changes,
    }
    return parse(BenchmarkConfig, values, source="test")


@pytest.fixture(scope="module")
def folder(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The benchmark, one row after the other."""
    folder, world = tmp_path_factory.mktemp("benchmark"), world_of_one()
    config = settings(folder, shards)
    run_jobs(config, world, Chosen(rows=("Single frame",), seeds=(0,)))
    publish(config, world, "videomae benchmark x.yaml")
    (row,) = read_rows(folder)
    assert (row.title, row.seed) == ("Single frame", 0)
    run_jobs(config, world, Chosen())
    publish(config, world, "videomae benchmark x.yaml")
    return folder


def test_every_row_has_its_runs(folder: Path, shards: Path) -> None:
    rows = json.loads((folder / "benchmark.json").read_text())
    assert {(row["title"], row["seed"], row["labels"]) for row in rows} == {
        ("Single frame", 0, "all"),
        ("Single frame", 1, "all"),
        ("Early fusion", 0, "all"),
        ("Early fusion", 1, "all"),
        ("Early fusion", 0, "2 per class"),
        ("Early fusion", 1, "2 per class"),
        ("Early fusion", 0, "3 per class"),
        ("Early fusion", 1, "3 per class"),
    }
    assert len(list((folder / "search").iterdir())) == 4
    assert {row["lr"] for row in rows} <= {1e-4, 1e-2}
    for row in rows:
        assert row["cross"]["elsewhere"]["accuracy"] == row["accuracy"]
        assert (
            row["metrics"]["roc_auc"]["low"] <= row["metrics"]["roc_auc"]["value"] <= row["metrics"]["roc_auc"]["high"]
        )
        assert row["latency_ms"] > 0
        assert (folder / row["run"] / "evaluation-elsewhere.json").is_file()
    few = next(row for row in rows if row["labels"] != "all")
    assert not (folder / few["run"] / "selection.json").exists()


def test_the_curve_over_labels_is_drawn(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo_curves.main([str(folder), str(tmp_path / "curve.svg")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" labels")[0].split() for line in lines] == [["Early", "fusion", number] for number in "23"]
    assert "stroke-dasharray" in (tmp_path / "curve.svg").read_text()  # the line of chance


def test_the_rate_is_the_best_on_the_holdout_and_the_first_seed_is_that_trial(folder: Path, shards: Path) -> None:
    for row in json.loads((folder / "benchmark.json").read_text()):
        slug = row["title"].lower().replace(" ", "-")
        found = {
            float(trial.name.split("-lr")[1]): json.loads((trial / "selection.json").read_text())["best"][1]
            for trial in (folder / "search").glob(f"{slug}-lr*")
        }
        assert found[row["lr"]] == max(found.values())
        if row["seed"] == 0 and row["labels"] == "all":
            assert row["run"].startswith("search/")


def test_finished_runs_are_reused_and_a_lost_one_is_made_again(folder: Path, shards: Path) -> None:
    config = settings(folder, shards)
    listed = list(jobs(config))
    before = [job.config.directory.summary.stat().st_mtime_ns for job in listed]
    lost = next(place for place, job in enumerate(listed) if job.seed == 1)
    shutil.rmtree(listed[lost].config.directory.path)
    run_jobs(config, world_of_one(), Chosen())
    after = [job.config.directory.summary.stat().st_mtime_ns for job in listed]
    assert [place for place in range(len(listed)) if before[place] != after[place]] == [lost]


def test_all_rows_of_a_seed_saw_the_same_videos(folder: Path) -> None:
    rows = [row for row in json.loads((folder / "benchmark.json").read_text()) if row["labels"] == "all"]
    held = [Predictions.load(folder / row["run"] / "predictions-holdout.csv").keys for row in rows if row["seed"] == 1]
    assert held[0] == held[1]


def two_rows(folder: Path, shards: Path) -> Path:
    """The file of a benchmark of two rows."""
    config = settings(folder / "run", shards, search=None, labels=None, seeds=[0], evaluate_on={})
    (folder / "two.yaml").write_text(yaml.safe_dump(to_dict(config)))
    return folder / "two.yaml"


def processes_of_the_rows(folder: Path) -> set[int]:
    """The processes that trained the rows, each of them once, all in one report."""
    rows = read_rows(folder)
    assert sorted(row.title for row in rows) == ["Early fusion", "Single frame"]
    assert [len(losses(folder / row.run)) for row in rows] == [2, 2]
    (page,) = folder.glob("*.html")
    assert all(row.title in page.read_text() for row in rows)
    return {json.loads((folder / row.run / "status.json").read_text())["pid"] for row in rows}


def test_two_ranks_share_the_rows(shards: Path, tmp_path: Path) -> None:
    run_processes(2, "finetune.benchmark", two_rows(tmp_path, shards), "share=rows")
    assert len(processes_of_the_rows(tmp_path / "run")) == 2


@pytest.mark.long
def test_two_processes_work_on_one_benchmark(shards: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "finetune.benchmark", str(two_rows(tmp_path, shards))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    both = [subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for one in both:
        said = one.communicate(timeout=540)[1]
        assert one.returncode == 0, said
    assert processes_of_the_rows(tmp_path / "run") <= {one.pid for one in both}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"search": {"lr": [1e-3]}}, "at least two learning rates"),
        ({"labels": {"per_class": [3], "rows": ["Nobody"]}}, "labels.rows names 'Nobody'"),
        ({"labels": []}, "labels needs fractions"),
        ({"share": "rows", "engine": "deepspeed"}, "set engine.kind=local"),
        ({"seeds": []}, "at least one row and one seed"),
    ],
)
def test_a_benchmark_that_cannot_be_is_refused(
    tmp_path: Path, shards: Path, changes: dict[str, object], says: str
) -> None:
    engine = changes.pop("engine", None) if "engine" in changes else None
    if engine is not None:
        changes["protocol"] = {**settings(tmp_path, shards).protocol, "engine": {"kind": engine}}
    with pytest.raises(UserError, match=says):
        settings(tmp_path, shards, **changes)


def test_other_data_of_other_classes_and_unknown_rows_are_refused(tmp_path: Path, shards: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(shards, other)
    file = other / "val" / "manifest.json"
    file.write_text(file.read_text().replace('"right"', '"Peace"'))
    config = settings(tmp_path / "run", shards, evaluate_on={"other": str(other)})
    with pytest.raises(UserError, match=r"evaluate_on other.*Peace.*build the shards with the same class names"):
        run_jobs(config, world_of_one(), Chosen())
    with pytest.raises(UserError, match="leaves the class 'left' empty"):  # before the first row is trained
        run_jobs(settings(tmp_path / "run", shards, labels=[0.01]), world_of_one(), Chosen())
    encoder = {"title": "E", "model": {"name": "videomae"}, "from_encoder": True}
    rows = [{"title": "Early fusion", "model": {"name": "early_fusion"}}, encoder]
    with pytest.raises(UserError, match=r"no encoder\.json in nowhere"):
        run_jobs(
            settings(tmp_path / "run", shards, rows=rows, labels=None, encoder="nowhere"), world_of_one(), Chosen()
        )
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="--rows 'S4D' is no row"):
        run_jobs(config, world_of_one(), Chosen(rows=("S4D",)))
