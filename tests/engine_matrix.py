"""Compare all 384 engine configurations with the reference: `python -m tests.engine_matrix [--json]`.

ZeRO 0-3 x 1, 2 and 4 processes x accumulation 1 and 4 x clipping x averaging x layer decay x AdamW and Muon, 20 steps
each; losses, gradient norms, weights and EMA. Exit code 0 if all agree. The test suite runs a covering choice of these.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from tests.engine_cases import FULL, MATRIX_STEPS, REFERENCES
from tests.engine_runs import reference_results
from tests.processes import run_processes

PROGRAM = "tests.integration.engine_program"
LOSS, NORM, WEIGHT = 1e-5, 1e-4, 1e-4  # largest allowed relative differences


def distance(ours: dict[str, Any], reference: dict[str, Any], state: dict[str, torch.Tensor]) -> dict[str, float]:
    """Return the largest relative differences of losses and norms, and that of the weights over their norm."""

    def largest(key: str) -> float:
        pairs = zip(ours[key], reference[key], strict=True)
        return max(abs(one - other) / abs(other) for one, other in pairs)

    assert state.keys() == reference["state"].keys()
    differences = [(value - reference["state"][name]).norm() for name, value in state.items()]
    whole = [value.norm() for value in reference["state"].values()]
    return {
        "loss": largest("losses"),
        "norm": largest("norms"),
        "weights": (torch.stack(differences).norm() / torch.stack(whole).norm()).item(),
    }


def compare(folder: Path) -> dict[str, dict[str, float]]:
    """Return each case's distance from its reference."""
    references = {reference: reference_results(reference, steps=MATRIX_STEPS) for reference in REFERENCES}
    found = {count: json.loads((folder / f"full-{count}.json").read_text()) for count in (1, 2, 4)}
    return {
        case.name: distance(
            found[case.processes][case.name], references[case.reference], torch.load(folder / case.name)
        )
        for case in FULL
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.engine_matrix", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the distances as JSON, alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in (1, 2, 4):
            run_processes(count, PROGRAM, folder, "full", timeout=3600)
        distances = compare(folder)
    limits = {"loss": LOSS, "norm": NORM, "weights": WEIGHT}
    bad = [name for name, found in distances.items() if any(found[key] > limit for key, limit in limits.items())]
    worst = {key: max(found[key] for found in distances.values()) for key in limits}
    if given.json:
        print(json.dumps({"cases": len(distances), "steps": MATRIX_STEPS, "worst": worst, "disagree": bad}))
    else:
        print(f"{len(distances)} cases of {MATRIX_STEPS} steps, {len(bad)} disagree; largest relative differences:")
        print("\n".join(f"  {key:<8} {value:.1e} of {limits[key]:.0e} allowed" for key, value in worst.items()))
        print("\n".join(bad), end="\n" if bad else "")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
