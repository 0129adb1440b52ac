"""The process that sends metrics.jsonl to W&B; the only module that imports wandb.

    python -m videomae.run.metrics.wandb_process RUN PROJECT online|offline PARENT

It follows the file until standard input says `finish` or its parent process PARENT is gone. It retries an unreachable
server at growing intervals; nothing is lost meanwhile, because the file stays. It writes `connected ADDRESS` and
`warning TEXT` lines to standard output, and its own log to standard error.

All starts of a run share one id, so W&B shows them as one run. The x axis is the step in each line. Steps that were
already sent are not sent again when a resumed run repeats them, so the axis never goes backwards.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from videomae.core.errors import UserError
from videomae.core.files import write_json
from videomae.run.directory import RunDirectory
from videomae.run.metrics.config import MetricsConfig
from videomae.run.metrics.log import Follower, Line
from videomae.run.metrics.wandb_sync import CONNECTED, mode_of, run_id

POLL_SECONDS = 0.5
ORPHAN_SECONDS = 5.0  # for an orphaned process to finish
INIT_SECONDS = 60.0
RETRY_SECONDS = (30.0, 60.0, 300.0, 900.0)  # between attempts to connect; the last one repeats


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the process; its exit code is 0 if the whole file was sent."""
    folder, project, mode, parent = sys.argv[1:] if arguments is None else arguments
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # training says when to end, or its process is gone
    end = EndSignal(int(parent))
    run = RunDirectory(Path(folder))
    wandb_run = connect(run, project, mode, end)
    if wandb_run is None:
        return 3
    _message(CONNECTED, str(getattr(wandb_run, "url", "") or ""))
    _send_lines(run, wandb_run, end)
    return 0


def send(folder: Path) -> str:
    """Send the lines of a run that W&B does not have yet; returns the run's address there.

    Raises:
        UserError: W&B is not logged in, or its server cannot be reached.
    """
    run = RunDirectory(folder)
    metrics = MetricsConfig()
    mode = mode_of(metrics)
    if mode != "online":
        raise UserError(f"W&B is {mode} here; type `wandb login`, or set WANDB_API_KEY")
    project = str(_config(run).get("metrics", {}).get("project", metrics.project))
    wandb_run = connect(run, project, mode, None)
    if wandb_run is None:
        raise UserError("W&B cannot be reached; see the lines above")
    try:
        _send_lines(run, wandb_run, None)
    except Exception as error:  # as in connect
        raise UserError(f"W&B did not accept everything ({_first_line(error)}); repeat the command later") from error
    return str(getattr(wandb_run, "url", ""))


def _send_lines(run: RunDirectory, wandb_run: Any, end: EndSignal | None) -> None:
    sent = follow(run, wandb_run, end)
    wandb_run.finish()
    write_json(_sent_file(run), sent)


def _config(run: RunDirectory) -> dict[str, Any]:
    return yaml.safe_load(run.config.read_text()) if run.config.exists() else {}


class EndSignal:
    """Tells when to finish: standard input says so, or the parent process is gone.

    An orphaned process exits after ORPHAN_SECONDS, in case W&B hangs.
    """

    def __init__(self, parent: int) -> None:
        self._parent = parent
        threading.Thread(target=self._exit_after_parent, daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds`; whether it is time to finish."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            readable, _, _ = select.select([sys.stdin], [], [], min(left, POLL_SECONDS))
            if readable or os.getppid() != self._parent:
                return True
        return False

    def _exit_after_parent(self) -> None:
        while os.getppid() == self._parent:
            time.sleep(1)
        time.sleep(ORPHAN_SECONDS)
        os._exit(4)


def connect(run: RunDirectory, project: str, mode: str, end: EndSignal | None) -> Any:
    """Create or resume the W&B run; None if `end` came first, or on the first failure without an `end`."""
    import wandb

    settings = wandb.Settings(init_timeout=INIT_SECONDS, silent=True, console="off", x_stats_pid=os.getppid())
    attempt = 0
    while True:
        try:
            return wandb.init(
                project=project,
                id=run_id(run),
                name=run.path.name,
                resume="allow" if mode == "online" else None,
                dir=str(run.path),
                config=_config(run),
                mode="online" if mode == "online" else "offline",
                settings=settings,
            )
        except Exception as error:  # W&B raises exceptions of many types
            sys.stderr.write(f"W&B: {error!r}\n")
            if attempt == 0:
                _message("warning", f"not available ({_first_line(error)}), will retry")
        if end is None or end.wait(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)]):
            return None
        attempt += 1


def follow(run: RunDirectory, wandb_run: Any, end: EndSignal | None) -> dict[str, int]:
    """Send the lines of the file, and those appended to it, until `end`; returns the last step sent of each kind."""
    follower, sent = Follower(run.metrics), _sent_before(run, wandb_run)
    done = dict(sent)  # while reading a truncated file again, up to which step to skip
    finishing = False
    while True:
        again, lines = follower.new()
        if again:
            done = dict(sent)
        for line in lines:
            kind, step = str(line.get("kind")), int(line.get("step", 0))
            if kind not in sent:
                wandb_run.define_metric(f"{kind}/*", step_metric=f"{kind}/step")
            if step > done.get(kind, -1):
                wandb_run.log(_values(run, kind, line))
            sent[kind] = max(step, sent.get(kind, -1))
        if finishing:
            return sent
        finishing = end is None or end.wait(POLL_SECONDS)  # then read once more, for the last lines


def _values(run: RunDirectory, kind: str, line: Line) -> dict[str, Any]:
    values = {f"{kind}/{name}": value for name, value in line.items() if name not in ("kind", "files", "tables")}
    images = [run.path / name for name in line.get("files", []) if (run.path / name).is_file()]
    tables = line.get("tables", {})
    if images or tables:
        import wandb

        values |= {f"{kind}/{name}": wandb.Table(**table) for name, table in tables.items()}
        if images:
            values[kind] = [wandb.Image(str(path), caption=path.stem) for path in images]
    return values


def _sent_before(run: RunDirectory, wandb_run: Any) -> dict[str, int]:
    """The last step sent of each kind: from the server, and from the record of an earlier process."""
    try:
        sent = {str(kind): int(step) for kind, step in json.loads(_sent_file(run).read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        sent = {}
    for key, value in dict(wandb_run.summary).items():
        kind, _, name = str(key).partition("/")
        if name == "step" and isinstance(value, int | float):
            sent[kind] = max(int(value), sent.get(kind, -1))
    return sent


def _sent_file(run: RunDirectory) -> Path:
    return run.path / "wandb" / "sent.json"


def _message(level: str, text: str) -> None:
    sys.stdout.write(f"{level} {text}\n")
    sys.stdout.flush()


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:160]


if __name__ == "__main__":
    sys.exit(main())
