"""The exported encoder: what is written is what is read, and nothing else is taken for it."""

import json
from pathlib import Path

import pytest
import torch

from videomae.models.encoder import EncoderConfig, VideoEncoder
from videomae.models.weights import WeightsError, load_encoder, save_encoder

TINY = EncoderConfig(frames=4, size=32, dim=24, depth=2, heads=3)


def export(folder: Path, config: EncoderConfig = TINY) -> VideoEncoder:
    encoder = VideoEncoder(config)
    save_encoder(encoder.state_dict(), config, folder, {"run": "first-light", "step": 7})
    return encoder


@pytest.mark.parametrize("name", ["export", "export/encoder.safetensors"])
def test_round_trip_by_folder_and_by_file(tmp_path: Path, name: str):
    encoder = export(tmp_path / "export")
    config, state, metadata = load_encoder(tmp_path / name)
    assert config == TINY
    assert metadata == {"run": "first-light", "step": 7}
    assert state.keys() == encoder.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in encoder.state_dict().items())
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == ["encoder.json", "encoder.safetensors"]


def test_a_state_of_another_encoder_is_not_written(tmp_path: Path):
    state = VideoEncoder(TINY).state_dict()
    state["extra"] = state.pop("blocks.1.attn.q_bias")
    with pytest.raises(WeightsError, match=r"unused keys: extra; missing keys: blocks\.1\.attn\.q_bias"):
        save_encoder(state, TINY, tmp_path / "export", {})
    assert not (tmp_path / "export").exists()


def test_config_and_tensors_of_two_exports_are_refused(tmp_path: Path):
    export(tmp_path)
    description = json.loads((tmp_path / "encoder.json").read_text())
    description["encoder"]["depth"] = 3
    (tmp_path / "encoder.json").write_text(json.dumps(description))
    with pytest.raises(WeightsError, match=r"missing keys: blocks\.2\."):
        load_encoder(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"encoder": {"dim": "wide"}}', '{"encoder": {"width": 3}}'])
def test_a_damaged_description_is_named(tmp_path: Path, content: str):
    export(tmp_path)
    (tmp_path / "encoder.json").write_text(content)
    with pytest.raises(WeightsError, match=r"encoder\.json"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("name", ["checkpoint.pth", "model.safetensors"])
def test_a_file_of_another_form_is_refused_with_the_command_that_imports_it(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"any")
    with pytest.raises(WeightsError, match=f"import it first: videomae weights import {tmp_path / name} runs/imported"):
        load_encoder(tmp_path / name)


def test_a_missing_or_cut_file_is_named(tmp_path: Path):
    with pytest.raises(WeightsError, match=r"no encoder\.json in .*nowhere"):
        load_encoder(tmp_path / "nowhere")
    export(tmp_path)
    tensors = tmp_path / "encoder.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cut off after 1000 bytes"):
        load_encoder(tmp_path)
    tensors.unlink()
    with pytest.raises(WeightsError, match="no weights at"):
        load_encoder(tmp_path)
