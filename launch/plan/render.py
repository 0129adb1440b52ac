"""A plan as tables and a small plot for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launch.plan.advice import Warning, fits
from launch.plan.check import Checked
from launch.plan.devices import GB
from launch.plan.estimate import Estimate
from launch.plan.memory import Memory
from launch.plan.published import SLOWER, Comparison, median_factor
from launch.plan.scaling import Curve
from launch.plan.traffic import DEFAULT_VIDEO

BAR = 40
MIB = 2**20


def plan_page(plan: Estimate, curve: Curve, warnings: Sequence[Warning]) -> RenderableType:
    """Everything about a run, the warnings last, where they are seen."""
    return Group(_summary(plan), _memory(plan), _curve(curve, plan), *map(_warning, warnings))


def _summary(plan: Estimate) -> Table:
    machine, step, time = plan.machine, plan.step, plan.step.time
    table = Table(
        title=f"{machine.nodes} x {machine.gpus} {machine.device.name}", title_justify="left", show_header=False
    )
    frozen = "" if plan.trained == plan.parameters else f", {plan.trained / 1e6:.2f} M trained"
    split = step.split
    shards = f"{step.shard_bytes / 1e6:.2f} MB a step, {step.shard_bytes / time.total / 1e6:.1f} MB/s{_assumed(plan)}"
    network = f"{step.network.sent / GB:.3f} GB sent by each device, {step.network.seconds * 1e3:.1f} ms if alone"
    parts = f"compute {time.compute:.3f} s (launching {time.launching:.3f}), network {time.network:.3f} s, "
    parts += f"decoding {time.decoding:.3f} s, reading {time.reading:.3f} s"
    rows = {
        "parameters": f"{plan.parameters / 1e6:.2f} M{frozen}",
        "batch": f"{split.batch} = {machine.size} devices x {split.micro_batches} x {split.micro_batch} clips",
        "work": f"{step.flops / 1e12:.2f} TFLOP a step, {step.flops / split.batch / 1e9:.1f} GFLOP a clip",
        "network": network,
        "shards": shards,
        "cores for decoding": f"{plan.cores_needed:.1f} a node to keep up with the devices; it has {machine.cores:g}",
        "step": f"{time.total:.3f} s, bound by {time.bound}: {parts}",
        "speed": f"{split.batch / time.total:.0f} clips/s, {split.clips / time.total:.1f} a device, MFU {step.mfu:.1%}",
        "run": _run(plan),
        "checkpoint": f"{plan.checkpoint.bytes / GB:.2f} GB, {plan.checkpoint.seconds:.1f} s to write at "
        f"{machine.disk / GB:g} GB/s a node, {plan.checkpoint.blocking:.2f} s to copy to the hosts",
    }
    for name, text in rows.items():
        table.add_row(name, text)
    return table


def _assumed(plan: Estimate) -> str:
    return f" ({DEFAULT_VIDEO / 1e3:.0f} kB a video assumed: no manifest here)" if plan.data_fault else ""


def _run(plan: Estimate) -> str:
    length = plan.length
    if length is None:
        return "length not known"
    hours = f"{length.hours:.2f} h, {length.gpu_hours:.1f} GPU hours"
    return f"{length.steps} steps, {length.epochs:.1f} epochs: {hours}; published runs took {SLOWER:g} times as long"


def _memory(plan: Estimate) -> Table:
    device = plan.machine.device
    title = f"GB on each device, of {device.memory:g} (micro-batch {plan.step.split.micro_batch})"
    table = Table(title=title, title_justify="left")
    table.add_column("ZeRO, checkpointing")
    for column in ("weights", "gradients", "optimizer", "buffers", "activations", "overhead", "total", ""):
        table.add_column(column, justify="right")
    for row in plan.memory:
        parts = (row.weights, row.gradients, row.optimizer, row.buffers, row.activations, row.overhead, row.total)
        state = "fits" if fits(row, plan) else "too much"
        chosen = row == plan.chosen
        table.add_row(
            _stage(row), *(f"{part / GB:.2f}" for part in parts), state + " *" * chosen, style="bold" if chosen else ""
        )
    return table


def _stage(row: Memory) -> str:
    return f"{row.stage}, {'on' if row.checkpointing else 'off'}"


def _curve(curve: Curve, plan: Estimate) -> Table:
    table = Table(title=f"Scaling pays up to --nodes {curve.pays_until} (same batch)", title_justify="left")
    for column in ("nodes", "clips a device", "s a step", "clips/s", "efficiency", "bound by"):
        table.add_column(column, justify="right")
    table.add_column("speed (#) of what perfect scaling gives (.)")
    most = max(point.speed / point.efficiency for point in curve.points)
    for point in curve.points:
        perfect = max(1, round(BAR * point.speed / point.efficiency / most))
        reached = max(1, round(BAR * point.speed / most))
        marked = point.nodes == plan.machine.nodes
        table.add_row(
            f"{point.nodes}",
            f"{point.clips}",
            f"{point.seconds:.3f}",
            f"{point.speed:.0f}",
            f"{point.efficiency:.0%}",
            point.bound,
            "#" * reached + "." * (perfect - reached),
            style="bold" if marked else "",
        )
    return table


def _warning(warning: Warning) -> Text:
    return Text.assemble(("warning: ", "yellow"), warning.problem, "\n  ", warning.remedy)


def published_page(rows: Sequence[Comparison]) -> RenderableType:
    """Published runs beside our estimates."""
    table = Table(title="Published runs and the time model", title_justify="left")
    for column in ("run", "counts", "hours", "GPU hours", "ours, hours", "error", "bound by"):
        table.add_column(column, justify="left" if column in ("run", "counts", "bound by") else "right")
    for row in rows:
        run = row.run
        bound = row.step.bound if run.counts == "wall clock" else "compute"
        figures = (f"{run.hours:.3g}", f"{run.hours * run.gpus:.4g}", f"{row.hours:.3g}", f"{row.error:+.0%}")
        table.add_row(run.name, run.counts, *figures, bound)
    sources = [Text(f"{row.run.name}: {row.run.source}") for row in rows]
    return Group(table, *sources, Text(f"median: off by a factor of {median_factor(list(rows)):.2f}"))


def check_page(rows: Sequence[Checked]) -> RenderableType:
    """Memory foreseen and measured."""
    table = Table(title="Memory of one rank in MiB: foreseen, measured, error", title_justify="left")
    table.add_column("processes, ZeRO, precision, checkpointing")
    for column in ("between steps", "measured", "error", "peak", "measured", "error"):
        table.add_column(column, justify="right")
    for row in rows:
        case = row.case
        name = f"{case.processes}, {case.stage}, {case.precision}, {'on' if case.checkpointing else 'off'}"
        held = (f"{row.held / MIB:.1f}", f"{row.held_measured / MIB:.1f}", f"{row.held_error:+.1%}")
        peak = (f"{row.peak / MIB:.1f}", f"{row.peak_measured / MIB:.1f}", f"{row.peak_error:+.1%}")
        table.add_row(name, *held, *peak)
    worst = max(abs(row.peak_error) for row in rows)
    return Group(table, Text(f"worst error of a peak: {worst:.1%}"))
