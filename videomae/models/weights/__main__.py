"""Weights from the command line: take in a foreign VideoMAE checkpoint, or give our encoder to transformers.

python -m videomae.models.weights import CHECKPOINT OUT [--frames 16] [--size 224] [--heads N]
python -m videomae.models.weights export EXPORT OUT [--form v4]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from videomae.command import guarded
from videomae.models.weights.convert import export_to_huggingface, import_encoder


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m videomae.models.weights", description="Convert VideoMAE weights.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    taken = commands.add_parser("import", help="official or Hugging Face VideoMAE -> an encoder to fine-tune from")
    taken.add_argument("source", type=Path, help="a checkpoint file, or a folder of transformers")
    taken.add_argument("out", type=Path, help="the export folder to write")
    taken.add_argument("--frames", type=int, help="of the input; default: the folder's config, else 16")
    taken.add_argument("--size", type=int, help="of the input; default: the folder's config, else 224")
    taken.add_argument("--heads", type=int, help="default: the folder's config, else the published number")
    given = commands.add_parser("export", help="an exported encoder -> a folder that transformers loads")
    given.add_argument("source", type=Path, help="export folder of a run")
    given.add_argument("out", type=Path, help="the folder to write")
    given.add_argument("--form", choices=("v4", "v5"), default="v4", help="names of the biases; see huggingface.py")
    return guarded(lambda: _run(parser.parse_args(arguments)))


def _run(given: argparse.Namespace) -> None:
    if given.command == "export":
        export_to_huggingface(given.source, given.out, form=given.form)
        print(f"{given.out}: {given.form} form of {given.source}; read it with VideoMAEModel.from_pretrained")
        return
    report = import_encoder(given.source, given.out, frames=given.frames, size=given.size, heads=given.heads)
    print(f"{given.out}: encoder of dim {report.config.dim} and depth {report.config.depth} from {given.source}")
    if report.skipped:
        print(f"left out, as no part of the encoder: {', '.join(report.skipped)}")
    print(f"fine-tune from it with model.weights={given.out}")


if __name__ == "__main__":
    sys.exit(main())
