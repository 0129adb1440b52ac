"""A process that hangs, in Python or in C with the interpreter's lock, ends with its stacks on disk; others live on."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from videomae.run.health import watchdog
from videomae.run.health.watchdog import Watchdog

HANGS = {
    "python": "import time\ndef stuck_here():\n    time.sleep(600)\n",
    "queue": "import queue\ndef stuck_here():\n    queue.Queue().get()\n",
    "c": "import re\ndef stuck_here():\n    re.match('(a+)+$', 'a' * 60 + 'b')\n",  # keeps the lock
}


@pytest.mark.parametrize("kind", HANGS)
def test_a_hung_process_leaves_its_stacks_and_exit_code_1(tmp_path: Path, kind: str) -> None:
    stacks, words = tmp_path / "logs" / "rank-0.stacks.txt", tmp_path / "words"
    code = (
        f"from pathlib import Path\nfrom videomae.run.health.watchdog import Watchdog\n{HANGS[kind]}\n"
        f"limits = dict(timeout=0.5, startup_timeout=0.5, on_hang=Path({str(words)!r}).write_text)\n"
        f"with Watchdog(Path({str(stacks)!r}), **limits) as dog:\n    stuck_here()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 1, done.stderr
    assert "stuck_here" in stacks.read_text()
    if kind != "c":  # there no Python runs any more
        assert words.read_text() == "start-up has not ended within 0.5 s"


def test_beats_and_allowances_keep_it_quiet_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that is turned by hand."""
    now, checks, ended = 0.0, list[float](), list[str]()
    monkeypatch.setattr(watchdog, "_INTERVAL", 0.01)
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(Watchdog, "_end", lambda dog, reason: ended.append(reason))

    def let_pass(seconds: float) -> None:
        nonlocal now
        now, seen = now + seconds, len(checks)
        while len(checks) < seen + 2:  # it has looked at the clock since
            time.sleep(0.01)

    stacks = tmp_path / "rank-0.stacks.txt"
    with Watchdog(stacks, timeout=100, startup_timeout=100, poll=lambda: checks.append(now)) as dog:
        for step in range(4):
            dog.beat(f"step {step}")
            let_pass(60)
        with dog.allow("a long save", 1000):
            let_pass(500)
        assert ended == []
        let_pass(101)
        assert ended[0] == "step 3 has not ended within 100 s"
    assert not stacks.exists()


@pytest.mark.parametrize("hung", ["stacks", "words"])
def test_a_filesystem_that_hangs_too_does_not_keep_it(tmp_path: Path, hung: str) -> None:
    """Last words that never end are waited for as long as the grace; stacks that never end, a little longer."""
    code = (
        "import re\nimport time\nfrom pathlib import Path\nfrom videomae.run.health import watchdog\n"
        "watchdog._LAST_RESORT = 1.0\n"
        "def hang(*given, **named): time.sleep(60)\n"
        "def hang_with_the_lock(*given, **named): re.match('(a+)+$', 'a' * 60 + 'b')\n"
        f"if {hung == 'stacks'}: watchdog.faulthandler.dump_traceback = hang_with_the_lock\n"
        f"with watchdog.Watchdog(Path({str(tmp_path / 'stacks')!r}), timeout=0.6, startup_timeout=0.6, on_hang=hang):\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1, done.stderr
