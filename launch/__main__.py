"""`python -m launch CONFIG [...]`, and `python -m launch chain|status|logs|stop`; each has its --help."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from videomae.core.progress import log_to

_COMMANDS = ("chain", "logs", "status", "stop")


def main(words: Sequence[str]) -> int:
    """Run a command; returns its exit code."""
    log_to(None, console_too=True)
    name, rest = (words[0], words[1:]) if words and words[0] in _COMMANDS else ("start", words)
    # Only the chosen command is imported: launching imports every model's config, which takes seconds.
    return importlib.import_module(f"launch.{name}").main(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
