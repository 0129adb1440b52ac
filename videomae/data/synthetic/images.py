"""The user's images, from which textures are cropped: image files in a folder, or the frames of a split of shards."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from videomae.core.errors import UserError
from videomae.core.progress import logger
from videomae.data.errors import ShardError
from videomae.data.remote.fetch import as_url
from videomae.data.shards.manifest import MANIFEST
from videomae.data.shards.reader import ShardReader, read_manifest
from videomae.data.video import VideoError, decode

Pixels = NDArray[np.uint8]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
SHORT_SIDE = 256  # larger images are shrunk to it as they are read
_CACHED = 512  # images in memory, in each process; about 0.2 MB each
_ATTEMPTS = 8


class Images:
    """Reads images by number and crops them; what cannot be read is replaced by the image after it, with a warning."""

    def __init__(self, count: int, read: Callable[[int], Pixels], *, source: str) -> None:
        self.count, self._source = count, source
        self._read = functools.lru_cache(maxsize=_CACHED)(read)
        self._unreadable: set[int] = set()

    def crop(self, rng: np.random.Generator, size: int) -> Pixels:
        """A random square of a random image, crop_HWC, resized to `size`."""
        image_HWC = self._image(int(rng.integers(self.count)))
        share, top, left = rng.random(3).tolist()
        short = min(image_HWC.shape[:2])
        side = max(1, round(short * (0.25 + 0.75 * share)))
        y, x = (round(place * (length - side)) for place, length in zip((top, left), image_HWC.shape[:2], strict=True))
        part = Image.fromarray(image_HWC[y : y + side, x : x + side])
        return np.asarray(part.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0))

    def _image(self, number: int) -> Pixels:
        for attempt in range(_ATTEMPTS):
            place = (number + attempt) % self.count
            if place in self._unreadable:
                continue
            try:
                return self._read(place)
            except (OSError, VideoError, ShardError, Image.DecompressionBombError) as error:
                self._unreadable.add(place)
                logger.warning("%s: image %d cannot be read and is replaced: %s", self._source, place, error)
        raise UserError(f"{self._source}: {_ATTEMPTS} images in a row cannot be read; remove the damaged ones")


@functools.lru_cache(maxsize=4)
def open_images(source: str) -> Images:
    """Open a folder of image files, or a split of shards, whose four frames a video are images.

    Raises:
        UserError: it holds neither.
    """
    if is_split(source):
        reader = ShardReader(read_manifest(source))
        if not len(reader):
            raise UserError(f"{source} holds no videos; name a split with some")
        return Images(4 * len(reader), functools.partial(_read_frame, reader), source=source)
    folder = Path(source)
    if not folder.is_dir():
        raise UserError(f"no folder at {source}; images= names a folder of {', '.join(SUFFIXES)} or a split of shards")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise UserError(f"no {', '.join(SUFFIXES)} files in {source}, and no {MANIFEST}; name another folder")
    return Images(len(files), lambda number: _read_file(files[number]), source=source)


def is_split(source: str) -> bool:
    """Whether the images are the frames of shards."""
    return as_url(source) is not None or (Path(source) / MANIFEST).is_file()


def _read_file(path: Path) -> Pixels:
    with Image.open(path) as image:
        image.draft("RGB", (SHORT_SIDE, SHORT_SIDE))  # a JPEG is decoded at a fraction of its size
        return _shrunk(image.convert("RGB"))


def _read_frame(reader: ShardReader, number: int) -> Pixels:
    sample = reader.read(number // 4)
    frame = int((number % 4 + 0.5) / 4 * sample.frames)
    return _shrunk(Image.fromarray(cast(Pixels, decode(sample.video, np.array([frame]))[0])))


def _shrunk(image: Image.Image) -> Pixels:
    scale = SHORT_SIDE / min(image.size)
    if scale < 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    return np.asarray(image)
