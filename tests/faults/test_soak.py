"""A short form of the soak: a run of two processes, killed while starting, training and saving."""

import json
from pathlib import Path

import pytest

from tests.processes import run_command


@pytest.mark.slow
def test_a_run_that_is_killed_equals_one_that_is_not(shards: Path) -> None:
    result = json.loads(run_command("benchmarks.soak", "--kills", "4", "--seed", "5", "--shards", shards, "--json"))
    assert result["differences"] == []
    assert result["orphans"] == []
    assert result["equal"]
    assert result["kills"] == 4
    assert result["while"].keys() & {"saving", "training"}  # which of them is a matter of milliseconds
    assert 0 < result["of_them_asynchronous"] < result["starts"]
