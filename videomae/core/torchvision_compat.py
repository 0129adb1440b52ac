"""The one place that imports torchvision; timm and transformers import it too, so this module comes before them.

torchvision's wheels hold operators compiled for CUDA builds of torch. Beside a CPU build they do not load, and then
`import torchvision` fails because it registers shape functions for operators (`nms`, `qnms`) that nobody declared.
Declaring the two schemas lets all that needs no compiled operator work: models, transforms, weights. `ops.nms` and
`io.decode_jpeg` stay unusable there. Where the operators load, nothing is declared.
"""

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _operators_load() -> bool:
    """Whether the compiled operators of the installed torchvision load into this torch."""
    package = importlib.util.find_spec("torchvision")
    if package is None or package.origin is None:
        return True  # the import below says that torchvision is missing
    try:
        for library in Path(package.origin).parent.glob("_C*.so"):
            torch.ops.load_library(str(library))
    except OSError:
        return False
    return True


def _declare_schemas() -> torch.library.Library:
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    return library


# The declarations live as long as the library object does.
_declared = None if _operators_load() else _declare_schemas()

from torchvision import models as models
from torchvision import tv_tensors as tv_tensors
from torchvision.transforms import v2 as transforms_v2

__all__ = ["models", "transforms_v2", "tv_tensors"]
