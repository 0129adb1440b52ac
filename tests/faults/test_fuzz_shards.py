"""A short fuzz of tars and videos, in a process of its own; the long one is `python -m tests.faults.fuzz_shards`."""

import subprocess
import sys
from pathlib import Path


def test_mutated_tars_and_videos_neither_crash_nor_hang_nor_invent() -> None:
    command = [sys.executable, "-m", "tests.faults.fuzz_shards", "--tars", "300", "--videos", "300", "--seed", "7"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=Path(__file__).parents[2])
    assert result.returncode == 0, result.stdout + result.stderr
    assert "refused" in result.stdout
