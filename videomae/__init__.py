"""VideoMAE from videos to models: `from videomae import Classifier, finetune, pretrain`.

These three names are the front door of packages that stand above this one, so each is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.predict import Classifier
    from launch.api import finetune, pretrain

_DOOR = {"Classifier": "finetune.predict", "finetune": "launch.api", "pretrain": "launch.api"}

__all__ = ["Classifier", "finetune", "pretrain"]


def __getattr__(name: str) -> Any:
    if name not in _DOOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_DOOR[name]), name)
