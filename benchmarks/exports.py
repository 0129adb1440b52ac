"""`python -m benchmarks.exports VIDEO... [--only MODEL ...] [--json]`: exports of every model beside the original.

Every model of the registry, and an encoder, is made small with random weights and exported in every form. Each export
is loaded again as another program would load it, and runs on clips of the given videos. The table has the largest
absolute difference of an output, or the reason why a model has no such form.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks.measuring import report_rows
from finetune import models
from finetune.export import ClassifierDescription, save_classifier
from launch.exports.export import export_run
from launch.exports.formats import Form
from tests.small_models import CLASSES, build, config_of
from videomae.core.errors import UserError
from videomae.models.encoder import EncoderConfig, VideoEncoder
from videomae.models.weights.export import save_encoder

ENCODER = "encoder"
FORMS: tuple[Form, ...] = get_args(Form)


def random_export(name: str, folder: Path) -> Path:
    """Write the export folder of a small model, or of an encoder, with random weights."""
    if name == ENCODER:
        config = EncoderConfig(frames=4, size=24, patch=8, dim=24, depth=2, heads=3, final_norm=True)
        save_encoder(VideoEncoder(config).state_dict(), config, folder, {})
        return folder
    module, generator = build(name), torch.Generator().manual_seed(1)
    for parameter in module.parameters():  # the zeros that heads start from would hide differences
        parameter.data.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    description = ClassifierDescription(model=config_of(name), classes=("a", "b", "c")[:CLASSES])
    save_classifier(module.state_dict(), description, folder)
    return folder


def differences(name: str, videos: Sequence[Path], forms: Sequence[Form] = FORMS) -> dict[str, Any]:
    """A row of the table: by form, the largest difference from the original, or the reason for having none."""
    row: dict[str, Any] = {"model": name}
    with tempfile.TemporaryDirectory() as folder:
        source = random_export(name, Path(folder) / "export")
        for form in forms:
            try:
                row[form] = export_run(source, form, out=Path(folder) / form, check=videos).difference
            except UserError as error:
                row[form] = str(error)
    return row


def rows(names: Sequence[str], videos: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for name in names:
        yield differences(name, videos)


def show(row: dict[str, Any]) -> str:
    cells = [f"{row[form]:>13.1e}" if isinstance(row[form], float) else f"{'no':>13}" for form in FORMS]
    reasons = [f"{'':20}{form}: {row[form]}\n" for form in FORMS if isinstance(row[form], str)]
    return f"{row['model']:<20}{''.join(cells)}\n{''.join(reasons)}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exports", description=__doc__)
    parser.add_argument("videos", type=Path, nargs="+", help="up to four are used")
    parser.add_argument("--only", nargs="+", choices=(*models.names(), ENCODER), default=(*models.names(), ENCODER))
    parser.add_argument("--json", action="store_true", help="print the rows as JSON, alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.json:
        sys.stdout.write(f"{'':20}{''.join(f'{form:>13}' for form in FORMS)}\n")
    report_rows(rows(given.only, given.videos), show, as_json=given.json)


if __name__ == "__main__":
    main()
