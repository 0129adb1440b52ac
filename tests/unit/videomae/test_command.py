"""Exit codes, and what is said beside them."""

import pytest

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
        (KeyboardInterrupt(), 1, "interrupted; what is not saved is lost\n"),
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


def test_our_own_mistakes_show_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: [][1]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.endswith("IndexError: list index out of range\n")


def test_what_is_the_same_everywhere_is_said_by_the_first_rank(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")

    def stop() -> None:
        raise Stopped("stopped and saved at step 3")

    assert guarded(stop) == 75
    assert capsys.readouterr().err == ""
