"""Configs: overrides, unknown keys, wrong types, tagged sections, dumps that load."""

from pathlib import Path
from typing import Annotated, Literal

import pydantic
import pytest
import yaml

from videomae.core.config import ConfigError, configclass, dump, load
from videomae.core.errors import UserError


@configclass
class OptimizerSettings:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)

    def __post_init__(self) -> None:
        if self.lr < 0:
            raise UserError(f"lr must be at least 0, got {self.lr}")


@configclass
class RedModel:
    name: Literal["red"] = "red"
    frames: int = 16
    depth: int = 4


@configclass
class BlueModel:
    name: Literal["blue", "azure"] = "blue"
    frames: int = 16
    width: float = 0.5


@configclass
class Settings:
    run: str
    optimizer: OptimizerSettings = OptimizerSettings()
    model: Annotated[RedModel | BlueModel, pydantic.Field(discriminator="name")] = RedModel()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text("run: here\noptimizer: {lr: 3e-4}\nmodel: {name: red, frames: 8, depth: 2}\n")
    return path


def test_values_are_typed_and_overrides_win(file: Path) -> None:
    settings = load(Settings, file, ["optimizer.betas=[0.8, 0.9]", "run=there"])
    assert settings.optimizer.lr == 3e-4  # YAML itself reads this as text
    assert settings.optimizer.betas == (0.8, 0.9)
    assert settings.run == "there"


def test_an_override_of_the_name_keeps_only_what_both_variants_have(file: Path) -> None:
    model = load(Settings, file, ["model.name=azure"]).model
    assert model == BlueModel(name="azure", frames=8)


def test_a_dump_loads_to_the_same(file: Path, tmp_path: Path) -> None:
    settings = load(Settings, file, ["model.name=blue", "model.width=0.25"])
    (tmp_path / "again.yaml").write_text(dump(settings))
    assert load(Settings, tmp_path / "again.yaml") == settings


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("2024_01_05", "2024_01_05"), ("20240105", "20240105"), ("007", "007"), ("2024-01-05", "2024-01-05"),
        ("1e-4", "1e-4"), ("1.10", "1.10"), ("12:30:00", "12:30:00"), ("0x1F", "0x1F"), ("off", "off"), ("'5'", "5"),
        ("a #2", "a #2"), ("null_run", "null_run"),
    ],
)  # fmt: skip
def test_text_stays_as_it_was_typed_and_dumps_to_itself(file: Path, tmp_path: Path, text: str, name: str) -> None:
    settings = load(Settings, file, [f"run={text}"])
    assert settings.run == name
    (tmp_path / "again.yaml").write_text(dump(settings))
    assert load(Settings, tmp_path / "again.yaml") == settings
    assert yaml.safe_load(dump(settings))["run"] == name  # other programs read the dump too


@pytest.mark.parametrize("written", ["1e-4", "1E-4", "1.0e-04", ".0001", "0.0001", "+1e-4"])
def test_numbers_are_numbers_in_a_file_and_in_an_override(file: Path, written: str) -> None:
    assert load(Settings, file, [f"optimizer.lr={written}"]).optimizer.lr == 1e-4
    file.write_text(f"run: 2024_01_05\noptimizer: {{lr: {written}, betas: [{written}, 1]}}\n")
    settings = load(Settings, file, ["model.name=red", "model.frames=8"])
    assert settings == Settings(
        run="2024_01_05", optimizer=OptimizerSettings(lr=1e-4, betas=(1e-4, 1.0)), model=RedModel(frames=8)
    )


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("optimizer.lrr=1", "unknown key 'optimizer.lrr'; did you mean 'lr'"),
        ("model.deph=1", "did you mean 'depth'"),
        ("optimizer.lr=fast", "optimizer.lr: got 'fast'"),
        ("optimizer=3", "optimizer: got 3"),
        ("optimizer.lr=-1", "yaml: optimizer: lr must be at least 0, got -1.0"),
        ("run.deeper=3", "run is a single value"),
        ("nonsense", "expected key=value"),
        ("model.name=green", "green"),
        ("optimizer.betas=[1]", "optimizer.betas"),
    ],
)
def test_mistakes_are_named(file: Path, override: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint.replace("(", r"\(").replace("[", r"\[")):
        load(Settings, file, [override])


def test_a_missing_file_and_a_missing_value_are_named(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean .*settings\.yaml"):
        load(Settings, tmp_path / "setings.yaml")
    file.write_text("optimizer: {}\n")
    with pytest.raises(ConfigError, match="run: required and not given"):
        load(Settings, file)
    file.write_text("- a list\n")
    with pytest.raises(ConfigError, match="expected a mapping"):
        load(Settings, file)
    file.write_bytes("run: caf\u00e9\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"settings\.yaml: not valid YAML"):
        load(Settings, file)
    file.write_text("a: [\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load(Settings, file)


def test_a_config_cannot_be_written_to(file: Path) -> None:
    with pytest.raises(AttributeError):
        setattr(load(Settings, file), "run", "elsewhere")  # noqa: B010 - an assignment would not pass the type checker
