"""The pretraining step, side by side: `python -m benchmarks.step [--sizes small base] [--json]`.

Ours, the official form and Hugging Face's, described in `benchmarks.step_forms`, take turns on the same weights and
clips, so that other load on the machine affects all equally. Each has a process of its own. A ratio is the median over
the rounds of their step time over ours; `ratio_official: 3` means that ours is three times as fast. MFU divides the
counted FLOPs of our model (`videomae.models.flops`) by the time and by the peak rate of the device; on a CPU the peak
is a matrix product timed in each round. `--zero` measures what the engine costs on several processes, see
`benchmarks.step_engines`.

The JSON is a list with one object per size, precision and mode, which `videomae plan --measured FILE` reads.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import torch

from benchmarks import step_engines
from benchmarks.measuring import PHASES, device_name, release, report_rows
from benchmarks.step_alone import largest_batch, profile_step
from benchmarks.step_forms import RIVALS, SUBJECTS, VARIANTS, subject
from benchmarks.step_process import FormPlan, FormProcess, FormRunner, Start
from pretrain.config import PretrainConfig
from pretrain.cost import workload
from videomae.command import finish, guarded
from videomae.core.errors import UserError
from videomae.run.metrics.peak import PeakFlops, peak_of

AGREE = {"fp32": 1e-4, "bf16": 2e-2}  # relative differences of the first losses
BURST = {"cpu": 1, "cuda": 10}  # steps of one form in a row: on a GPU their launches overlap with the computation


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure of every subject."""

    device: torch.device
    batch: int | None  # clips; None: that of the subject
    rounds: int
    forms: tuple[str, ...]


