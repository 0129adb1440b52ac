"""Exit codes, and what is said beside them."""

from collections.abc import Callable

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
