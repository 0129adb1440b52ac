"""The benchmark of the step on several processes."""

import json

from tests.processes import run_command


def test_the_cost_of_the_engine_is_printed_as_json_alone() -> None:
    options = ("--zero", "0", "1", "--model", "demo", "--batch", "1", "--steps", "2", "--precision", "fp32", "--json")
    [row] = json.loads(run_command("benchmarks.step", *options))
    assert row["processes"] == 2
    assert row["ratio"].keys() == {"alone", "ddp", "zero 0", "zero 1"}
    assert row["ratio"]["alone"] == 1.0
    assert all(seconds > 0 for seconds in row["seconds"].values())