def measure_row(name: str, options: Options, *, precision: str, compiled: bool) -> dict[str, Any]:
    """Measure one subject in one precision and mode."""
    config = subject(name, precision=precision, compiled=compiled)
    batch = options.batch or config.batch
    release(options.device)
    plan = partial(FormPlan, subject=name, precision=precision, compiled=compiled, batch=batch, device=options.device)
    kind = FormProcess if len(options.forms) > 1 else FormRunner  # one alone shares with nobody
    runners: dict[str, FormRunner | FormProcess] = {form: kind(plan(form=form)) for form in options.forms}
    try:
        starts = {form: runner.warm_up() for form, runner in runners.items()}
        _require_agreement(starts, precision)
        rounds, peaks = _rounds(runners, options, precision)
    finally:
        for runner in runners.values():
            runner.close()
    seconds = {form: [median(sum(step.values()) for step in steps) for steps in of] for form, of in rounds.items()}
    return {
        "device": device_name(options.device),
        "model": name,
        "precision": precision,
        "compiled": compiled,
        "batch": batch,
        "rounds": options.rounds,
        **_ratios(seconds, starts),
        "mfu": _mfu(config, batch, seconds["ours"], peaks),
        "peak_tflops": median(peaks) if peaks else None,
        "forms": {form: _form(rounds[form], seconds[form], starts[form], clips=batch) for form in starts},
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _rounds(
    runners: dict[str, FormRunner | FormProcess], options: Options, precision: str
) -> tuple[dict[str, list[list[dict[str, float]]]], list[float]]:
    """Seconds by phase of the steps of each form and round, and the peak TFLOP/s beside each round, if known."""
    rounds: dict[str, list[list[dict[str, float]]]] = {name: [] for name in runners}
    peaks, names = [], list(runners)
    for number in range(options.rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            rounds[name].append(runners[name].burst(BURST[options.device.type]))
        peak: PeakFlops = peak_of(options.device, precision=precision)
        peaks += [peak.tflops] if peak.tflops is not None else []
    return rounds, peaks


def _require_agreement(starts: dict[str, Start], precision: str) -> None:
    ours = starts["ours"].loss
    for name in starts.keys() & RIVALS.keys():
        if abs(starts[name].loss / ours - 1) > AGREE[precision]:
            raise RuntimeError(
                f"the first loss of {name} is {starts[name].loss}, of ours {ours}: not the same mathematics"
            )


def _ratios(seconds: dict[str, list[float]], starts: dict[str, Start]) -> dict[str, float]:
    """Times as fast as the rivals, of a variant as ours; and their peaks of memory in that of the other."""
    ours, ratios = seconds["ours"], {}
    for name in seconds.keys() - {"ours"}:
        other = [theirs / own for theirs, own in zip(seconds[name], ours, strict=True)]
        if name in RIVALS:
            ratios[f"ratio_{name}"] = median(other)
            ratios[f"memory_{name}"] = starts["ours"].peak / starts[name].peak
        else:
            ratios[f"speedup_{name}"] = median(1 / value for value in other)
            ratios[f"memory_{name}"] = starts[name].peak / starts["ours"].peak
    return dict(sorted(ratios.items(), reverse=True))


def _mfu(config: PretrainConfig, batch: int, seconds: list[float], peaks: list[float]) -> float | None:
    flops = workload(config.encoder, config.decoder, config.mask).flops * batch
    return median(flops / spent / peak / 1e12 for spent, peak in zip(seconds, peaks, strict=True)) if peaks else None


def _form(rounds: list[list[dict[str, float]]], seconds: list[float], start: Start, *, clips: int) -> dict[str, Any]:
    steps = [step for of in rounds for step in of]
    return {
        "seconds": median(seconds),
        "clips_per_second": clips / median(seconds),
        "phases": {phase: median(step[phase] for step in steps) for phase in PHASES},
        "peak_bytes": start.peak,
        "loss": start.loss,
    }


def describe(row: dict[str, Any]) -> str:
    """One row as text."""
    mode = "compiled" if row["compiled"] else "eager"
    title = f"{row['model']}, {row['precision']}, {mode}, {row['batch']} clips on {row['device']}"
    share = "unknown" if row["mfu"] is None else f"{row['mfu']:.1%} of {row['peak_tflops']:.2f} TFLOP/s"
    ratios = ", ".join(
        f"{key} {value:.2f}" for key, value in row.items() if key.startswith(("ratio", "speed", "memory"))
    )
    lines = [
        title,
        f"  MFU {share}; {ratios}",
        f"  {'':14}{'clips/s':>9}{'ms':>9}" + "".join(f"{p:>11}" for p in PHASES),
    ]
    for name, form in row["forms"].items():
        phases = "".join(f"{1000 * form['phases'][phase]:11.1f}" for phase in PHASES)
        figures = f"{form['clips_per_second']:9.2f}{1000 * form['seconds']:9.1f}{phases}"
        lines.append(f"  {name:<14}{figures}   peak {form['peak_bytes'] / 1e9:.2f} GB")
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", "--model", nargs="+", choices=SUBJECTS, default=["small", "base"])
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--mode", nargs="+", choices=("eager", "compiled"), default=["eager"])
    parser.add_argument("--forms", nargs="+", choices=("ours", *RIVALS, *VARIANTS), default=["ours", *RIVALS])
    parser.add_argument("--batch", type=int, help="clips a step; by default 8, or the demo's own")
    parser.add_argument("--steps", type=int, default=7, help="rounds, each of one step of every form; on a GPU of ten")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--find-batch", action="store_true", help="the largest batch of each form, and its clips/s there"
    )
    parser.add_argument("--max-batch", type=int, default=512, help="the most that --find-batch tries")
    parser.add_argument("--profile", action="store_true", help="the operators of our step by time")
    parser.add_argument("--zero", nargs="+", type=int, choices=range(4), help="measure the engine at these stages")
    parser.add_argument("--processes", type=int, default=2, help="of --zero")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, alone")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    given = _parser().parse_args(words)
    if given.zero is not None and "RANK" not in os.environ:
        return step_engines.launch(given.processes, words)
    if given.zero is not None:
        return finish(guarded(lambda: step_engines.run(given)))
    return guarded(lambda: _run(given))


def _run(given: argparse.Namespace) -> None:
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("this machine has no CUDA device; type --device cpu")
    forms = tuple(dict.fromkeys(["ours", *given.forms]))
    options = Options(device=device, batch=given.batch, rounds=given.steps, forms=forms)
    action: Any = partial(measure_row, options=options)
    show = describe
    if given.find_batch:
        action, show = partial(largest_batch, device=device, forms=forms, most=given.max_batch), json.dumps
    elif given.profile:
        action, show = partial(profile_step, device=device, batch=given.batch), lambda row: row["table"]
    wanted = product(given.sizes, given.precision, given.mode)
    rows = (action(name, precision=precision, compiled=mode == "compiled") for name, precision, mode in wanted)
    report_rows(rows, lambda row: show(row) + "\n", as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
