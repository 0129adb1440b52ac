"""Every command of the whole way, as a person types them: videos, shards, pretraining, table, report."""

import json
import shutil
from pathlib import Path

import pytest

from launch.demo import commands
from tests.processes import ROOT, call
from tests.stages import TINY

ROWS = """
rows:
  - title: Single <frame>
    model: {name: single_frame, frames: 2, size: 32}
  - title: Scratch
    model: &videomae {name: videomae, encoder: ENCODER}
  - title: Pretrained
    model: *videomae
    from_encoder: true
"""


@pytest.fixture(scope="module")
def benchmark(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(pretrained, folder / "pretrain")
    demo = (ROOT / "configs/demo/own_videos/benchmark.yaml").read_text().split("rows:")[0]
    (folder / "benchmark.yaml").write_text(demo + ROWS.replace("ENCODER", TINY))
    return folder


def arguments(folder: Path, shards: Path) -> list[str]:
    where = [f"run={folder}", f"encoder={folder / 'pretrain' / 'export'}", f"protocol.data.shards={shards}"]
    return [str(folder / "benchmark.yaml"), *where, "protocol.schedule={duration: 2 steps, warmup: 1 steps}"]


def test_table_report_and_reuse(benchmark: Path, shards: Path) -> None:
    printed = json.loads(call("benchmark", *arguments(benchmark, shards), "--json"))
    rows = json.loads((benchmark / "benchmark.json").read_text())
    assert printed == rows
    assert [row["title"] for row in rows] == ["Single <frame>", "Scratch", "Pretrained"]
    assert [row["pretrained"] for row in rows] == ["scratch", "scratch", "VideoMAE (run)"]
    assert all(row["total"] == 8 and row["params"] > 0 and row["gmacs"] > 0 for row in rows)
    assert all(row["interval"][0] <= row["accuracy"] <= row["interval"][1] for row in rows)
    again = json.loads(call("benchmark", *arguments(benchmark, shards), "--json"))
    assert [(row["accuracy"], row["seconds"]) for row in again] == [(row["accuracy"], row["seconds"]) for row in rows]
    assert "Single <frame>" in call("benchmark", *arguments(benchmark, shards))
    call("report", benchmark, "--pretraining", "pretrain")
    page = (benchmark / "report.html").read_text()
    assert "Single &lt;frame&gt;" in page
    assert "data:image/png;base64" in page


def test_a_row_that_cannot_be_is_refused_before_anything_runs(benchmark: Path, shards: Path, tmp_path: Path) -> None:
    words = arguments(benchmark, shards)
    said = call("benchmark", words[0], f"run={tmp_path}", "protocol.bach=3", expect=2)
    assert "unknown key 'bach'; did you mean 'batch'" in said
    said = call("benchmark", words[0], f"run={tmp_path}", "encoder=null", expect=2)
    assert "type encoder=runs/NAME/export" in said
    assert list(tmp_path.iterdir()) == []


def test_the_demo_is_these_commands_in_order(tmp_path: Path) -> None:
    names = ["synthesize", "build", "pretrain", "finetune.benchmark"]
    synthetic, own = commands(tmp_path, None), commands(tmp_path, tmp_path / "mine")
    for words, name in zip([command.words for command in synthetic], names, strict=True):
        assert name in words
    for words, name in zip([command.words for command in own], names[1:], strict=True):
        assert name in words
    assert str(tmp_path / "mine") in own[0].words
