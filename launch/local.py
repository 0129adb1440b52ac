"""Runs a command on this machine and passes signals on to it."""

from __future__ import annotations

import os
import signal
import subprocess

from launch.job import Command
from videomae.core.signals import SIGNALS


def run(command: Command) -> int:
    """Run `command` to its end with its output on ours; a signal to us reaches it, so that it can save and leave."""
    process = subprocess.Popen(command.words, env={**os.environ, **command.environment})
    for number in SIGNALS:
        # A terminal's ctrl-C reaches the whole process group by itself; only signals to us alone are passed on.
        if number != signal.SIGINT:
            signal.signal(number, lambda received, _: process.send_signal(received))
    while True:
        try:
            code = process.wait()
            return code if code >= 0 else 128 - code  # as a shell says it
        except KeyboardInterrupt:
            continue  # the child has got it too and is saving
