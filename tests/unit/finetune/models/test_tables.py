"""The tables: every published figure is met or its deviation explained; the examples equal the course line by line."""

import json

import pytest

from finetune.models import names
from finetune.models.tables import ModelRow, model_rows
from launch.cli import main
from tests.processes import call

WITHIN_ONE_PERCENT = {
    "vivit_1": (88.9, 455.2),
    "vivit_2": (115.1, 284.4),
    "vivit_3": (117.3, 372.3),
    "vivit_4": (88.9, 277.1),
    "c3d": (78.4, None),
    "s3d": (None, 17.98),
    "videomae": (86.2, 180.3),
    "r2plus1d_18": (31.505, 40.519),
    "mvit_v2_s": (34.538, 64.224),
    "swin3d_t": (28.158, 43.882),
    "swin3d_s": (49.817, 82.841),
    "swin3d_b": (88.049, 140.667),
}
COURSE_PARAMETERS = {
    "single_frame": 11.5,
    "late_fusion": 11.5,
    "early_fusion": 11.6,
    "cnn_lstm": 15.3,
    "cnn_mamba": 16.4,
}
COURSE_EXAMPLES = {
    "example_late": [
        ("12x20x64x64", "1x3x3"),
        ("12x20x16x16", "1x6x6"),
        ("24x20x16x16", "1x14x14"),
        ("24x1x1x1", "20x64x64"),
    ],
    "example_early": [("12x64x64", "20x3x3"), ("12x16x16", "20x6x6"), ("24x16x16", "20x14x14"), ("24x1x1", "20x64x64")],
    "example_3d": [
        ("12x20x64x64", "3x3x3"),
        ("12x5x16x16", "6x6x6"),
        ("24x5x16x16", "14x14x14"),
        ("24x1x1x1", "20x64x64"),
    ],
}


@pytest.fixture(scope="module")
def rows() -> dict[str, ModelRow]:
    return {row.name: row for row in model_rows()}


def test_every_model_has_a_row(rows: dict[str, ModelRow]):
    assert tuple(rows) == names()
    assert all(row.source for row in rows.values())


@pytest.mark.parametrize(("name", "figures"), WITHIN_ONE_PERCENT.items())
def test_published_figures_are_met_within_one_percent(
    rows: dict[str, ModelRow], name: str, figures: tuple[float | None, float | None]
):
    for measured, published in zip((rows[name].parameters, rows[name].gmacs), figures, strict=True):
        if published is not None:
            assert measured["measured"] == pytest.approx(published, rel=0.01)
            assert measured["published"] == pytest.approx(published, rel=1e-3)


@pytest.mark.parametrize(("name", "parameters"), COURSE_PARAMETERS.items())
def test_the_courses_parameters_are_met_within_one_and_a_half_percent(
    rows: dict[str, ModelRow], name: str, parameters: float
):
    assert rows[name].parameters["measured"] == pytest.approx(parameters, rel=0.015)
    assert rows[name].parameters["published"] == parameters


def test_whatever_is_further_off_says_why(rows: dict[str, ModelRow]):
    far = [
        row.name
        for row in rows.values()
        for figure in (row.parameters, row.gmacs)
        if (deviation := figure["deviation"]) is not None and abs(deviation) > 0.015
    ]
    assert far == ["c3d", "s3d"]
    assert all(rows[name].note for name in far)


@pytest.mark.parametrize(("name", "lines"), COURSE_EXAMPLES.items())
def test_the_examples_equal_the_course_line_by_line(
    name: str, lines: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
):
    assert main(["models", name, "--json"]) == 0
    layers = json.loads(capsys.readouterr().out)
    assert [(layer["output"], layer["receptive_field"]) for layer in layers[:4]] == lines
    assert main(["models", name]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    for output, field in lines:
        assert any(output in cells and field in cells for cells in printed)


def test_resnets_receptive_fields_are_the_known_ones(capsys: pytest.CaptureFixture[str]):
    assert main(["models", "late_fusion", "frames=2", "size=96", "--json"]) == 0
    fields = {layer["name"]: layer["receptive_field"] for layer in json.loads(capsys.readouterr().out)}
    expected = {"conv1": 7, "maxpool": 11, "layer1.0.conv1": 19, "layer1.1.conv2": 43, "layer2.0.conv1": 51}
    for name, span in expected.items():
        assert fields[f"network.{name}"] == f"1x{span}x{span}"
    assert fields["classifier.0"] == "2x96x96"


def test_receptive_fields_follow_factorised_attention(capsys: pytest.CaptureFixture[str]):
    small = ["frames=8", "size=64", "dim=48", "heads=4", "depth=1", "--json"]
    assert main(["models", "vivit_3", *small]) == 0
    fields = {layer["name"]: layer["receptive_field"] for layer in json.loads(capsys.readouterr().out)}
    assert fields["patch_embed.proj"] == fields["blocks.0.norm1"] == "2x16x16"
    assert fields["blocks.0.attn"] == "2x64x64"
    assert fields["blocks.0.temporal_attn"] == "8x64x64"
    assert main(["models", "swin3d_t", "frames=4", "size=64", "--json"]) == 0
    fields = {layer["name"]: layer["receptive_field"] for layer in json.loads(capsys.readouterr().out)}
    assert fields["network.features.0.0.norm1"] == "2x4x4"
    assert fields["network.features.0.0.attn"] == "4x28x28"  # a window of 7 x 7 patches


def test_a_wrong_name_or_setting_is_one_clear_line(capsys: pytest.CaptureFixture[str]):
    for arguments, words in (
        (["single_fram"], "did you mean single_frame"),
        (["s3d", "size=5"], "at least 8 frames of 17 x 17"),
        (["s3d", "sise=5"], "did you mean 'size'"),
        (["s3d", "size"], "key=value"),
    ):
        assert main(["models", *arguments, "--json"]) == 2
        assert words in capsys.readouterr().err


def test_the_whole_table_prints_videomae_by_size_within_one_percent(
    rows: dict[str, ModelRow], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("launch.model_tables.model_rows", lambda: list(rows.values()))
    table = json.loads(call("models", "--json"))
    assert {row["name"] for row in table["models"]} == set(names())
    published = {
        row["size"]: [figure["published"] for key, figure in row.items() if key != "size"]
        for row in table["pretraining"]
    }
    assert published == {
        "small": [21.88, 2.15, 56.9, 11.5, 7.8],
        "base": [86.23, 7.98, 180.3, 35.4, 25.8],
        "large": [303.86, 39.14, 596.8, 142.6, 99.3],
        "huge": [631.61, 60.88, 1191, 237.6, 176.1],
        "giant": [1011.6, 13.9, 2543, 262.4, 240.7],
    }
    for row in table["pretraining"]:
        for key, figure in row.items():
            if "pretraining" in key or "dual" in key:  # the last decoder block computes the predicted tokens alone
                assert 0.8 * figure["published"] < figure["measured"] < 1.01 * figure["published"], (row["size"], key)
            elif key != "size":
                assert figure["measured"] == pytest.approx(figure["published"], rel=0.01), (row["size"], key)
