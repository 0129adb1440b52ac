"""The same bits at each run on CUDA too: what torch and its libraries have to be told before the first step.

Without it atomic additions, and libraries that choose among algorithms by their speed, end in other last bits each
time. With it a run equals another one of the same software, kind of GPU and number of processes, more slowly; an
operation that knows no such way ends the run, and torch's message names it. CPUs give the same bits anyway.
"""

from __future__ import annotations

import os

import torch

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_FIXED = ":4096:8"  # eight buffers of 4 MiB, so that cuBLAS never takes one by chance; :16:8 is the small alternative


def make_deterministic() -> None:
    """Set it for this process, and for good; before cuBLAS is used, which reads its variable once."""
    os.environ.setdefault(_WORKSPACE, _FIXED)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
