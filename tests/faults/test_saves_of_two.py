"""A save or load that fails on one of two processes fails on both, without a hang, and loses nothing."""

import json
import re
from typing import Any

import pytest

from tests.processes import run_processes


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    printed = run_processes(2, "tests.faults.saves_of_two", tmp_path_factory.mktemp("saves"))
    return json.loads(next(line for line in printed.splitlines() if line.startswith("{")))


@pytest.mark.parametrize(
    ("scenario", "complaint", "left"),
    [
        ("a_rank_cannot_write", "SaveError: .*rank 1: OSError: .*Input/output error", ["latest", "step-00000001"]),
        ("a_rank_is_out_of_memory", "SaveError: .*rank 1: MemoryError: no room for a copy", []),
        ("a_failure_is_tolerated", "", ["latest", "step-00000002"]),
        ("a_rank_fails_asynchronously", "SaveError: .*rank 1: OSError: .*No space left", []),
        ("a_rank_writes_slowly", "", ["latest", "step-00000002", "step-00000003"]),
        ("both_write_one_file", "SaveError: .*rank 1 wrote same, and so did another", []),
        (
            "a_rank_has_a_folder_of_its_own",
            "SaveError: .*rank 1 on .* does not see .*filesystem that all nodes share",
            None,
        ),
        (
            "a_run_starts_in_folders_of_its_nodes",
            "CheckpointError: rank 1 on .* does not see the file that rank 0 on .* has created in .*all nodes share",
            None,
        ),
        (
            "a_rank_sees_other_checkpoints",
            "CheckpointError: .*rank 0 on .* sees none, rank 1 on .* sees step-00000001; .*all nodes share",
            None,
        ),
        (
            "damage_is_agreed_upon",
            "ValueError: step-00000002: rank-1.bin has changed since it was written",
            ["damaged-step-00000002", "latest", "step-00000001"],
        ),
    ],
)
def test_both_processes_come_to_the_same_end(
    results: dict[str, Any], scenario: str, complaint: str, left: list[str] | None
) -> None:
    result = results[scenario]
    ours, theirs = (re.sub("/elsewhere|/node-[01]", "", error) for error in result["errors"])
    assert ours == theirs
    if complaint:
        assert re.match(complaint, ours), ours
    else:
        assert ours == ""
    if left is not None:
        assert result["left"] == left
