"""Checkpoints that are whole or not there: staged and hashed by all ranks, renamed into place, found by agreement.

store.py     what lies where, the commit, what is removed          staging.py   each rank's part of a save
saving.py    regular, asynchronous and last saves, failures        loading.py   the newest whole one, damaged ones
resume.py    auto, must, never or a path                           manifest.py  sizes and SHA-256 of the files
"""

from videomae.run.checkpoint.config import CheckpointConfig
from videomae.run.checkpoint.loading import CheckpointError, Found, newest, verify
from videomae.run.checkpoint.manifest import find_fault, find_quick_fault
from videomae.run.checkpoint.resume import starting_point
from videomae.run.checkpoint.saving import Saver, SaveReport, Snapshot
from videomae.run.checkpoint.staging import SaveError
from videomae.run.checkpoint.store import Checkpoint, CheckpointStore

__all__ = [
    "Checkpoint",
    "CheckpointConfig",
    "CheckpointError",
    "CheckpointStore",
    "Found",
    "SaveError",
    "SaveReport",
    "Saver",
    "Snapshot",
    "find_fault",
    "find_quick_fault",
    "newest",
    "starting_point",
    "verify",
]
