"""Textures from the user's images: from files or from shards, deterministic, and forgiving of a damaged file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videomae.core.errors import UserError
from videomae.data.synthetic.config import SyntheticConfig
from videomae.data.synthetic.drawing import draw_clip
from videomae.data.synthetic.images import SHORT_SIDE, open_images
from videomae.data.synthetic.source import open_synthetic


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A red and a wide green picture, one of them in a subfolder."""
    (tmp_path / "more").mkdir()
    Image.new("RGB", (40, 30), (200, 0, 0)).save(tmp_path / "a.png")
    Image.new("RGB", (1200, 600), (0, 200, 0)).save(tmp_path / "more" / "b.JPG", quality=95)
    return tmp_path


def test_crops_come_from_all_images_at_the_size_that_is_asked_for(folder: Path) -> None:
    images = open_images(str(folder))
    assert images.count == 2
    crops = [images.crop(np.random.default_rng(seed), 24) for seed in range(20)]
    assert {crop.shape for crop in crops} == {(24, 24, 3)}
    brightest = {int(crop.mean((0, 1)).argmax()) for crop in crops}
    assert brightest == {0, 1}
    assert max(images._read(1).shape) == 2 * SHORT_SIDE


def test_clips_of_image_textures_are_a_function_of_the_generator(folder: Path) -> None:
    config = SyntheticConfig(textures="images", images=str(folder), noise=0)
    first, again = (draw_clip(config, np.random.default_rng(4), frames=3, size=40) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.mean((0, 1, 2)).argmax() in (0, 1)


def test_a_damaged_image_is_replaced_by_the_one_after_it(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "a.png").write_bytes(b"no picture")
    images = open_images(str(folder))
    with caplog.at_level("WARNING"):
        crops = [images.crop(np.random.default_rng(seed), 8) for seed in range(12)]
    assert all(crop.mean((0, 1)).argmax() == 1 for crop in crops)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "nowhere", r"no folder at .*nowhere; images= names a folder of \.jpg"),
        (lambda folder: folder, r"no \.jpg, .* files in .*, and no manifest\.json"),
    ],
)
def test_a_source_without_images_is_refused(tmp_path: Path, make: object, said: str) -> None:
    assert callable(make)
    with pytest.raises(UserError, match=said):
        open_synthetic(SyntheticConfig(textures="images", images=str(make(tmp_path))))


def test_a_folder_of_damaged_images_is_refused_when_one_is_needed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="in a row cannot be read"):
        open_images(str(tmp_path)).crop(np.random.default_rng(0), 8)
