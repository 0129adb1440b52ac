"""The command `videomae`: a table from the name of each command to the function that carries it out.

A module of commands is imported when one of its commands is looked up; it imports nothing heavy, so --help is quick.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import click

from videomae.command import run_command

Table = Mapping[str, "str | click.Group"]


class LazyGroup(click.Group):
    """Commands from sections of a table: heading -> name -> "module:function" or a group."""

    def __init__(self, name: str, sections: Mapping[str, Table], **settings: Any) -> None:
        super().__init__(name, **settings)
        self.sections = sections

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for table in self.sections.values() for name in table]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = next((table[cmd_name] for table in self.sections.values() if cmd_name in table), None)
        if not isinstance(target, str):
            return target
        module, _, function = target.partition(":")
        return getattr(importlib.import_module(module), function)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.list_commands(ctx)))
        for heading, table in self.sections.items():
            found = [(name, self.get_command(ctx, name)) for name in table]
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), one.get_short_help_str(90)) for name, one in found if one])


def _from(module: str, *functions: str) -> dict[str, str]:
    """Commands with the names of their functions in `module`."""
    return {function: f"{module}:{function}" for function in functions}


shards = LazyGroup(
    "shards",
    {"Commands": _from("launch.commands.shards", "build", "index", "verify", "show", "synthesize")},
    help="Build and check tar shards of videos.",
)
checkpoint = LazyGroup(
    "checkpoint",
    {"Commands": _from("launch.commands.checkpoint", "ls", "verify", "export", "convert")},
    help="List, check and convert the checkpoints of a run.",
)
weights = LazyGroup(
    "weights",
    {
        "Commands": {
            "import": "launch.commands.checkpoint:import_weights",
            "import-classifier": "finetune.commands:import_classifier",
            "export": "launch.commands.checkpoint:export_weights",
        }
    },
    help="Exchange weights with VideoMAE and transformers.",
)
SECTIONS: Mapping[str, Table] = {
    "Stages": {
        "shards": shards,
        "pretrain": "pretrain.commands:pretrain",
        **_from("finetune.commands", "finetune", "evaluate", "ensemble"),
        **_from("launch.commands.use", "predict", "reconstruct", "extract"),
        **_from("finetune.commands", "benchmark", "report"),
        "demo": "launch.commands.stages:demo",
    },
    "Clusters": _from("launch.commands.cluster", "plan", "doctor", "launch", "chain", "status", "logs", "stop"),
    "Runs and models": {
        **_from("launch.commands.cluster", "watch", "sync"),
        "checkpoint": checkpoint,
        "export": "launch.commands.stages:export",
        "weights": weights,
        "models": "launch.commands.stages:models",
    },
}
cli = LazyGroup(
    "videomae",
    SECTIONS,
    help="Pretrain VideoMAE on your videos, fine-tune it, and compare it with baselines.",
    epilog="Each command has its --help, with examples. Exit codes: 0 finished, 2 user error, 75 stopped and saved, "
    "76 a health limit is reached, 1 everything else.",
    params=[click.Option(["--local_rank", "--local-rank"], hidden=True, expose_value=False)],  # deepspeed --module
)
cli = click.version_option(package_name="videomae")(cli)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (default: those of this process) and return its exit code."""
    return run_command(cli, arguments, name="videomae")
