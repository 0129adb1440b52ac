"""A program for test_store.py: save steps 1, 2, 2 again and 3, killed at each flush, rename, removal and new folder.

For every such point it forks a process that kills itself there, in a subfolder of its own; it prints a JSON list with
the last step whose save had returned, per point.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from tests.tiny import commit, world_of_one
from videomae.run.checkpoint import CheckpointStore


def write(staging: Path) -> None:
    (staging / "state.bin").write_bytes(b"state" * 100)


def killed_at(folder: Path, point: int) -> int:
    """Run in a fork; return the last step saved before the kill, or 0 if there was no kill."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _save_until(folder, point, writing)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        saved = [int(line) for line in pipe]
    _, status = os.waitpid(child, 0)
    return saved[-1] if os.WIFSIGNALED(status) else 0


def _save_until(folder: Path, point: int, pipe: int) -> None:
    store = CheckpointStore(folder, world=world_of_one(), keep=1)
    commit(store, {"step": 1}, write)
    os.write(pipe, b"1\n")
    calls = 0

    def lethal(function: Callable) -> Callable:
        def call(*arguments, **keywords):
            nonlocal calls
            calls += 1
            if calls == point:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **keywords)

        return call

    os.fsync, shutil.rmtree = lethal(os.fsync), lethal(shutil.rmtree)
    for name in ("rename", "replace", "unlink", "mkdir"):
        setattr(Path, name, lethal(getattr(Path, name)))
    for step in (2, 2, 3):
        commit(store, {"step": step}, write)
        os.write(pipe, f"{step}\n".encode())


if __name__ == "__main__":
    results: list[int] = []
    while not results or results[-1]:
        results.append(killed_at(Path(sys.argv[1]) / str(len(results) + 1), len(results) + 1))
    print(json.dumps(results[:-1]))
