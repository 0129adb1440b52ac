"""The commands that plan, start, find, watch and stop runs. Heavy imports stand in the functions: --help is quick."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from videomae.command import PATH, config_arguments, examples, json_option

F = TypeVar("F", bound=Callable[..., Any])
COUNT = click.IntRange(min=1)
POSITIVE = click.FloatRange(0, min_open=True)
DEVICE_NAMES = ("v100", "a100", "h100", "h200", "b200", "l40s", "cpu")


def launch_options(function: F) -> F:
    """Add the options that `launch` and `chain` share."""
    for option in (
        json_option,
        click.option("--force", is_flag=True, help="Start although the run seems to be alive."),
        click.option("--dry-run", is_flag=True, help="Print the commands and scripts, and exit."),
        click.option("--processes", type=COUNT, help="On each node; default: one per GPU, or 1 without GPUs."),
        click.option("--nodes", type=COUNT, help="Default: the cluster file's number, or all of its hosts."),
        click.option("--cluster", type=PATH, metavar="FILE", help="A file below configs/cluster/."),
        click.option(
            "--on",
            "launcher",
            type=click.Choice(["local", "torchrun", "deepspeed", "slurm"]),
            default="torchrun",
            help="What starts the processes; local is one process without a launcher.",
        ),
    ):
        function = option(function)
    return function


@click.command(
    epilog=examples(
        "videomae launch configs/demo/pretrain.yaml --processes 2",
        "videomae launch CONFIG --on torchrun --cluster configs/cluster/two_hosts.yaml",
        "videomae launch CONFIG --on slurm --cluster configs/cluster/slurm.yaml --nodes 4",
        "videomae launch CONFIG --on slurm --cluster configs/cluster/slurm.yaml --sweep seed=0,1,2",
    )
)
@config_arguments
@click.option("--prepare", is_flag=True, help="Write the run directory, print the commands, and exit.")
@click.option("--sweep", metavar="KEY=A,B,C", help="Submit an array of Slurm jobs, one for each value.")
@launch_options
def launch(config: Path, overrides: tuple[str, ...], *, prepare: bool, sweep: str | None, **options: Any) -> int:
    """Launch a run on this machine, on hosts or under Slurm.

    CONFIG is a YAML file of any stage, KEY=VALUE overrides one setting. Code, git state and resolved config are copied
    into the run directory, and the processes run from there. By default every GPU of this machine gets a process.
    """
    from launch.start import launch_run
    from launch.submission import LaunchOptions

    _log_to_console()
    return launch_run(config, overrides, LaunchOptions(**options), prepare_only=prepare, sweep=sweep)


@click.command(
    epilog=examples(
        "videomae chain PRETRAIN.yaml FINETUNE.yaml BENCHMARK.yaml --on slurm --cluster configs/cluster/slurm.yaml",
        "videomae chain PRETRAIN.yaml run=runs/a FINETUNE.yaml run=runs/b model.weights=runs/a/export",
    )
)
@click.argument("stages", nargs=-1, required=True, metavar="CONFIG [KEY=VALUE]... [CONFIG [KEY=VALUE]...]...")
@launch_options
def chain(stages: tuple[str, ...], **options: Any) -> int:
    """Launch several stages, each after the one before it.

    Overrides follow the config that they change. All stages are checked before the first one starts. Under Slurm all
    are submitted at once, each with an afterok dependency. Finished stages are skipped.
    """
    from launch.chain import launch_chain
    from launch.submission import LaunchOptions

    _log_to_console()
    return launch_chain(stages, LaunchOptions(**options))


@click.command(epilog=examples("videomae status", "videomae status runs/NAME", "videomae status runs --json"))
@click.argument("runs", nargs=-1, type=PATH, metavar="[RUN]...")
@json_option
def status(runs: tuple[Path, ...], *, as_json: bool) -> None:
    """List runs and their states.

    RUN is a run directory or a folder of runs; default: runs. The runs may have been started on any host.
    """
    from launch.run_state import print_status

    _log_to_console()
    print_status(runs or [Path("runs")], as_json=as_json)


@click.command(
    epilog=examples("videomae logs runs/NAME -f", "videomae logs runs/NAME --rank 3", "videomae logs runs/NAME --raw")
)
@click.argument("run", type=PATH)
@click.option("-f", "--follow", is_flag=True, help="Follow until the run ends; ctrl-C does not stop the run.")
@click.option("--rank", type=int, default=0, help="Rank of the process.")
@click.option("--lines", type=int, default=40, help="Number of earlier lines.")
@click.option("--raw", is_flag=True, help="Show the output that the launcher captured: crashes, NCCL, Slurm.")
def logs(run: Path, *, follow: bool, rank: int, lines: int, raw: bool) -> None:
    """Print or follow the logs of a run.

    RUN is a run directory.
    """
    from launch.logs import print_logs

    _log_to_console()
    with suppress(KeyboardInterrupt):
        print_logs(run, follow=follow, rank=rank, lines=lines, raw=raw)


@click.command(epilog=examples("videomae stop runs/NAME --wait 600", "videomae stop runs/NAME --now"))
@click.argument("run", type=PATH)
@click.option("--now", is_flag=True, help="Kill the run; what is newer than its checkpoint is lost.")
@click.option("--wait", "seconds", type=float, metavar="SECONDS", help="Wait for its end, and fail after this time.")
@json_option
def stop(run: Path, *, now: bool, seconds: float | None, as_json: bool) -> None:
    """Stop a run after it has saved.

    RUN is a run directory. The same command that started the run resumes it.
    """
    from launch.run_state import inspect_run
    from launch.stop import stop, wait

    _log_to_console()
    message = stop(run, now=now)
    if seconds is not None:
        message = wait(run, seconds=seconds).message
    click.echo(json.dumps(asdict(inspect_run(run)), indent=1) if as_json else message)


@click.command(
    epilog=examples(
        "videomae plan configs/pretrain/vit_base_k400.yaml --samples 240436 --nodes 8 --device h200",
        "videomae plan configs/demo/pretrain.yaml --samples 240 --gpus 2 batch=64 --mfu 0.4",
    )
)
@config_arguments
@click.option("--nodes", type=COUNT, default=1, help="Number of nodes.")
@click.option("--gpus", type=COUNT, default=8, help="Devices per node.")
@click.option("--device", type=click.Choice(DEVICE_NAMES, case_sensitive=False), default="h200", help="Kind of device.")
@click.option("--cores", type=POSITIVE, help="CPU cores per node; default: those of the vendor's machine.")
@click.option("--clips-per-core", type=POSITIVE, help="Clips per second that one core decodes or draws.")
@click.option("--samples", type=COUNT, help="Videos in the training split; default: from the manifest.")
@click.option("--mfu", type=click.FloatRange(0, 1, min_open=True), help="Model FLOPs utilization, for example 0.4.")
@click.option("--measured", type=PATH, metavar="FILE", help='JSON with {"device": ..., "model": ..., "mfu": ...}.')
@json_option
def plan(config: Path, overrides: tuple[str, ...], *, as_json: bool, **options: Any) -> None:
    """Estimate the memory, FLOPs, data and time of a run.

    CONFIG is a YAML file of pretraining or fine-tuning. Prints parameters, memory by ZeRO stage, FLOPs, time, cores
    for decoding or drawing clips, data and checkpoint sizes. The time follows from an MFU: that of --mfu, that in
    --measured, or 35 %.
    """
    from launch.plan.devices import DEVICES, Machines, choose_mfu
    from launch.plan.estimate import plan_run
    from launch.plan.model import ModelProfile, read_config, read_training_data
    from launch.plan.report import find_warnings, plan_page, plan_to_dict
    from videomae.core.progress import print_wide

    _log_to_console()
    settings, device = read_config(config, overrides), DEVICES[options["device"]]
    given = {name: options[name] for name in ("nodes", "gpus", "cores", "clips_per_core")}
    data = read_training_data(settings)
    profile = ModelProfile(settings, data.classes)
    mfu = choose_mfu(
        device, profile.name, precision=settings.engine.precision, given=options["mfu"], measured=options["measured"]
    )
    estimate = plan_run(profile, data, Machines(device=device, **given), mfu, samples=options["samples"])
    warnings = find_warnings(settings, estimate)
    if as_json:
        click.echo(json.dumps(plan_to_dict(estimate, warnings), indent=1))
    else:
        print_wide(plan_page(estimate, warnings))


@click.command(
    epilog=examples(
        "videomae doctor",
        "videomae doctor configs/demo/pretrain.yaml --on torchrun --processes 2",
        "videomae doctor CONFIG --cluster configs/cluster/two_hosts.yaml",
        "srun videomae doctor CONFIG",
        "torchrun --standalone --nproc-per-node 8 -m launch doctor CONFIG",
    )
)
@click.argument("config", type=PATH, required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--on", "launcher", type=click.Choice(["torchrun"]), help="Start one process per GPU on this machine.")
@click.option("--cluster", type=PATH, metavar="FILE", help="A file below configs/cluster/: its hosts, or Slurm's.")
@click.option("--nodes", type=COUNT, help="With --cluster; default: the file's number.")
@click.option("--processes", type=COUNT, help="On each machine; default: one per GPU.")
@click.option("--timeout", type=float, default=60.0, help="Seconds for all ranks to connect.")
@click.option("--report", type=PATH, hidden=True)  # rank 0 writes its results there, for the doctor that started it
@json_option
def doctor(config: Path | None, overrides: tuple[str, ...], **options: Any) -> int:
    """Check that the machines can run a job.

    With CONFIG, also checks its shards, run directory and loader. Every rank checks its machine, and rank 0 prints one
    table, with a remedy for each line that is not green. The exit code is 1 if a line is red.
    """
    from launch.doctor.runner import DoctorOptions, run_doctor

    return run_doctor(config, overrides, DoctorOptions(**options))


@click.command(
    epilog=examples("videomae watch runs/NAME", "videomae watch runs/NAME --once", "videomae watch runs/NAME --json")
)
@click.argument("run", type=PATH)
@click.option("--once", is_flag=True, help="Print the view once; implied where standard output is no terminal.")
@click.option("--every", type=float, default=2.0, metavar="SECONDS", help="Time between two updates.")
@click.option("--width", type=int, help="Columns; default: those of the terminal.")
@json_option
def watch(run: Path, *, once: bool, every: float, width: int | None, as_json: bool) -> None:
    """Show a live view of a run.

    RUN is a run directory. The run may be running, stopped or finished, on any host. ctrl-C leaves the view.
    """
    from rich.console import Console
    from rich.live import Live

    from videomae.run.metrics.log import plain
    from videomae.run.metrics.view import view
    from videomae.run.report import RunReader

    reader = RunReader(run)
    if as_json:
        click.echo(json.dumps(plain(reader.read().to_dict()), allow_nan=False))
        return
    console = Console(width=width)
    with suppress(KeyboardInterrupt):
        if not once and console.is_terminal:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                while not (report := reader.read()).finished:
                    live.update(view(report, width=console.width), refresh=True)
                    time.sleep(every)
        console.print(view(reader.read(), width=console.width))


@click.command(epilog=examples("videomae sync runs/NAME"))
@click.argument("run", type=PATH)
def sync(run: Path) -> None:
    """Send the metrics that W&B has missed.

    RUN is a run directory.
    """
    from videomae.run.metrics.wandb_process import send
    from videomae.run.report import RunReader

    RunReader(run)
    click.echo(f"sent to {send(run)}")


def _log_to_console() -> None:
    from videomae.core.progress import log_to

    log_to(None, console_too=True)
