"""A process that hangs, in Python or in C with the interpreter's lock, ends with its stacks on disk; others live on."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from videomae.run.health.watchdog import Watchdog

HANGS = {
    "python": "import time\ndef stuck_here():\n    time.sleep(60)\n",
    "queue": "import queue\ndef stuck_here():\n    queue.Queue().get()\n",
    "c": "import re\ndef stuck_here():\n    re.match('(a+)+$', 'a' * 60 + 'b')\n",  # keeps the lock
}


@pytest.mark.parametrize("kind", HANGS)
def test_a_hung_process_leaves_its_stacks_and_exit_code_1(tmp_path: Path, kind: str) -> None:
    stacks = tmp_path / "logs" / "rank-0.stacks.txt"
    code = (
        f"from pathlib import Path\nfrom videomae.run.health.watchdog import Watchdog\n{HANGS[kind]}\n"
        f"with Watchdog(Path({str(stacks)!r}), timeout=1.0, startup_timeout=1.0) as dog:\n    stuck_here()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 1, done.stderr
    assert "stuck_here" in stacks.read_text()


def test_beats_keep_it_quiet_and_nothing_is_left_behind(tmp_path: Path) -> None:
    stacks = tmp_path / "rank-0.stacks.txt"
    with Watchdog(stacks, timeout=0.5, startup_timeout=0.5) as dog:
        for step in range(8):
            dog.beat(f"step {step}")
            time.sleep(0.15)
        with dog.allow("a long save", 5.0):
            time.sleep(1.0)
    time.sleep(0.7)  # closed: nobody watches any more
    assert not stacks.exists()


def test_it_says_what_hung(tmp_path: Path) -> None:
    code = (
        "import time\nfrom pathlib import Path\nfrom videomae.run.health.watchdog import Watchdog\n"
        f"def words(reason): Path({str(tmp_path / 'words')!r}).write_text(reason)\n"
        f"with Watchdog(Path({str(tmp_path / 'stacks')!r}), timeout=0.6, startup_timeout=9, on_hang=words) as dog:\n"
        "    dog.beat('step 7')\n    time.sleep(20)\n"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert (tmp_path / "words").read_text() == "step 7 has not ended within 0.6 s"


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
