"""Write an export, load it again, and keep it only if it gives the results of the original on real clips."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from launch.exports.formats import Form, Run, load, refuse, write
from launch.exports.source import ExportSource, open_source, real_clips
from videomae.core.errors import UserError
from videomae.core.files import atomic_folder

TOLERANCE = 1e-4
_WARM_UP = 3  # runs: TorchScript optimises its graph in the first ones
_RUNS = 5  # of each model, alternating; the median counts


@dataclass(frozen=True)
class ExportReport:
    """A written export beside the original, on real clips."""

    out: str
    form: str
    clips: int
    difference: float  # largest absolute difference of an output
    original_ms: float  # for one clip on one thread of this machine
    export_ms: float

    @property
    def proof(self) -> str:
        """A sentence for the model card."""
        return f"{self.form}; largest difference from the original {self.difference:.2g} on {self.clips} real clips"

    def __str__(self) -> str:
        speed = f"{self.export_ms:.1f} ms a clip on one thread, the original {self.original_ms:.1f} ms"
        return f"{self.out}: {self.proof}; {speed}"


def export_run(
    path: Path,
    form: Form,
    *,
    out: Path | None = None,
    step: int | None = None,
    average: bool | None = None,
    check: Sequence[Path] = (),
    tolerance: float = TOLERANCE,
) -> ExportReport:
    """Export a run, or an export folder, as `form` into the new folder `out`, with a model card.

    Args:
        path: a run directory, or a folder with classifier.json or encoder.json.
        form: the form of the export.
        out: default: export-FORM beside the weights.
        step: the step of a checkpoint; None: the finished export, or the newest checkpoint of an unfinished run.
        average: as in `finetune.export.export_classifier`.
        check: videos to compare on; default: clips of the run's shards.
        tolerance: the largest absolute difference that is accepted.

    Raises:
        UserError: the model cannot take the form, the results differ, or `out` holds files. Nothing is written then.
    """
    with open_source(path, step=step, average=average) as source:
        refuse(source, form)
        folder = out or (source.run.path if source.run is not None else path.parent) / f"export-{form}"
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} exists already; remove it, or give another folder with --out")
        clips_BCTHW = real_clips(source, check)
        with atomic_folder(folder) as part:
            write(source, form, part)
            report = compare(source, form, load(source, form, part), clips_BCTHW, folder)
            if not report.difference <= tolerance:
                raise UserError(
                    f"the {form} export differs from the original by {report.difference:.2g} on real clips, more than "
                    f"{tolerance:g}; nothing is written"
                )
            (part / "README.md").write_text(f"{source.card}\nExport: {report.proof}.\n")
    return report


@torch.inference_mode()
def compare(source: ExportSource, form: Form, run: Run, clips_BCTHW: Tensor, out: Path) -> ExportReport:
    """Run both on all clips together and on the first alone, and time them on one clip and one thread."""
    one_BCTHW = clips_BCTHW[:1].contiguous()
    difference = max(
        (run(video_BCTHW) - source.module(video_BCTHW)).abs().max().item() for video_BCTHW in (clips_BCTHW, one_BCTHW)
    )
    times: tuple[list[float], list[float]] = ([], [])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for turn in range(_WARM_UP + _RUNS):
            for model, spent in zip((source.module, run), times, strict=True):
                start = time.perf_counter()
                model(one_BCTHW)
                if turn >= _WARM_UP:
                    spent.append(1000 * (time.perf_counter() - start))
    finally:
        torch.set_num_threads(threads)
    original, exported = (statistics.median(spent) for spent in times)
    return ExportReport(str(out), form, len(clips_BCTHW), difference, original, exported)
