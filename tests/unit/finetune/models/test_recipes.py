"""Every registered model has a recipe in configs/finetune: as it stands, or by the model.name its header names."""

from pathlib import Path

import pytest

from finetune.config import FinetuneConfig
from finetune.models import names
from videomae.core.config import load

RECIPES = sorted((Path(__file__).parents[4] / "configs" / "finetune").glob("*.yaml"))
VARIANTS = {  # recipe of a family -> the names its header gives
    "cnn_lstm": ("cnn_lstm_many", "cnn_lstm_frozen"),
    "example": ("example_late", "example_early", "example_3d"),
    "i3d": ("i3d_non_local",),
    "late_fusion": ("late_fusion_fc",),
    "probe": ("videomae_attentive",),
    "swin3d": ("swin3d_s", "swin3d_b"),
    "two_stream": ("temporal_stream",),
    "vivit": ("vivit_1", "vivit_2", "vivit_3", "vivit_4"),
}


@pytest.fixture(scope="module")
def shipped() -> dict[str, FinetuneConfig]:
    return {file.stem: load(FinetuneConfig, file) for file in RECIPES}


def test_every_model_has_a_recipe(shipped: dict[str, FinetuneConfig]):
    covered = {config.model.name for config in shipped.values()} | {
        name for group in VARIANTS.values() for name in group
    }
    assert covered == set(names())


@pytest.mark.parametrize(("recipe", "variants"), VARIANTS.items())
def test_a_familys_other_models_need_the_name_alone(recipe: str, variants: tuple[str, ...]):
    file = next(file for file in RECIPES if file.stem == recipe)
    header = file.read_text().split("\nstage:")[0]
    for name in variants:
        assert name.removeprefix("vivit_") in header
        assert load(FinetuneConfig, file, [f"model.name={name}"]).model.name == name


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_header_names_command_hardware_and_what_was_measured(file: Path):
    header = file.read_text().split("\nstage:")[0]
    assert f"configs/finetune/{file.name}" in header
    assert "Hardware:" in header
    assert "measured" in header
