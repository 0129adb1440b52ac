"""Reading tensors never runs code; loading them leaves nothing over and nothing out."""

import argparse
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from videomae.models.weights import WeightsError, load_strictly, read_state


class Payload:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"weight": torch.zeros(1)}, "extra": Payload()}, "zipped.pth")
    Path("plain.pth").write_bytes(pickle.dumps({"weight": Payload()}, protocol=2))
    for name in ("zipped.pth", "plain.pth"):
        with pytest.raises(WeightsError, match="tensors only"):
            read_state(Path(name))
    assert not Path("ran").exists()


@pytest.mark.parametrize("wrapper", ["model", "module", "state_dict"])
def test_the_usual_wrappers_are_unwrapped(tmp_path: Path, wrapper: str):
    torch.save({wrapper: {"weight": torch.ones(2)}, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, tmp_path / "a.pth")
    assert torch.equal(read_state(tmp_path / "a.pth")["weight"], torch.ones(2))


def test_a_file_without_tensors_is_refused(tmp_path: Path):
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"only tensors.*epoch"):
        read_state(tmp_path / "a.pth")
    (tmp_path / "text.safetensors").write_text("hello there, this is no tensor")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_state(tmp_path / "text.safetensors")


def test_unused_missing_and_misshapen_keys_are_all_listed_and_nothing_is_loaded():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    before = module[0].weight.clone()
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
    assert torch.equal(module[0].weight, before)


def test_a_fresh_head_is_neither_read_nor_touched():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    head = module[1].weight.clone()
    state = {
        "0.weight": torch.ones(2, 2),
        "0.bias": torch.ones(2),
        "1.weight": torch.ones(400, 2),
        "1.bias": torch.ones(400),
    }
    load_strictly(module, state, source="a.pth", fresh=["1."])
    assert torch.equal(module[0].weight, torch.ones(2, 2))
    assert torch.equal(module[1].weight, head)
