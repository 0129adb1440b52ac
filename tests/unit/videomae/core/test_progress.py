"""Progress: bars on a terminal, lines elsewhere and where several processes share the terminal."""

import logging

import pytest

from videomae.core import progress


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(progress, "_bars", True)
    monkeypatch.setattr(progress.logger, "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog


def test_a_terminal_shows_a_bar(said: pytest.LogCaptureFixture) -> None:
    with progress.track("Packing", total=1) as task:
        task.advance()
    assert said.messages == []


def test_processes_that_share_a_terminal_write_lines(said: pytest.LogCaptureFixture) -> None:
    progress.use_lines()
    with progress.track("Packing", total=1) as task:
        task.advance(note="clip")
    (line,) = said.messages
    assert line.startswith("Packing 1/1")
    assert line.endswith("clip")
