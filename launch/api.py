"""From a folder of videos to a model, in Python: `pretrain(data=..., out=...)` and `finetune(data=..., out=...)`.

Both run in this process, on one device, and resume or reuse what `out` holds. Several GPUs take `videomae launch`.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

from finetune import train as finetuning
from finetune.config import FinetuneConfig
from finetune.predict import Classifier
from pretrain import train as pretraining
from pretrain.config import PretrainConfig
from videomae.core.config import parse, read_values, set_value
from videomae.core.distributed import read_world
from videomae.core.errors import UserError
from videomae.data.shards.manifest import MANIFEST

_DEFAULTS: dict[str, Any] = {
    "batch": 16,
    "engine": {"kind": "local"},
    "metrics": {"wandb": "disabled"},
    "loader": {"workers": 2},
}
_PRETRAIN = _DEFAULTS | {"schedule": {"duration": "100 epochs", "warmup": "10 epochs"}}
_FINETUNE = _DEFAULTS | {"schedule": {"duration": "20 epochs", "warmup": "2 epochs"}, "model": {"name": "videomae"}}


def pretrain(*, data: Path | str, out: Path | str, config: Path | str | None = None, **settings: Any) -> Path:
    """Pretrain an encoder on videos and return the folder of its export.

    Args:
        data: folder of videos as `videomae shards build` takes it, or of shards.
        out: run directory; shards of videos are built beside it.
        config: YAML file to start from, such as those below configs/pretrain/; None: ViT-B, 100 epochs.
        settings: settings of the config, nested ones as dictionaries: `encoder={"size": 64}`.

    Raises:
        UserError: the data, the settings or `out` cannot be used.
    """
    shards = _shards(Path(data), Path(out))
    split = shards if (shards / MANIFEST).is_file() else shards / "train"
    values = _values(config, _PRETRAIN, {"run": str(out), "data.shards": str(split)}, settings)
    run = pretraining.train(parse(PretrainConfig, values, source="pretrain()"), read_world({}))
    return run.export


def finetune(
    *,
    data: Path | str,
    out: Path | str,
    encoder: Path | str | None = None,
    config: Path | str | None = None,
    **settings: Any,
) -> Classifier:
    """Train a classifier on labelled videos, evaluate it on the val split, and return it.

    Args:
        data: folder of videos, train|val / class / *.mp4, or of shards with these splits.
        out: run directory; shards of videos are built beside it.
        encoder: export of a pretraining run, as `pretrain` returns it; None: from scratch.
        config: YAML file to start from, such as those below configs/finetune/; None: videomae, 20 epochs.
        settings: settings of the config, nested ones as dictionaries: `model={"name": "s3d"}`.

    Raises:
        UserError: the data, the settings or `out` cannot be used.
    """
    given = {"run": str(out), "data.shards": str(_shards(Path(data), Path(out)))}
    if encoder is not None:
        given["model.weights"] = str(encoder)
    values = _values(config, _FINETUNE, given, settings)
    finetuning.train(parse(FinetuneConfig, values, source="finetune()"), read_world({}))
    return Classifier.load(out)


def _shards(data: Path, out: Path) -> Path:
    """Return `data` if it holds shards, else build them beside `out` or reuse them there."""
    if (data / MANIFEST).is_file() or any(data.glob(f"*/{MANIFEST}")):
        return data
    if not data.is_dir():
        raise UserError(f"no folder of videos or shards at {data}")
    shards = out.with_name(f"{out.name}-shards")
    # A program of its own: a build's workers import the main module, and would start a script of three lines again.
    command = [sys.executable, "-m", "launch", "shards", "build", str(data), str(shards)]
    if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
        raise UserError(f"no shards could be built of {data}; the lines above say why")
    return shards


def _values(
    config: Path | str | None, defaults: dict[str, Any], given: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """Return plain config values: the file or the defaults, under the settings, under what the arguments give."""
    values = copy.deepcopy(defaults) if config is None else read_values(Path(config))
    _merge(values, settings)
    for key, value in given.items():
        set_value(values, key, value)
    return values


def _merge(values: dict[str, Any], more: dict[str, Any]) -> None:
    """Set the values of `more`, section by section; a section of another `name` replaces the old one."""
    for key, value in more.items():
        old = values.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and value.get("name", old.get("name")) == old.get("name"):
            _merge(old, value)
        else:
            values[key] = copy.deepcopy(value)
