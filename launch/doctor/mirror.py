"""Whether W&B's server can be reached, for runs that want it."""

from __future__ import annotations

import netrc
import os
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from launch.doctor.finding import Answer, Context, Finding

NAME = "W&B"
DEFAULT = "https://api.wandb.ai"
SECONDS = 5.0


def probe(context: Context) -> dict[str, Any]:
    """A connection to the server's port; only rank 0 mirrors, so only it asks."""
    mode = context.config.metrics.wandb if context.config is not None else "auto"
    mode = os.environ.get("WANDB_MODE", mode)
    if not context.world.first or mode in ("disabled", "offline"):
        return {"mode": mode, "server": None, "fault": None, "logged_in": False}
    server = urlsplit(os.environ.get("WANDB_BASE_URL", DEFAULT))
    port = server.port or (443 if server.scheme == "https" else 80)
    fault = None
    try:
        with socket.create_connection((server.hostname or "", port), timeout=SECONDS):
            pass
    except OSError as error:
        fault = str(error)
    return {"mode": mode, "server": server.geturl(), "fault": fault, "logged_in": _logged_in(server.hostname or "")}


def _logged_in(host: str) -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def judge(answers: Sequence[Answer], context: Context) -> list[Finding]:
    """Red only where the config insists on the server; a run goes on without it."""
    seen = answers[0].value
    if seen["server"] is None:
        return [Finding(NAME, "green", f"not wanted: metrics.wandb={seen['mode']}")]
    level = "red" if seen["mode"] == "online" else "yellow"
    later = "type metrics.wandb=offline; metrics.jsonl holds everything, and can be sent later"
    if seen["fault"]:
        return [Finding(NAME, level, f"{seen['server']} cannot be reached: {seen['fault']}", later)]
    if not seen["logged_in"]:
        remedy = "wandb login, or export WANDB_API_KEY; without it a run logs offline"
        return [Finding(NAME, level, f"{seen['server']} answers, but nobody is logged in here", remedy)]
    return [Finding(NAME, "green", f"{seen['server']} answers, logged in")]
