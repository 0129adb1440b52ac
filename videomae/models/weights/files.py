"""Read files of tensors, and load tensors into modules strictly.

Files are safetensors, or PyTorch's format read with `weights_only=True`; neither can execute code.
"""

from __future__ import annotations

import argparse
import codecs
import errno
import json
import pathlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from videomae.core.errors import UserError, listing

State = dict[str, Tensor]
INDEX_SUFFIX = ".index.json"
_HEAD_BYTES = 512
_WRAPPERS = re.compile(r"((_orig_mod|module|model|backbone)\.)+")
_PLAIN = int | float | str | None | np.generic
# What checkpoints hold beside tensors and what executes nothing when unpickled: arguments, paths, and NumPy's scalars
# and arrays, such as the best accuracy, under the names of NumPy 1 and 2.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    codecs.encode,
    np.dtype,
    np.ndarray,
    *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdFDSU"},
    *(
        (function, f"numpy.{core}.multiarray.{name}")
        for function, name in ((np.float64(0).__reduce__()[0], "scalar"), (np.zeros(0).__reduce__()[0], "_reconstruct"))
        for core in ("core", "_core")
    ),
    *(
        (kind, f"{module}.{name}")
        for kind, name in ((pathlib.PurePosixPath, "PosixPath"), (pathlib.PureWindowsPath, "WindowsPath"))
        for module in ("pathlib", "pathlib._local")
    ),
]


class WeightsError(UserError):
    """Weights that cannot be read or do not fit the model; the message names the file and the keys."""


def read_state(path: Path) -> State:
    """The tensors of a .safetensors or PyTorch file by key, or of all files that a `.index.json` names.

    A PyTorch checkpoint that nests them under `model`, `module` or `state_dict` is unwrapped; plain values beside the
    tensors are ignored.

    Raises:
        WeightsError: the file is missing, damaged, or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}; give the path of a .safetensors, .pth, .pt or .bin file")
    if path.name.endswith(INDEX_SUFFIX):
        return _read_sharded(path)
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    try:
        if path.suffix == ".safetensors" or _is_safetensors(head, path.stat().st_size):
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of the pickle protocol of a damaged file
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the parsers raise errors of many types for a damaged file
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: torch has sought beyond the end
            raise
        raise WeightsError(f"{path}: {describe_fault(path, head, error)}") from None
    return _tensors(content, path)


def describe_fault(path: Path, head: bytes, error: Exception) -> str:
    """What is wrong with a file that begins with `head` and cannot be read, and what to do."""
    again = "copy or download it again"
    size = path.stat().st_size
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not size:
        return f"the file is empty; {again}"
    if start.startswith(b"<"):
        return "a web page, not weights; open the address in a browser, and download the file itself"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the weights; type: git lfs pull"
    if start.startswith((b"{", b"[")):
        return f"JSON, not weights, such as a server's error message; {again}"
    unsupported = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if unsupported:
        return (
            f"holds Python objects ({unsupported[1]}), but only tensors and plain values are read; ask for a "
            ".safetensors file, or for one of model.state_dict() alone"
        )
    if head.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(path):
        return f"cut off after {size} bytes; {again}"
    if path.suffix == ".safetensors" and size < 8 + int.from_bytes(head[:8], "little"):
        return f"cut off after {size} bytes, or no safetensors; {again}"
    return f"damaged, or no weights ({type(error).__name__}); {again}"


def _is_safetensors(head: bytes, size: int) -> bool:
    return head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") <= size - 8


def _read_sharded(index: Path) -> State:
    """The tensors of all files that transformers' index names. Raises WeightsError if they differ from the index."""
    try:
        files = json.loads(index.read_text())["weight_map"]
        named = {str(key): str(name) for key, name in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index}: not an index of sharded weights ({error}); copy or download it again") from None
    state: State = {}
    for name in sorted(set(named.values())):
        if Path(name).name != name or name.endswith(INDEX_SUFFIX):
            raise WeightsError(f"{index} names the file {name!r}; wanted plain names of files beside it")
        state |= read_state(index.with_name(name))
    missing, unnamed = sorted(named.keys() - state.keys()), sorted(state.keys() - named.keys())
    if missing or unnamed:
        raise WeightsError(
            f"{index} and the files beside it differ: missing keys: {listing(missing) or 'none'}; "
            f"unused keys: {listing(unnamed) or 'none'}; copy or download all files again"
        )
    return state


def strip_wrappers(state: Mapping[str, Tensor], *, source: str) -> State:
    """The state with keys as the model itself has them, without the prefixes of compilers and of training frameworks.

    Raises:
        WeightsError: two keys become the same.
    """
    renamed: State = {}
    for key, value in state.items():
        name = _WRAPPERS.sub("", key).replace("._orig_mod.", ".")
        if name in renamed:
            raise WeightsError(f"{source} holds several models: {name} stands in it more than once; give a file of one")
        renamed[name] = value
    return renamed


def _tensors(content: object, path: Path) -> State:
    if isinstance(content, Mapping):
        for key in ("model", "module", "state_dict", "model_state_dict", "model_state"):
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path}: expected tensors by key, got {type(content).__name__}")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    odd = [str(key) for key, value in content.items() if not isinstance(value, Tensor | _PLAIN)]
    if odd or not tensors:
        others = listing(odd or [str(key) for key in content])
        raise WeightsError(f"{path}: expected only tensors, but these are not: {others}")
    return tensors


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
    found = differences(state, wanted)
    if found:
        raise WeightsError(
            f"{source} does not fit {type(module).__name__}; {found}; "
            "give weights of the same architecture and settings"
        )
    module.load_state_dict(state | kept)


def differences(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """The keys and shapes in which `state` differs from that of a model; empty if there are none."""
    found = {
        "unused keys": [key for key in state if key not in wanted],
        "missing keys": [key for key in wanted if key not in state],
        "shapes": [
            f"{key} is {tuple(state[key].shape)} in the file and {tuple(value.shape)} in the model"
            for key, value in wanted.items()
            if key in state and state[key].shape != value.shape
        ],
    }
    return "; ".join(f"{name}: {listing(keys)}" for name, keys in found.items() if keys)


def without(state: Mapping[str, Tensor], prefixes: Sequence[str]) -> State:
    """The state without keys that start with one of `prefixes`."""
    return {key: value for key, value in state.items() if not key.startswith(tuple(prefixes))}
