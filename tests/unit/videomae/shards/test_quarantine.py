"""The list of bad samples outlives kills and full disks."""

import json
from pathlib import Path

import pytest

from videomae.shards.quarantine import BadSampleError, Fault, Quarantine, QuotaConfig


def fault(key: str) -> Fault:
    return Fault(shard="0.tar", key=key, reason="cut")


@pytest.mark.parametrize(
    "torn", [b'{"shard": "0.tar", "ke', b"7", b"{}\n", b'{"shard": [], "key": "x"}\n', b"\xff\xfe"]
)
def test_a_line_that_a_kill_cut_is_passed_over_and_harms_no_other(tmp_path: Path, torn: bytes) -> None:
    file = tmp_path / "quarantine.jsonl"
    Quarantine(file, QuotaConfig(), samples=100).record(fault("a"), step=1)
    file.write_bytes(file.read_bytes() + torn)
    Quarantine(file, QuotaConfig(), samples=100).record(fault("b"), step=2)
    quarantine = Quarantine(file, QuotaConfig(samples=2), samples=100)
    quarantine.record(fault("a"), step=3)
    quarantine.record(fault("b"), step=3)
    assert json.loads(file.read_bytes().splitlines()[-1])["key"] == "b"
    with pytest.raises(BadSampleError, match="3 bad samples"):
        quarantine.record(fault("c"), step=3)


def test_a_list_that_cannot_be_written_ends_no_run_but_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    quarantine = Quarantine(tmp_path / "run" / "quarantine.jsonl", QuotaConfig(samples=1), samples=100)
    quarantine.record(fault("a"), step=1)
    assert "cannot write" in caplog.text
    with pytest.raises(BadSampleError, match="2 bad samples"):
        quarantine.record(fault("b"), step=1)
