"""The demo's first losses equal the recorded ones: a numerical change must be intended."""

import json
from pathlib import Path

import pytest

from tests.golden.steps import RECORDED, STEPS, first_losses

# Of other processors' kernels. Batch norm over a few clips amplifies their rounding within three steps.
TOLERANCE = {"Single-frame CNN": 1e-3, "Early fusion": 1e-3}


def test_first_losses_are_those_recorded(shards: Path, tmp_path: Path) -> None:
    found = first_losses(shards, tmp_path)
    recorded = json.loads(RECORDED.read_text())
    assert found.keys() == recorded.keys()
    for name, losses in recorded.items():
        assert len(losses) == STEPS
        assert found[name] == pytest.approx(losses, abs=TOLERANCE.get(name, 1e-4)), name
