"""What is packed shows what a viewer of the sources sees; what cannot be shown so is skipped with the reason."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.unit.videomae.data.video.drawn import COLOURS, colours_of, number_of, picture
from videomae.data.build.packing import Packed, pack
from videomae.data.build.sources import Source
from videomae.data.shards.manifest import SkippedSource
from videomae.data.video import EncodingConfig, FramesTHWC, decode

CASES = Path(__file__).parents[6] / "shared" / "cases"
WHOLE = EncodingConfig(short_side=None, fps=None, crf=4)


def packed(folder: Path, encoding: EncodingConfig = WHOLE, fps: float = 30.0) -> tuple[Packed, FramesTHWC]:
    source = Source(path=folder, name="clip", class_name="", label=-1, group="")
    result = pack(source, encoding, fps)
    assert isinstance(result, Packed), result
    return result, decode(result.video, range(result.meta.frames))


def folder_of(tmp_path: Path, images: list[Image.Image], suffix: str, **options: Any) -> Path:
    (tmp_path / "frames").mkdir()
    for number, image in enumerate(images):
        image.save(tmp_path / "frames" / f"{number}{suffix}", **options)
    return tmp_path / "frames"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_frames_are_turned_by_their_exif_orientation(tmp_path: Path, orientation: int) -> None:
    undo: dict[int, Image.Transpose] = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    images = [Image.fromarray(picture(number)) for number in range(3)]
    turned = [image.transpose(undo[orientation]) if orientation in undo else image for image in images]
    result, frames = packed(folder_of(tmp_path, turned, ".jpg", exif=exif, quality=95))
    assert (result.meta.height, result.meta.width) == (64, 96)
    assert [number_of(frame) for frame in frames] == [0, 1, 2]
    assert np.abs(colours_of(frames[0]) - COLOURS).mean() < 4


@pytest.mark.parametrize("mode", ["I;16", "L", "P", "RGBA", "CMYK", "1"])
def test_frames_of_any_depth_keep_their_brightness(tmp_path: Path, mode: str) -> None:
    grey = np.repeat(np.linspace(0, 255, 96, dtype=np.uint8)[None], 64, axis=0)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode, palette=Image.Palette.ADAPTIVE)
    suffix = ".jpg" if mode == "CMYK" else ".png"
    expected = np.asarray(Image.fromarray(grey).convert("1").convert("L")) if mode == "1" else grey
    _, frames = packed(folder_of(tmp_path, [image] * 2, suffix))
    assert np.abs(frames[0].astype(int) - expected[..., None]).mean() < 4


def test_frames_of_different_orientation_are_refused(tmp_path: Path) -> None:
    images = [Image.fromarray(picture(number)) for number in range(3)]
    folder = folder_of(tmp_path, [*images[:2], images[2].transpose(Image.Transpose.ROTATE_90)], ".png")
    source = Source(path=folder, name="clip", class_name="", label=-1, group="")
    result = pack(source, WHOLE, 30.0)
    assert isinstance(result, SkippedSource)
    assert "frame 2.png is (64, 96), the first is (96, 64)" in result.reason


@pytest.mark.parametrize(
    ("source_fps", "fps", "numbers"),
    [
        (30.0, 15.0, [0, 2, 4, 6, 8, 10]),
        (25.0, 15.0, [0, 1, 3, 5, 6, 8, 10, 11]),  # on display at 0, 67, 133, 200, 267, 333, 400 and 467 ms
        (29.97, 15.0, [0, 1, 3, 5, 7, 9, 11]),
        (10.0, 15.0, list(range(12))),
    ],
)
def test_frame_folders_are_sampled_by_time(tmp_path: Path, source_fps: float, fps: float, numbers: list[int]) -> None:
    folder = folder_of(tmp_path, [Image.fromarray(picture(number)) for number in range(12)], ".png")
    result, frames = packed(folder, EncodingConfig(short_side=None, fps=fps), source_fps)
    assert [number_of(frame) for frame in frames] == numbers
    assert result.meta.fps == pytest.approx(min(fps, source_fps))


@pytest.mark.skipif(not CASES.is_dir(), reason="no shared/cases")
def test_cases_that_users_met() -> None:
    result, frames = packed(CASES / "frames" / "exif6")
    assert (result.meta.width, result.meta.height) == (160, 120)
    assert [int(((frame[30, 10:160:20].mean(axis=-1) > 125) << np.arange(8)).sum()) for frame in frames] == list(
        range(6)
    )
    assert np.abs(colours_of(frames[0])[:6] - COLOURS[:6]).mean() < 4
    _, frames = packed(CASES / "frames" / "gray16")
    assert frames.min() < 60
    assert frames.max() > 220
    assert 60 < frames.mean() < 200
