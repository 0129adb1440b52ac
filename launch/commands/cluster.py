"""The commands that start, find and stop runs, and look at machines before. Their modules parse the arguments."""

from __future__ import annotations

import importlib

import click

from videomae.command import examples


def _command(name: str, module: str, purpose: str, *lines: str) -> click.Command:
    """A command whose `module` has a `main(arguments) -> exit code`."""

    @click.pass_context
    def run(context: click.Context, arguments: tuple[str, ...]) -> int:
        from videomae.core.progress import log_to

        if {"-h", "--help"} & set(arguments):
            click.echo(context.get_help(), nl=True)
            click.echo()
        log_to(None, console_too=True)
        return importlib.import_module(module).main(list(arguments))

    return click.Command(
        name,
        callback=run,
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
        help=purpose,
        epilog=examples(*lines),
        context_settings={"ignore_unknown_options": True, "help_option_names": []},
    )


launch = _command(
    "launch",
    "launch.start",
    "Start the processes of a run on this machine, on several hosts or under Slurm.",
    "videomae launch configs/demo/pretrain.yaml",
    "videomae launch CONFIG --on torchrun --cluster configs/cluster/two_hosts.yaml",
    "videomae launch CONFIG --on slurm --cluster configs/cluster/slurm.yaml --nodes 4",
)
chain = _command(
    "chain",
    "launch.chain",
    "Queue several stages, each after the one before it.",
    "videomae chain PRETRAIN.yaml FINETUNE.yaml BENCHMARK.yaml --on slurm --cluster configs/cluster/slurm.yaml",
)
status = _command(
    "status", "launch.status", "List runs and their states.", "videomae status", "videomae status runs/NAME"
)
logs = _command(
    "logs",
    "launch.logs",
    "Print or follow the logs of a run.",
    "videomae logs runs/NAME -f",
    "videomae logs runs/NAME --rank 3",
)
stop = _command(
    "stop",
    "launch.stop",
    "Stop a run after it has saved.",
    "videomae stop runs/NAME --wait 600",
    "videomae stop runs/NAME --now",
)
plan = _command(
    "plan",
    "launch.plan.__main__",
    "Estimate the memory, FLOPs, bytes and time of a run.",
    "videomae plan configs/pretrain/vit_base_k400.yaml --nodes 8 --gpus 8 --device h200",
)
doctor = _command(
    "doctor",
    "launch.doctor.__main__",
    "Check that the machines can run a job.",
    "videomae doctor",
    "videomae doctor configs/demo/pretrain.yaml --on torchrun --processes 2",
)
