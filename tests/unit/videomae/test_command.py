"""Exit codes, and what is said beside them."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from videomae.command import guarded
from videomae.core.config import ConfigError
from videomae.core.signals import LimitReached, Stopped


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (Stopped("stopped and saved at step 3"), 75, "stopped and saved at step 3\n"),
        (LimitReached("gone back 3 times"), 76, "error: gone back 3 times\n"),
        (ConfigError("unknown key"), 2, "error: unknown key\n"),
        (OSError("disk full"), 1, "error: disk full\n"),
        (KeyboardInterrupt(), 1, "interrupted; unsaved work is lost\n"),
    ],
)
def test_every_end_has_its_code_and_its_line(
    error: BaseException | None, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def action() -> None:
        if error is not None:
            raise error

    assert guarded(action) == code
    assert capsys.readouterr().err == said


def read(path: str | Path) -> Callable[[], object]:
    return Path(path).read_text


@pytest.mark.parametrize(
    ("action", "code", "said"),
    [
        (read("runs/none/config.yaml"), 2, "error: runs/none/config.yaml: no such file or folder; check the path\n"),
        (read("folder"), 2, "error: folder: is a folder; give a file\n"),
        (read("file/below"), 2, "error: file/below: a part of this path is a file, not a folder; check the path\n"),
        (read("loop"), 2, "error: loop: its links lead in a circle; check the path\n"),
        (read("n" * 300), 2, f"error: {'n' * 60}...{'n' * 60}: a name in this path is too long; most file systems"),
        (lambda: Path("file").mkdir(), 2, "error: file: exists already; choose another path, or move it away\n"),
    ],
)
def test_a_path_that_cannot_be_used_is_one_line_with_what_to_do(
    action: Callable[[], object],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").touch()
    Path("loop").symlink_to("loop")
    assert guarded(action) == code
    printed = capsys.readouterr().err
    assert printed.startswith(said)
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (errno.EACCES, 2, "error: runs/a: permission denied; choose another path"),
        (errno.EROFS, 2, "error: runs/a: the file system is read-only; choose another path"),
        (errno.ENOSPC, 1, "error: runs/a: no space left on this disk; free some"),
        (errno.EIO, 1, "error: [Errno 5] Input/output error: 'runs/a'"),
    ],
)
def test_faults_of_the_disk_are_one_line(number: int, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def act() -> None:
        raise OSError(number, os.strerror(number), "runs/a")

    assert guarded(act) == code
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(
            errno.ENOENT, "No such file", str(Path(guarded.__code__.co_filename).parent / "missing.json")
        ),
        FileNotFoundError(errno.ENOENT, "No such file", str(Path(torch.__file__).parent / "missing.json")),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    ],
)
def test_paths_of_the_code_itself_are_bugs(error: OSError, capsys: pytest.CaptureFixture[str]) -> None:
    def act() -> None:
        raise error

    assert guarded(act) == 1
    assert capsys.readouterr().err.startswith("Traceback")


@pytest.mark.parametrize(
    ("action", "last_line"),
    [
        (lambda: [][1], "IndexError: list index out of range"),
        (lambda: torch.cat([]), "ValueError: torch.cat(): expected a non-empty list of Tensors"),
        (lambda: np.zeros(3).reshape(2, 2), "ValueError: cannot reshape array of size 3 into shape (2,2)"),
    ],
    ids=["python", "torch", "numpy"],
)
def test_a_bug_prints_its_traceback_and_exits_with_1(
    action: Callable[[], object], last_line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ValueError of a library is no mistake of the user's."""
    assert guarded(action) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback")
    assert printed.endswith(f"{last_line}\n")


def test_what_is_the_same_everywhere_is_said_by_the_first_rank(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")

    def stop() -> None:
        raise Stopped("stopped and saved at step 3")

    assert guarded(stop) == 75
    assert capsys.readouterr().err == ""
