"""The run directory: config, environment, metrics, checkpoints and exports of one run.

config.yaml         the resolved config, itself a config
ds_config.json      DeepSpeed's settings, derived (runs with that engine)
inputs.json         SHA-256 of the run's inputs
environment.json    versions, machine, command, git state
status.json         state, step and reason, while the run is active and afterwards
lock/               which process group owns the run; see videomae.run.lock
metrics.jsonl       every logged value, one JSON object per line
quarantine.jsonl    samples that could not be read
logs/rank-N.log     log of each rank; rank-N.stacks.txt: its stacks if it hung
checkpoints/        see videomae.run.checkpoint
export/             the weights that later stages read
summary.json        written last: the run is finished
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from videomae.core.config import ConfigError, dump, parse, to_dict
from videomae.core.files import write_atomic, write_json
from videomae.core.processes import command_output

if TYPE_CHECKING:
    from videomae.core.distributed import World

EXECUTION = ("engine", "loader", "checkpoint", "metrics", "health", "run")  # sections that say how, not what
PACKAGES = ("videomae", "pretrain", "finetune", "launch")  # of this project
CODE_ROOT = Path(__file__).resolve().parents[2]  # of this code
_DEPENDENCIES = ("torch", "torchvision", "deepspeed", "webdataset", "timm", "av", "numpy", "wandb")


@dataclass(frozen=True)
class RunDirectory:
    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def deepspeed_settings(self) -> Path:
        return self.path / "ds_config.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def quarantine(self) -> Path:
        return self.path / "quarantine.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def stop_file(self) -> Path:
        return self.path / "STOP"  # a request to save and exit

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    def log(self, rank: int) -> Path:
        return self.path / "logs" / f"rank-{rank}.log"

    @property
    def begun(self) -> bool:
        """Whether a run has saved or finished here, so that its config and inputs must not change."""
        return self.summary.exists() or any(self.checkpoints.glob("*step-*"))

    def ensure_same_config(self, config: Any) -> None:
        """Check that the directory holds no run with another config.

        Raises:
            ConfigError: a setting differs that changes results; settings of execution may change.
        """
        if self.begun and self.config.exists():
            changed = _changes(_settings(self.config, type(config)), to_dict(config))
            if changed:
                raise ConfigError(
                    f"{self.path} holds a run with other settings ({'; '.join(changed[:4])}); "
                    f"give this one its own directory with run=PATH, or remove {self.path}"
                )

    def prepare(self, config: Any, world: World) -> None:
        """Create the directory and write config and environment on rank 0 while the others wait."""
        world.main_only(lambda: self._prepare(config, world))

    def _prepare(self, config: Any, world: World) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self.ensure_same_config(config)
        if self.summary.exists():
            return  # the record of a finished run stays that of the run
        write_atomic(self.config, dump(config))
        write_json(self.path / "environment.json", describe_environment(world))


def describe_environment(world: World) -> dict[str, Any]:
    """Return versions, machine, command and git state."""
    import torch  # here alone: what only reads a run starts without it

    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": package_versions(_DEPENDENCIES),
        "system": platform.platform(),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["cpu"],
        "processes": world.size,
        "git": git_state(),
    }


def package_versions(names: Iterable[str]) -> dict[str, str | None]:
    """The versions of installed packages; None for those that are missing."""
    found: dict[str, str | None] = dict.fromkeys(names)
    for name in found:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def git_state() -> dict[str, Any]:
    """The commit of this code, None without git, and the number of files that differ from it."""
    copied = CODE_ROOT / "snapshot.json"
    if copied.exists():  # this code is the copy made by `videomae launch`
        snapshot = json.loads(copied.read_text())
        return {"commit": snapshot["commit"], "changed_files": len(snapshot["changed"])}
    changed = git("status", "--porcelain", "-uall", "--", *PACKAGES) or ""
    return {"commit": git("rev-parse", "HEAD"), "changed_files": len(changed.splitlines())}


def git(*arguments: str) -> str | None:
    """What git says of this code; None if it fails, says nothing, or the code is not the root of a checkout."""
    if not (CODE_ROOT / ".git").exists():
        return None
    found = command_output("git", "--no-optional-locks", "-C", str(CODE_ROOT), *arguments)
    return found.rstrip("\n") or None if found else None


def _settings(file: Path, schema: type[Any]) -> dict[str, Any]:
    """Return a run's config with defaults for keys newer than the run, or unparsed if `schema` refuses it."""
    values = yaml.safe_load(file.read_text())
    try:
        return to_dict(parse(schema, values, source=str(file)))
    except ConfigError:
        return values


def _changes(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted keys that differ, except settings of execution."""
    changes = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if before == after or (not prefix and key in EXECUTION and key != "engine"):
            continue
        if prefix == "engine." and key != "precision":
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            changes += _changes(before, after, f"{prefix}{key}.")
        else:
            changes.append(f"{prefix}{key} was {before!r}, now {after!r}")
    return changes
