"""The shipped benchmarks: which models they compare, that every row is trained alike, and that the models fit."""

from pathlib import Path

import pytest

from finetune.benchmark.config import BenchmarkConfig
from finetune.models import names
from tests.stages import ROOT
from videomae.core.config import load

FILES = sorted((ROOT / "configs/benchmark").glob("*.yaml"))
COURSE = {"single_frame", "late_fusion", "early_fusion", "cnn_lstm", "cnn_mamba", "s3d", "vivit_2", "videomae"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_benchmark_has_the_courses_models(file: Path) -> None:
    config = load(BenchmarkConfig, file)
    assert {row.model.name for row in config.rows} >= COURSE
    assert next(row.model.name for row in config.rows if row.from_encoder) == "videomae"
    assert config.search is not None
    assert len({len(config.search.candidates(row)) for row in config.rows}) == 1
    runs = [config.finetuning(row, seed) for row in config.rows for seed in config.seeds]
    assert len({run.run for run in runs}) == len(runs)
    assert len({(run.schedule, run.evaluation, run.selection, run.batch, run.data) for run in runs}) == 1


def test_all_means_all() -> None:
    config = load(BenchmarkConfig, ROOT / "configs/benchmark/rwf2000_all.yaml")
    assert {row.model.name for row in config.rows} == set(names())
