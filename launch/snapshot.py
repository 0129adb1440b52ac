"""Copy the code of a run when it is launched, so that a resumed run does not depend on later edits.

The copy holds the packages of this project as they are on disk, `snapshot.json` with their git state, and `diff.patch`
with their uncommitted changes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

PACKAGES = ("videomae", "pretrain", "finetune", "launch")
FILE = "snapshot.json"
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Snapshot:
    """The origin of a copy. Without git, `commit` and `branch` are None."""

    source: str
    commit: str | None
    branch: str | None
    changed: tuple[str, ...]  # files that differ from the commit, untracked ones too
    files: int


def copy_packages(target: Path) -> Snapshot:
    """Copy the packages into the new folder `target`."""
    listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PACKAGES)
    if listed is None:  # installed, not checked out
        names = [str(file.relative_to(_ROOT)) for package in PACKAGES for file in (_ROOT / package).rglob("*.*")]
    else:
        names = listed.split("\0")
    files = [name for name in names if "__pycache__" not in name and (_ROOT / name).is_file()]
    for name in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_ROOT / name, target / name)
    changed = (_git("status", "--porcelain", "-uall", "--", *PACKAGES) or "").splitlines()
    snapshot = Snapshot(
        source=str(_ROOT),
        commit=(_git("rev-parse", "HEAD") or "").strip() or None,
        branch=(_git("rev-parse", "--abbrev-ref", "HEAD") or "").strip() or None,
        changed=tuple(line[3:] for line in changed),
        files=len(files),
    )
    (target / FILE).write_text(json.dumps(asdict(snapshot), indent=1) + "\n")
    (target / "diff.patch").write_text(_git("diff", "HEAD", "--", *PACKAGES) or "")
    return snapshot


def _git(*arguments: str) -> str | None:
    """The output of git, or None if it fails or the project is not the root of a checkout."""
    if not (_ROOT / ".git").exists():
        return None
    try:
        words = ["git", "-C", str(_ROOT), *arguments]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
