"""The tree: imports go one way, without cycles; files and functions are short; every config loads."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune.benchmark.config import BenchmarkConfig
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
ROOMS = ("core", "models", "data", "engine", "run")  # each stands on those before it; files beside them on all
DOORS = {
    "deepspeed": "videomae/engine/deepspeed_engine.py",
    "webdataset": "videomae/data/shards/",
    "fsspec": "videomae/data/remote/",
    "wandb": "videomae/run/metrics/wandb_process.py",
    "av": "videomae/data/video/",
    "torchvision": "videomae/core/torchvision_compat.py",
    "timm": "videomae/models/weights/image_vit.py",
    "cv2": ("finetune/models/two_stream.py", "videomae/data/synthetic/"),
    "sklearn": "finetune/",
}
MOST_LINES = 300
MOST_FUNCTION_LINES = 40
# Where functions may import this tree's modules: commands, which start fast and handle signals before slow imports, and
# the factory, which imports only the engine it builds.
LATE = ("__main__", "launch.commands.", "launch.cli", "pretrain.commands", "finetune.commands", "videomae.command")
LATE_BY_CHOICE = {"videomae.engine.factory"}
SCHEMAS = {"pretrain": PretrainConfig, "finetune": FinetuneConfig, "benchmark": BenchmarkConfig}


def sources() -> list[Path]:
    return [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in sources()}


def top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements that run at import, but for those under `if TYPE_CHECKING`."""
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield from (
            (child for child in ast.walk(node) if isinstance(child, ast.stmt))
            if isinstance(node, ast.If | ast.Try | ast.With)
            else (node,)
        )


def imported(nodes: Iterator[ast.AST] | list[ast.AST]) -> set[str]:
    """The modules of this tree, and the top-level names of others, that the import statements among `nodes` name."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in MODULES else node.module)
    return names


TREES = {name: ast.parse(file.read_text()) for name, file in MODULES.items()}
IMPORTS = {name: imported(ast.walk(tree)) for name, tree in TREES.items()}
AT_IMPORT = {name: imported(top_level(tree)) for name, tree in TREES.items()}
IN_FUNCTIONS = {
    name: {
        other
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for other in imported(list(ast.walk(node)))
    }
    for name, tree in TREES.items()
}


def package(name: str) -> str:
    return name.split(".")[0]


def test_packages_import_one_way() -> None:
    """But for `videomae` itself, the front door: it names what users import, for type checkers, and loads it late."""
    assert not {package(other) for other in AT_IMPORT["videomae"]} & set(PACKAGES)
    wrong = [
        f"{name} imports {other}"
        for name, others in (IMPORTS | {"videomae": AT_IMPORT["videomae"]}).items()
        for other in others
        if other.split(".")[0] in PACKAGES
        and other.split(".")[0] not in ALLOWED[name.split(".")[0]] | {name.split(".")[0]}
    ]
    assert not wrong


def room(name: str) -> int:
    """The place of a module's room; files beside the rooms stand above them all."""
    parts = name.split(".")
    return ROOMS.index(parts[1]) if len(parts) > 1 and parts[1] in ROOMS else len(ROOMS)


def test_rooms_import_one_way() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        for other in others
        if name.startswith("videomae") and other.startswith("videomae.") and room(other) > room(name)
    ]
    assert not wrong


def test_modules_have_no_cycles() -> None:
    """At import time; `A.B` counts as `A.B` alone, although Python runs `A/__init__.py` first."""
    state: dict[str, int] = {}
    cycles: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if state.get(name) == 1:
            cycles.append(" -> ".join((*path[path.index(name) :], name)))
        if name in state:
            return
        state[name] = 1
        for other in sorted(AT_IMPORT[name] & MODULES.keys()):
            visit(other, (*path, name))
        state[name] = 2

    for name in MODULES:
        visit(name, ())
    assert not cycles


def test_functions_import_only_where_it_is_needed() -> None:
    wrong = [
        f"{name} imports {other} in a function"
        for name in MODULES
        if name not in LATE_BY_CHOICE and not name.endswith("__main__") and not name.startswith(LATE)
        for other in IN_FUNCTIONS[name]
        if other in MODULES
    ]
    assert not wrong


@pytest.mark.parametrize(("dependency", "door"), DOORS.items())
def test_each_heavy_dependency_has_its_door(dependency: str, door: str | tuple[str, ...]) -> None:
    users = {
        str(MODULES[name].relative_to(ROOT))
        for name, others in IMPORTS.items()
        if dependency in {other.split(".")[0] for other in others}
    }
    assert all(user.startswith(door) for user in users), users


def test_files_are_short() -> None:
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in sources()}
    assert not {file: lines for file, lines in lengths.items() if lines > MOST_LINES}


def test_functions_are_short() -> None:
    long = [
        f"{MODULES[name].relative_to(ROOT)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MOST_FUNCTION_LINES
    ]
    assert not long


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
