"""The benchmark of the engine against plain DistributedDataParallel."""

import json

from tests.processes import run_command


def test_the_overhead_command_prints_json_alone() -> None:
    found = json.loads(run_command("benchmarks.engine_overhead", "--steps", "2", "--batch", "1", "--json"))
    assert found["processes"] == 2
    assert found["ratio"].keys() == {"ddp", "stage 0", "stage 1"}
    assert found["ratio"]["ddp"] == 1.0
    assert all(seconds > 0 for seconds in found["median_seconds"].values())
