"""The command `videomae`: quick help, exit codes, one line for a user error, completion."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

from launch.cli import main
from tests.processes import ROOT, call

HEAVY = ("torch", "numpy", "pydantic", "av", "deepspeed", "rich", "yaml")


@pytest.mark.parametrize("words", [["--help"], ["shards", "build", "--help"], ["pretrain", "--help"], ["plan", "-h"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import json, sys; from launch.cli import main; code = main(sys.argv[1:]); "
        f"print(json.dumps([code, [name for name in {HEAVY!r} if name in sys.modules]]))"
    )
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []]
    assert "Usage: videomae" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shard"], "No such command 'shard'"),
        (["shards", "verfy"], "see videomae shards --help"),
        (["shards", "verify", "x", "--decodee"], "No such option '--decodee'"),
        (["evaluate"], "Missing argument 'RUN'; see videomae evaluate --help"),
        (["evaluate", "runs/x", "--crops", "2"], "Invalid value for '--crops': '2'"),
        (["pretrain", "nowhere.yaml"], "nowhere.yaml"),
        (["watch", "nowhere"], "nowhere"),
    ],
)
def test_a_user_error_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_the_console_script_is_this_command(capsys: pytest.CaptureFixture[str]) -> None:
    scripts = importlib.metadata.entry_points(group="console_scripts", name="videomae")
    assert [script.value for script in scripts] == ["launch.cli:main"]
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"videomae, version {importlib.metadata.version('videomae')}\n"


def test_a_shell_completes_commands_and_options() -> None:
    def complete(typed: str) -> str:
        variables = {"_VIDEOMAE_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
        code = "import sys; from launch.cli import main; sys.argv = ['videomae']; main()"
        command = [sys.executable, "-c", code]
        return subprocess.run(
            command, cwd=ROOT, env={"PATH": "/usr/bin:/bin", **variables}, capture_output=True, text=True
        ).stdout

    assert "plain,shards" in complete("videomae sh")
    assert "plain,verify" in complete("videomae shards v")
    assert "plain,--short-side" in complete("videomae shards build --sh")


def test_a_launcher_may_add_its_local_rank(tmp_path: Path) -> None:
    said = call("--local_rank=0", "status", tmp_path, "--json")
    assert json.loads(said) == []
    said = call("pretrain", "--local_rank=0", tmp_path / "nowhere.yaml", expect=2)
    assert "nowhere.yaml" in said
