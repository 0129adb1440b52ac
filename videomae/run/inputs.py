"""The inputs of a run besides its config, such as shard manifests: their SHA-256 in inputs.json.

A run that resumes with other data than it started with would mix two runs silently.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from videomae.core.errors import UserError
from videomae.core.files import file_sha256, write_json
from videomae.run.directory import RunDirectory

FILE = "inputs.json"


def check_inputs(run: RunDirectory, inputs: Sequence[Path]) -> None:
    """Record the `inputs` of a new run; verify them for a run with checkpoints or a finished one.

    An input is a file or a URL. A missing input is recorded as missing: the stage reports what it needs.

    Raises:
        UserError: an input differs from the one that the run started with.
    """
    now = {str(path): _digest(path) for path in inputs}
    file = run.path / FILE
    if run.begun and file.exists():
        before = json.loads(file.read_text())
        changed = sorted(name for name in before.keys() & now.keys() if before[name] != now[name])
        if changed:
            raise UserError(
                f"{', '.join(changed)} changed since {run.path} began (SHA-256 was {_short(before[changed[0]])}, is "
                f"{_short(now[changed[0]])}), so its result would be of two inputs; put the old one back, give this "
                f"run its own directory with run=PATH, or remove {run.path} to begin again"
            )
    elif not run.summary.exists():
        write_json(file, now)


def _digest(path: Path) -> str | None:
    from videomae.data.remote.fetch import as_url  # torch and fsspec are slow to import

    url = as_url(path)
    if url is None:
        return file_sha256(path) if path.is_file() else None
    from videomae.data.remote.fetch import RemoteFolder

    folder, _, name = url.rpartition("/")
    return hashlib.sha256(RemoteFolder(folder).read(name)).hexdigest()


def _short(value: str | None) -> str:
    return "that of no file" if value is None else f"{value[:12]}..."
