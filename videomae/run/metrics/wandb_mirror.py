"""The process that keeps a W&B run like a run's metrics.jsonl, and the one place that imports wandb.

    python -m videomae.run.metrics.wandb_mirror RUN PROJECT online|offline PARENT

It follows the file until standard input says `finish` or the process PARENT, which started it, is gone. A server that
cannot be reached is asked again, later and later; nothing is lost meanwhile, as the file is still there. It says on
standard output `connected ADDRESS` and `warning TEXT`, a line each, and keeps its own log on standard error.

All starts of a run share one id, so W&B shows them as one run. A value's place on the axis is the step in its line, and
what was sent up to some step is not sent again when a resumed run does these steps once more: nothing goes backwards.
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
from videomae.run.metrics.mirror import CONNECTED, mode_of, run_id

LOOK_SECONDS = 0.5
ORPHAN_SECONDS = 5.0
INIT_SECONDS = 60.0
PAUSES = (30.0, 60.0, 300.0, 900.0)  # between attempts to connect; the last one again and again


def main(arguments: Sequence[str] | None = None) -> int:
    """The process; returns its exit code, 0 when all of the file was taken."""
    folder, project, mode, parent = sys.argv[1:] if arguments is None else arguments
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the end of training is told, or seen
    end = End(int(parent))
    run = RunDirectory(Path(folder))
    wandb_run = connect(run, project, mode, end)
    if wandb_run is None:
        return 3
    _say(CONNECTED, str(getattr(wandb_run, "url", "") or ""))
    sent = follow(run, wandb_run, end)
    wandb_run.finish()
    _remember(run, sent)
    return 0


def send(folder: Path) -> str:
    """Send what W&B has missed of a run, now; returns the run's address there, or where it was written.

    Raises:
        UserError: nobody is logged in, or the server cannot be reached.
    """
    run = RunDirectory(folder)
    mode = mode_of(MetricsConfig())
    if mode != "online":
        raise UserError(f"W&B is {mode} here; log in by `wandb login`, or set WANDB_API_KEY")
    wandb_run = connect(run, project_of(run), mode, None)
    if wandb_run is None:
        raise UserError("W&B cannot be reached; the lines above say why")
    try:
        sent = follow(run, wandb_run, None)
        wandb_run.finish()
    except Exception as error:  # as in connect
        raise UserError(f"W&B did not take everything ({_first_line(error)}); type the same again later") from error
    _remember(run, sent)
    return str(getattr(wandb_run, "url", ""))


def project_of(run: RunDirectory) -> str:
    """The project that the run's config names."""
    values = yaml.safe_load(run.config.read_text()) if run.config.exists() else {}
    return str(values.get("metrics", {}).get("project", MetricsConfig().project))


class End:
    """Knows when to finish: told so on standard input, or the parent process is gone.

    Without a parent nobody ends this process when W&B hangs, so then it ends itself after a while.
    """

    def __init__(self, parent: int) -> None:
        self._parent = parent
        threading.Thread(target=self._outlive_parent_briefly, daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait that long, or until the end; whether it has come."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            readable, _, _ = select.select([sys.stdin], [], [], min(left, LOOK_SECONDS))
            if readable or os.getppid() != self._parent:
                return True
        return False

    def _outlive_parent_briefly(self) -> None:
        while os.getppid() == self._parent:
            time.sleep(1)
        time.sleep(ORPHAN_SECONDS)
        os._exit(4)


def connect(run: RunDirectory, project: str, mode: str, end: End | None) -> Any:
    """The run at W&B, begun or resumed; None if the end came first, or at the first failure where there is no `end`."""
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
                config=yaml.safe_load(run.config.read_text()) if run.config.exists() else {},
                mode="online" if mode == "online" else "offline",
                settings=settings,
            )
        except Exception as error:  # W&B raises many kinds, and all mean the same here
            sys.stderr.write(f"W&B: {error!r}\n")
            if attempt == 0:
                _say("warning", f"not available ({_first_line(error)}), asked again later")
        if end is None or end.wait(PAUSES[min(attempt, len(PAUSES) - 1)]):
            return None
        attempt += 1


def follow(run: RunDirectory, wandb_run: Any, end: End | None) -> dict[str, int]:
    """Send what stands in the file and what is added to it, up to the end; returns the last step sent of every kind."""
    follower, sent = Follower(run.metrics), _sent_before(run, wandb_run)
    done = dict(sent)  # what the file holds again after it was cut back
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
        finishing = end is None or end.wait(LOOK_SECONDS)  # and once more round, for what was written last


def _values(run: RunDirectory, kind: str, line: Line) -> dict[str, Any]:
    values = {f"{kind}/{name}": value for name, value in line.items() if name not in ("kind", "files")}
    pictures = [run.path / name for name in line.get("files", []) if (run.path / name).is_file()]
    if pictures:
        import wandb

        values[kind] = [wandb.Image(str(path), caption=path.stem) for path in pictures]
    return values


def _sent_before(run: RunDirectory, wandb_run: Any) -> dict[str, int]:
    """The last step sent of every kind: what the server knows, and what an earlier mirror left in its note."""
    try:
        sent = {str(kind): int(step) for kind, step in json.loads(_note(run).read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        sent = {}
    for key, value in dict(wandb_run.summary).items():
        kind, _, name = str(key).partition("/")
        if name == "step" and isinstance(value, int | float):
            sent[kind] = max(int(value), sent.get(kind, -1))
    return sent


def _remember(run: RunDirectory, sent: dict[str, int]) -> None:
    write_json(_note(run), sent)


def _note(run: RunDirectory) -> Path:
    return run.path / "wandb" / "sent.json"


def _say(level: str, text: str) -> None:
    sys.stdout.write(f"{level} {text}\n")
    sys.stdout.flush()


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:160]


if __name__ == "__main__":
    sys.exit(main())
