"""Settings of the C library's allocator for processes that work on large tensors on a CPU."""

from __future__ import annotations

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_HEAP_BYTES = 1 << 30
_HEAP_BYTES_BEFORE_2_35 = 1 << 25  # the largest threshold that glibc before 2.35 accepts


def tune_malloc() -> None:
    """Make glibc serve tensors from its heap and keep that memory; no effect with other C libraries.

    By default glibc maps each block of megabytes anew, and the kernel clears every page again: a quarter of the time
    that cropping and stacking a clip takes, and most of that of an element-wise operation on a large activation.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        if not libc.mallopt(_MMAP_THRESHOLD, _HEAP_BYTES):
            libc.mallopt(_MMAP_THRESHOLD, _HEAP_BYTES_BEFORE_2_35)
        libc.mallopt(_TRIM_THRESHOLD, _HEAP_BYTES)
