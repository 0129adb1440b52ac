"""Pictures of reconstructions from checkpoints of any form, and features of every sample."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from launch.cli import main
from launch.extract import extract_features
from pretrain.autoencoder import DecoderConfig, MaskedAutoencoder
from pretrain.masking import MaskConfig
from pretrain.reconstruct_videos import TrainedAutoencoder, load_autoencoder, mask_config, reconstruct_videos
from tests.unit.conftest import small_video
from videomae.core.errors import UserError
from videomae.data.shards.reader import ShardReader, read_manifest
from videomae.data.video import VideoError, probe
from videomae.models.encoder import EncoderConfig, VideoEncoder
from videomae.models.weights.export import save_encoder

ENCODER = EncoderConfig(frames=4, size=32, patch=8, dim=48, depth=1, heads=3)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A pretraining checkpoint in the official form: of ViT-S's width, for the published number of heads."""
    encoder = EncoderConfig(frames=16, size=224, dim=384, depth=1, heads=6)
    torch.manual_seed(0)
    model = MaskedAutoencoder(encoder, DecoderConfig(dim=192, depth=1, heads=3))
    torch.save({"model": model.state_dict()}, tmp_path / "checkpoint.pth")
    return tmp_path / "checkpoint.pth"


def test_pictures_of_any_mask(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(small_video(1, frames=40, height=64, width=96))
    torch.manual_seed(0)
    model = MaskedAutoencoder(ENCODER, DecoderConfig(dim=24, depth=1, heads=3)).eval()
    trained = TrainedAutoencoder(model, MaskConfig(), stride=2, normalized=True)
    for kind, ratio in (("tube", 0.75), ("random", 0.5), ("frame", 0.5)):
        mask = mask_config(trained, kind, ratio)
        (found,) = reconstruct_videos(trained, [tmp_path / "clip.mp4"], tmp_path / kind, mask=mask)
        assert found.hidden == pytest.approx(ratio, abs=0.01)
        assert 0 < found.pixel_error < 1
        png, gif, mp4 = (Path(file) for file in found.files)
        with Image.open(png) as strip, Image.open(gif) as moving:
            assert strip.size == (4 * 32, 3 * 32)
            assert getattr(moving, "n_frames", 1) > 1
        assert (probe(mp4).frames, probe(mp4).width) == (4, 3 * 224)


def test_a_video_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    content = bytearray(small_video(1, frames=40))
    middle = len(content) // 2
    content[middle : middle + len(content) // 4] = b"\x91\x5c\x03\xe7" * (len(content) // 16)
    (tmp_path / "clip.mp4").write_bytes(content)
    model = MaskedAutoencoder(ENCODER, DecoderConfig(dim=24, depth=1, heads=3)).eval()
    trained = TrainedAutoencoder(model, MaskConfig(), stride=2, normalized=True)
    with pytest.raises(VideoError, match=r"clip\.mp4: "):
        reconstruct_videos(trained, [tmp_path / "clip.mp4"], tmp_path / "out", mask=MaskConfig())


def test_the_reconstruct_command(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clip.mp4").write_bytes(small_video(1, frames=40))
    assert load_autoencoder(checkpoint).normalized
    words = ["reconstruct", str(checkpoint), str(tmp_path / "clip.mp4"), "--out", str(tmp_path / "out"), "--json"]
    assert main([*words, "--ratio", "0.5"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["hidden"] == pytest.approx(0.5, abs=0.01)
    assert main([*words, "--ratio", "1.5"]) == 2
    assert "ratio: got 1.5; Input should be less than 1" in capsys.readouterr().err
    save_encoder(VideoEncoder(ENCODER).state_dict(), ENCODER, tmp_path / "export", {})
    assert main(["reconstruct", str(tmp_path / "export" / "encoder.safetensors"), *words[2:]]) == 2
    assert "holds no decoder" in capsys.readouterr().err


def test_features_of_every_sample_with_its_key(shards: Path, tmp_path: Path) -> None:
    import pyarrow.parquet

    torch.manual_seed(0)
    encoder = VideoEncoder(ENCODER)
    save_encoder(encoder.state_dict(), ENCODER, tmp_path / "export", {})
    found = extract_features(tmp_path / "export", shards / "val", tmp_path / "npz", patches=False, form="npz", batch=3)
    assert found == {"samples": 8, "files": 1, "shape": [48]}
    pooled = np.load(tmp_path / "npz" / "part-00000.npz")
    reader = ShardReader(read_manifest(shards / "val"))
    assert pooled["key"].tolist() == [reader.entry(number).key for number in range(8)]
    assert pooled["label"].tolist() == [reader.entry(number).label for number in range(8)]
    extract_features(tmp_path / "export", shards / "val", tmp_path / "parquet", patches=True, form="parquet", batch=8)
    table = pyarrow.parquet.read_table(tmp_path / "parquet" / "part-00000.parquet")
    tokens_BND = np.array(table["features"].to_pylist())
    assert tokens_BND.shape == (8, ENCODER.num_patches, 48)
    np.testing.assert_allclose(tokens_BND.mean(1), pooled["features"], atol=1e-5)
    with pytest.raises(UserError, match="exists already"):
        extract_features(tmp_path / "export", shards / "val", tmp_path / "npz", patches=False, form="npz", batch=3)
