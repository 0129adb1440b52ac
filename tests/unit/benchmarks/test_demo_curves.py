"""The demo's curves: the points of a benchmark and of monitored runs, in the picture and as JSON."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.demo_curves import main


def row(title: str, labels_per_class: int | None, seed: int, accuracy: float) -> dict[str, Any]:
    labels = "all" if labels_per_class in (None, 30) else f"{labels_per_class} per class"
    known = {"model": "s3d", "pretrained": "scratch", "params": 1, "gmacs": 1.0, "seconds": 1.0, "published": None}
    counts = {"clips_per_second": 1.0, "correct": int(400 * accuracy), "total": 400, "run": f"{title}-{labels}-{seed}"}
    values = {"title": title, "labels": labels, "labels_per_class": labels_per_class, "seed": seed}
    return {**known, **counts, **values, "accuracy": accuracy, "interval": [accuracy - 0.1, accuracy + 0.1]}


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    folder = tmp_path / "labels"
    folder.mkdir()
    rows = [row("S3D", count, seed, count / 100 + seed / 10) for count in (30, 2, 5) for seed in (0, 1)]
    (folder / "benchmark.json").write_text(json.dumps([*rows, row("VideoMAE <frozen>", 5, 0, 0.85)]))
    return folder


def pretraining(folder: Path, lines: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_points_are_printed_and_drawn(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    point = {"kind": "evaluation", "accuracy": 0.5, "low": 0.4, "high": 0.6}
    lines = [{"kind": "train", "loss": 1.0}, {**point, "clips": 16_000}, {**point, "clips": 32_000, "accuracy": 0.55}]
    runs = [str(pretraining(tmp_path / f"seed-{seed}", lines)) for seed in (0, 1)]
    picture = tmp_path / "curves.svg"
    assert main([str(labels), str(picture), "--pretraining", *runs, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    points = [(point["title"], point["labels_per_class"], point["seeds"]) for point in found["labels"]]
    assert points == [("S3D", 2, 2), ("S3D", 5, 2), ("S3D", 30, 2), ("VideoMAE <frozen>", 5, 1)]
    assert [point["accuracy"] for point in found["labels"]] == pytest.approx([0.07, 0.1, 0.35, 0.85])
    assert [(point["run"], point["clips"], point["accuracy"]) for point in found["clips"]] == [
        (f"seed-{seed}", clips, accuracy) for seed in (0, 1) for clips, accuracy in ((16_000, 0.5), (32_000, 0.55))
    ]
    svg = picture.read_text()
    assert all(part in svg for part in ("S3D", "VideoMAE &lt;frozen&gt;", "labelled clips a class", "clips seen"))
    assert main([str(labels), str(picture)]) == 0
    assert "30 labels a class:  35.0% (" in capsys.readouterr().out
    assert "clips seen" not in picture.read_text()


def test_what_has_no_curve_is_refused(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = pretraining(tmp_path / "plain", [{"kind": "train", "loss": 1.0}])
    assert main([str(labels), str(tmp_path / "x.svg"), "--pretraining", str(plain)]) == 2
    assert "has no evaluations; pretrain with monitor=" in capsys.readouterr().err
    (labels / "benchmark.json").write_text(json.dumps([row("S3D", None, 0, 0.5)]))
    assert main([str(labels), str(tmp_path / "x.svg")]) == 2
    assert "has no curve over labels" in capsys.readouterr().err
    assert not (tmp_path / "x.svg").exists()
