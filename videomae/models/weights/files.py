"""Read files of tensors, and load tensors into modules strictly.

Files are safetensors, or PyTorch's format read with `weights_only=True`; neither can execute code.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from videomae.core.errors import UserError

State = dict[str, Tensor]


class WeightsError(UserError):
    """Weights that cannot be read or do not fit the model; the message names the file and the keys."""


def read_state(path: Path) -> State:
    """The tensors of a .safetensors or PyTorch file by key.

    A PyTorch checkpoint that nests them one level deep under `model`, `module` or `state_dict` is unwrapped.

    Raises:
        WeightsError: the file is missing, damaged, or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}; give the path of a .safetensors, .pth, .pt or .bin file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        # Official checkpoints hold their arguments as a Namespace, which executes nothing when unpickled.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise WeightsError(f"{path}: cannot be read as tensors only: {str(error).splitlines()[0]}") from None
    return _tensors(content, path)


def _tensors(content: object, path: Path) -> State:
    if isinstance(content, Mapping):
        for key in ("model", "module", "state_dict"):
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path}: expected tensors by key, got {type(content).__name__}")
    odd = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if odd:
        raise WeightsError(f"{path}: expected only tensors, but these are not: {listing(odd)}")
    return dict(content)


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], *, source: str, fresh: Sequence[str] = ()) -> None:
    """Copy `state` into `module`; every key must be used, present and of the right shape.

    Parameters whose keys start with one of `fresh`, such as a head for other classes, keep their values in the module
    and are ignored in the state.

    Raises:
        WeightsError: lists unused keys, missing keys and differing shapes; the module is then unchanged.
    """
    own = module.state_dict()
    kept = {key: value for key, value in own.items() if key.startswith(tuple(fresh))}
    wanted = without(own, fresh)
    state = without(state, fresh)
    unused = [key for key in state if key not in wanted]
    missing = [key for key in wanted if key not in state]
    shapes = [
        f"{key} is {tuple(state[key].shape)} in the file and {tuple(wanted[key].shape)} in the model"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    complaints = [
        f"{name}: {listing(keys)}"
        for name, keys in (("unused keys", unused), ("missing keys", missing), ("shapes", shapes))
        if keys
    ]
    if complaints:
        raise WeightsError(
            f"{source} does not fit {type(module).__name__}; " + "; ".join(complaints) + "; "
            "give weights of the same architecture and settings"
        )
    module.load_state_dict(state | kept)


def without(state: Mapping[str, Tensor], prefixes: Sequence[str]) -> State:
    """The state without keys that start with one of `prefixes`."""
    return {key: value for key, value in state.items() if not key.startswith(tuple(prefixes))}


def listing(keys: Sequence[str], limit: int = 12) -> str:
    """Up to `limit` keys and the number of further ones."""
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
