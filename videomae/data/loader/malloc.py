"""Keeps the memory of past batches in the process for the next ones, instead of giving it back and asking anew."""

from __future__ import annotations

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_KEPT = 1 << 30  # bytes
_KEPT_BEFORE_2_35 = 1 << 25  # the most that an older glibc takes; it refuses more, and then maps all above 128 KiB


def tune_malloc() -> None:
    """Let glibc serve clips and batches from its heap; elsewhere nothing happens.

    By default it maps each block of megabytes anew, and the kernel clears every page again: a quarter of the time that
    cropping and stacking a clip takes.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        if not libc.mallopt(_MMAP_THRESHOLD, _KEPT):
            libc.mallopt(_MMAP_THRESHOLD, _KEPT_BEFORE_2_35)
        libc.mallopt(_TRIM_THRESHOLD, _KEPT)
