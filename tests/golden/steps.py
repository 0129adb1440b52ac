"""The first steps of the demo in fp32, and their recorded losses. `python -m tests.golden.steps` records them again.

Record only after an intended numerical change, and say so in the commit.
"""

import json
import tempfile
from pathlib import Path

from finetune.benchmark.config import BenchmarkConfig
from finetune.train import train as finetune
from pretrain.config import PretrainConfig
from pretrain.train import train as pretrain
from tests.conftest import SYNTHESIZED
from tests.processes import ROOT, call
from tests.stages import losses
from tests.tiny import world_of_one
from videomae.core.config import load, parse, to_dict

RECORDED = Path(__file__).with_name("losses.json")
STEPS = 3


def first_losses(shards: Path, folder: Path) -> dict[str, list[float]]:
    """Return the losses of the first steps of the demo's pretraining and of its models, on the tests' shards."""
    short = [f"schedule={{duration: {STEPS} steps, warmup: 1 steps}}", "metrics={every: 1, wandb: disabled}"]
    where = [f"run={folder / 'pretrain'}", f"data.shards={shards / 'train'}", "visualizations=0"]
    how = ["engine={kind: local, precision: fp32}", "loader.workers=0"]
    pretrain(
        load(PretrainConfig, ROOT / "configs/demo/own_videos/pretrain.yaml", [*where, *short, *how]), world_of_one()
    )
    found = {"pretrain": losses(folder / "pretrain")}
    settings = [f"run={folder}", f"encoder={folder / 'pretrain' / 'export'}", f"protocol.data.shards={shards}"]
    benchmark = load(BenchmarkConfig, ROOT / "configs/demo/own_videos/benchmark.yaml", settings)
    for row in benchmark.rows:
        if row.model.name == "s3d":
            continue  # slow, and torchvision's
        values = to_dict(benchmark.finetuning(row, 0))
        values |= {"schedule": {"duration": f"{STEPS} steps", "warmup": "1 steps"}, "loader": {"workers": 0}}
        values |= {"metrics": {"every": 1, "wandb": "disabled"}}
        config = parse(type(benchmark.finetuning(row, 0)), values, source=row.title)
        finetune(config, world_of_one())
        found[row.title] = losses(config.directory.path)
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        call("shards", "synthesize", folder / "videos", *SYNTHESIZED)
        call("shards", "build", folder / "videos", folder / "shards", "--short-side", "96", "--fps", "10")
        RECORDED.write_text(json.dumps(first_losses(folder / "shards", folder / "runs"), indent=1) + "\n")


if __name__ == "__main__":
    main()
