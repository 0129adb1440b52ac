"""A program for the fixture `of_two`: the runs that a JSON file lists, one after the other in one process group."""

import json
import os
import sys
from pathlib import Path

from finetune.config import FinetuneConfig
from finetune.train import train as finetune
from pretrain.config import PretrainConfig
from pretrain.train import train as pretrain
from videomae.core.config import load
from videomae.core.distributed import distributed_context, end_process


def main(file: Path) -> None:
    with distributed_context(os.environ) as world:
        for stage, config, *overrides in json.loads(file.read_text()):
            if stage == "pretrain":
                pretrain(load(PretrainConfig, Path(config), overrides), world)
            else:
                finetune(load(FinetuneConfig, Path(config), overrides), world)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    end_process(0)
