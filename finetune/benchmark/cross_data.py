"""Test every row on other data sets: `evaluation-NAME.json` and `predictions-NAME.csv` in the row's run directory."""

from __future__ import annotations

from pathlib import Path

from finetune.benchmark.config import BenchmarkConfig
from finetune.config import FinetuneConfig
from finetune.evaluate import Evaluator
from finetune.export import load_classifier
from finetune.stream import split
from finetune.subsets import find_look_alikes
from videomae.core.distributed import World
from videomae.core.errors import UserError
from videomae.core.files import write_json
from videomae.data.remote.fetch import as_url
from videomae.data.shards.manifest import Manifest
from videomae.data.shards.reader import read_manifest


def evaluation_file(run: Path, name: str) -> Path:
    return run / f"evaluation-{name}.json"


def predictions_file(run: Path, name: str) -> Path:
    return run / f"predictions-{name}.csv"


def check_classes(config: BenchmarkConfig) -> None:
    """Check that the other data sets have the classes of each row's own.

    Raises:
        UserError: classes or their order differ.
    """
    for row in config.rows:
        own = split(config.finetuning(row, config.seeds[0]), "train")
        for name, shards in config.evaluate_on.items():
            other = tested_split(shards)
            if other.classes != own.classes:
                raise UserError(
                    f"evaluate_on {name}: {shards} has the classes {', '.join(other.classes)}, row {row.title!r} is "
                    f"trained on {', '.join(own.classes)}; build the shards with the same class names"
                )


def tested_split(shards: str) -> Manifest:
    """The val split of a data set in a folder or behind a URL, or a folder's split itself."""
    if as_url(shards) is not None:
        return read_manifest(f"{shards.rstrip('/')}/val")
    return read_manifest(Path(shards) / "val" if (Path(shards) / "val").is_dir() else shards)


def evaluate_on(config: BenchmarkConfig, row: FinetuneConfig, world: World) -> None:
    """Evaluate a finished run on the data sets on which it has not been; all ranks must call this function."""
    run = row.directory
    todo = {name: at for name, at in config.evaluate_on.items() if not evaluation_file(run.path, name).is_file()}
    if not world.broadcast_object(bool(todo)):
        return
    classifier = load_classifier(run.export)
    module = classifier.module.to(world.device)
    for name, shards in todo.items():
        settings = (classifier.model.input, row.evaluation, row.loader, world)
        tested = tested_split(shards)
        alike = find_look_alikes(tested, world) if row.data.look_alikes else ()
        result = Evaluator(tested, *settings, train=split(row, "train"), alike=alike)(module)
        if world.is_main:
            result.predictions.save(predictions_file(run.path, name))
            write_json(evaluation_file(run.path, name), result.to_dict())
