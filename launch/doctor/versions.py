"""Are all ranks the same software? Python, packages, driver, and the commit of this repository."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch
from torch.cuda import nccl

from launch.doctor.finding import Answer, Context, Finding, places

NAME = "versions"
_PACKAGES = ("torch", "deepspeed", "torchvision", "av", "numpy", "pydantic", "safetensors")
_CODE = ("git commit", "files changed since")


def probe(context: Context) -> dict[str, str]:
    """Versions by name; "none" where there is none."""
    built = nccl.version() if torch.cuda.is_available() else ()
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "cuda": str(torch.version.cuda or "none"),
        "nccl": ".".join(map(str, built)) or "none",
        "driver": _driver(),
        "git commit": _git("rev-parse", "--short=12", "HEAD"),
        "files changed since": str(len(_git("status", "--porcelain", "--untracked-files=no").splitlines())),
    }


def judge(answers: Sequence[Answer], context: Context) -> list[Finding]:
    """A red line for each name whose version is not the same everywhere."""
    first = answers[0].value
    differing = [name for name in first if len({answer.value.get(name) for answer in answers}) > 1]
    if not differing:
        code = (
            "" if first["files changed since"] in ("0", "none") else f", {first['files changed since']} files changed"
        )
        shown = ", ".join(f"{name} {first[name]}" for name in ("python", "torch", "deepspeed", "cuda", "driver"))
        return [Finding(NAME, "green", f"equal on all ranks: {shown}, commit {first['git commit']}{code}")]
    return [_difference(name, answers) for name in differing]


def _difference(name: str, answers: Sequence[Answer]) -> Finding:
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.value.get(name, "none"), []).append(answer)
    said = "; ".join(f"{version} on {places(where)}" for version, where in groups.items())
    common = max(groups, key=lambda version: len(groups[version]))
    if name in _CODE:
        remedy = "start all ranks from one shared checkout, or from a submission's code snapshot (python -m launch)"
    elif name in ("cuda", "driver", "nccl"):
        remedy = f"leave out the hosts that differ from {common}, or have their driver installed anew"
    else:
        remedy = "use one environment on all hosts: pip install -c constraints.txt -e . on those that differ"
    return Finding(NAME, "red", f"{name}: {said}", remedy)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _driver() -> str:
    command = shutil.which("nvidia-smi")
    if command is None:
        return "none"
    query = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
    lines = subprocess.run(query, capture_output=True, text=True, timeout=15).stdout.split()
    return lines[0] if lines else "none"


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", *words],
            cwd=Path(__file__).parent,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            timeout=15,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "none"
    return done.stdout.strip()
