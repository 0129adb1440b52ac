"""Atomic checkpoints: staged and hashed by all ranks, renamed into place, verified before use.

store.py     folders, the commit, removal of old ones       staging.py     each rank's part of a save
saver.py     regular, asynchronous and final saves          manifest.py    sizes and SHA-256 of the files
loading.py   the latest valid one, damaged ones             resume.py      auto, must, never or a path
inspection.py  listing                                      transfer.py    export and conversion
"""

from videomae.run.checkpoint.config import CheckpointConfig
from videomae.run.checkpoint.loading import CheckpointError, SearchResult, find_latest, verify
from videomae.run.checkpoint.manifest import find_fault
from videomae.run.checkpoint.resume import find_resume_point
from videomae.run.checkpoint.saver import Saver, SaveReport
from videomae.run.checkpoint.staging import SaveError
from videomae.run.checkpoint.store import Checkpoint, CheckpointStore

__all__ = [
    "Checkpoint",
    "CheckpointConfig",
    "CheckpointError",
    "CheckpointStore",
    "SaveError",
    "SaveReport",
    "Saver",
    "SearchResult",
    "find_fault",
    "find_latest",
    "find_resume_point",
    "verify",
]
