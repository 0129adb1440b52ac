"""Reading tensors never runs code; loading them leaves nothing over and nothing out."""

import argparse
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from videomae.models.weights import WeightsError, load_strictly, read_state
from videomae.models.weights.files import strip_wrappers


class Payload:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"weight": torch.zeros(1)}, "extra": Payload()}, "zipped.pth")
    Path("plain.pth").write_bytes(pickle.dumps({"weight": Payload()}, protocol=2))
    for name in ("zipped.pth", "plain.pth"):
        with pytest.raises(WeightsError, match=r"holds Python objects \(posix.mkdir\)"):
            read_state(Path(name))
    assert not Path("ran").exists()


STATE = {"weight": torch.arange(600.0), "bias": torch.ones(3)}


def saved(name: str, folder: Path) -> bytes:
    """The content of a file of weights."""
    if name.endswith(".safetensors"):
        return safetensors.torch.save(STATE)
    torch.save(STATE, folder / "whole", _use_new_zipfile_serialization=name != "old.pth")
    return (folder / "whole").read_bytes()


@pytest.mark.parametrize("name", ["a.pth", "old.pth", "a.safetensors"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda whole: b"", "the file is empty; copy or download it again"),
        (lambda whole: b"<!DOCTYPE html>\n<html>Sign in</html>", "a web page, not weights; open the address"),
        (lambda whole: b"\xef\xbb\xbf  <html>", "a web page, not weights"),
        (lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "type: git lfs pull"),
        (lambda whole: b'{"error": "Repository not found"}', "JSON, not weights"),
        (lambda whole: whole[:1], "copy or download it again"),
        (lambda whole: whole[:20], "copy or download it again"),
        (lambda whole: whole[: len(whole) // 2], "copy or download it again"),
        (lambda whole: whole[:-9], "copy or download it again"),
        (lambda whole: bytes(len(whole)), "damaged, or no weights|or no safetensors"),
        (lambda whole: b"hello there, this is no tensor", "copy or download it again"),
    ],
)
def test_a_damaged_file_is_one_line_without_advice_to_load_it_unsafely(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes], said: str
):
    (tmp_path / name).write_bytes(damage(saved(name, tmp_path)))
    with pytest.raises(WeightsError, match=said) as error:
        read_state(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value)


def test_bytes_that_flip_never_end_in_another_error(tmp_path: Path):
    rng = random.Random(0)
    for name in ("a.pth", "old.pth", "a.safetensors"):
        whole = saved(name, tmp_path)
        for _ in range(40):
            content = bytearray(whole)
            for _ in range(rng.randint(1, 8)):
                content[rng.randrange(len(content))] = rng.randrange(256)
            (tmp_path / name).write_bytes(content)
            with suppress(WeightsError):
                read_state(tmp_path / name)


def test_harmless_values_beside_the_tensors_are_ignored(tmp_path: Path):
    extra = {
        "best": np.float64(0.5), "epoch": np.int64(3), "flag": np.bool_(True), "name": np.str_("x"), "x": np.float16(1),
        "history": np.arange(6.0).reshape(2, 3), "args": argparse.Namespace(output=tmp_path / "runs", lr=np.float32(1)),
        "rng": ("MT19937", np.arange(4, dtype=np.uint32), 1),
    }  # fmt: skip
    beside = {**STATE, "step": np.int64(4), "note": "x"}
    for content in ({"model": STATE, **extra}, {"module": beside}, {**STATE, "epoch": 3}):
        torch.save(content, tmp_path / "a.pth")
        found = read_state(tmp_path / "a.pth")
        assert found.keys() == STATE.keys()
        assert torch.equal(found["weight"], STATE["weight"])


def test_numpys_older_names_are_read_too(tmp_path: Path):
    torch.save({"model": STATE, "best": np.float64(0.5)}, tmp_path / "new.pth")
    with zipfile.ZipFile(tmp_path / "new.pth") as new, zipfile.ZipFile(tmp_path / "old.pth", "w") as old:
        for name in new.namelist():
            content = new.read(name)
            if name.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in content
                content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            old.writestr(name, content)
    assert read_state(tmp_path / "old.pth").keys() == STATE.keys()


def test_the_content_tells_the_format_and_not_the_suffix(tmp_path: Path):
    (tmp_path / "model.bin").write_bytes(safetensors.torch.save(STATE))
    assert read_state(tmp_path / "model.bin").keys() == STATE.keys()


def test_sharded_files_are_joined_and_must_equal_their_index(tmp_path: Path):
    for name in STATE:
        (tmp_path / f"{name}.safetensors").write_bytes(safetensors.torch.save({name: STATE[name]}))
    index = tmp_path / "model.safetensors.index.json"
    files = {name: f"{name}.safetensors" for name in STATE}
    for weight_map, said in (
        (files, ""),
        (files | {"lost": "bias.safetensors"}, "missing keys: lost"),
        ({"bias": "bias.safetensors", "more": "weight.safetensors"}, "missing keys: more; unused keys: weight"),
        (files | {"bias": "gone.safetensors"}, "no weights at .*gone.safetensors"),
        (files | {"bias": "../bias.safetensors"}, "wanted plain names"),
        ("text", "not an index of sharded weights"),
    ):
        index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        if said:
            with pytest.raises(WeightsError, match=said):
                read_state(index)
        else:
            assert read_state(index).keys() == STATE.keys()


def test_wrappers_are_stripped_from_keys_but_two_models_are_refused():
    state = {f"model._orig_mod.module.{name}": value for name, value in STATE.items()}
    assert strip_wrappers(state, source="a").keys() == STATE.keys()
    with pytest.raises(WeightsError, match="a holds several models: weight stands in it more than once"):
        strip_wrappers(state | STATE, source="a")


@pytest.mark.parametrize("wrapper", ["model", "module", "state_dict", "model_state"])
def test_the_usual_wrappers_are_unwrapped(tmp_path: Path, wrapper: str):
    torch.save({wrapper: {"weight": torch.ones(2)}, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, tmp_path / "a.pth")
    assert torch.equal(read_state(tmp_path / "a.pth")["weight"], torch.ones(2))


def test_a_file_without_tensors_is_refused(tmp_path: Path):
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"only tensors.*epoch"):
        read_state(tmp_path / "a.pth")


def test_unused_missing_and_misshapen_keys_are_all_listed_and_nothing_is_loaded():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    before = module.state_dict()["0.weight"].clone()
    state = {
        "0.weight": torch.ones(2, 2),
        "0.bias": torch.ones(2),
        "1.weight": torch.ones(4, 2),
        "2.weight": torch.ones(1),
    }
    with pytest.raises(WeightsError) as error:
        load_strictly(module, state, source="a.pth")
    for part in ("unused keys: 2.weight", "missing keys: 1.bias", "1.weight is (4, 2) in the file and (3, 2)"):
        assert part in str(error.value)
    assert torch.equal(module.state_dict()["0.weight"], before)


def test_a_fresh_head_is_neither_read_nor_touched():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    head = module.state_dict()["1.weight"].clone()
    state = {
        "0.weight": torch.ones(2, 2),
        "0.bias": torch.ones(2),
        "1.weight": torch.ones(400, 2),
        "1.bias": torch.ones(400),
    }
    load_strictly(module, state, source="a.pth", fresh=["1."])
    assert torch.equal(module.state_dict()["0.weight"], torch.ones(2, 2))
    assert torch.equal(module.state_dict()["1.weight"], head)
