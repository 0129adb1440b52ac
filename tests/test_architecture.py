"""The shape of the tree: imports go one way, each heavy dependency has one door, every config loads."""

import ast
from pathlib import Path

import pytest

from finetune.benchmark.protocol import BenchmarkConfig
from finetune.config import FinetuneConfig
from pretrain.config import PretrainConfig
from videomae.core.config import ConfigError, dump, load

ROOT = Path(__file__).parent.parent
PACKAGES = ("videomae", "pretrain", "finetune", "launch")
ALLOWED = {
    "videomae": set(),
    "pretrain": {"videomae"},
    "finetune": {"videomae"},
    "launch": {"videomae", "pretrain", "finetune"},
}
DOORS = {
    "deepspeed": "videomae/engine/deepspeed_engine.py",
    "webdataset": "videomae/data/shards/",
    "fsspec": "videomae/data/remote/",
    "wandb": "videomae/run/metrics/wandb_process.py",
    "av": "videomae/data/video/",
    "torchvision": "videomae/core/torchvision_compat.py",
    "timm": "videomae/models/weights/image_vit.py",
    "cv2": "finetune/models/optical_flow.py",
}
SCHEMAS = {"pretrain": PretrainConfig, "finetune": FinetuneConfig, "benchmark": BenchmarkConfig}


def imported_packages(file: Path) -> set[str]:
    """Top-level names that a file imports, in functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def sources() -> list[Path]:
    return [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]


def test_imports_go_one_way() -> None:
    wrong = []
    for file in sources():
        package = file.relative_to(ROOT).parts[0]
        foreign = (imported_packages(file) & set(PACKAGES)) - ALLOWED[package] - {package}
        wrong += [f"{file.relative_to(ROOT)} imports {name}" for name in foreign]
    assert not wrong


@pytest.mark.parametrize(("dependency", "door"), DOORS.items())
def test_each_heavy_dependency_has_one_door(dependency: str, door: str) -> None:
    users = {str(file.relative_to(ROOT)) for file in sources() if dependency in imported_packages(file)}
    assert all(user.startswith(door) for user in users), users


def config_files() -> list[Path]:
    return [file for file in sorted((ROOT / "configs").rglob("*.yaml")) if "cluster" not in file.parts]


@pytest.mark.parametrize("file", config_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_every_config_loads_opens_with_its_command_and_dumps_to_itself(file: Path, tmp_path: Path) -> None:
    text = file.read_text()
    stage = next(line.split(":")[1].strip() for line in text.splitlines() if line.startswith("stage:"))
    config = load(SCHEMAS[stage], file)
    assert text.startswith("#")
    assert "videomae " in text.split("\nstage:")[0], "the header names no command"
    (tmp_path / "again.yaml").write_text(dump(config))
    assert load(SCHEMAS[stage], tmp_path / "again.yaml") == config


@pytest.mark.parametrize("file", config_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_every_config_refuses_an_unknown_key(file: Path) -> None:
    stage = next(line.split(":")[1].strip() for line in file.read_text().splitlines() if line.startswith("stage:"))
    with pytest.raises(ConfigError, match="unknown key 'speling'"):
        load(SCHEMAS[stage], file, ["speling=1"])
