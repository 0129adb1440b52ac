"""One source video to the bytes and the description that go into a shard. Runs in the build's worker processes."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from videomae.data.shards.manifest import SkippedSource
from videomae.data.shards.meta import Meta
from videomae.data.build.sources import Source
from videomae.data.video import EncodingConfig, FrameHWC, VideoError, encode, probe, transcode

MIN_FRAMES = 2


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A video ready for a shard."""

    video: bytes
    meta: Meta


def pack(source: Source, encoding: EncodingConfig, frames_fps: float) -> Packed | SkippedSource:
    """Re-encode `source`; what cannot be read comes back as LeftOut with the reason instead of an error."""
    try:
        digest = _digest(source)
        if source.path.is_dir():
            video = _encode_frames(source, encoding, frames_fps)
        else:
            found = probe(source.path)
            _require_frames(found.frames)
            video = transcode(source.path, encoding)
        stored = probe(video)
        _require_frames(stored.frames)
    except (VideoError, OSError, Image.DecompressionBombError) as error:
        return SkippedSource(source=source.name, reason=str(error))
    meta = Meta(
        label=source.label,
        class_name=source.class_name,
        group=source.group,
        frames=stored.frames,
        fps=stored.fps,
        width=stored.width,
        height=stored.height,
        sha256=digest,
        source=source.name,
    )
    return Packed(video=video, meta=meta)


def _encode_frames(source: Source, encoding: EncodingConfig, fps: float) -> bytes:
    files = source.files
    _require_frames(len(files))
    if encoding.fps is not None and encoding.fps < fps:
        step = fps / encoding.fps
        files = [files[math.ceil(tick * step)] for tick in range(math.ceil(len(files) / step))]
        fps = encoding.fps
    return encode(_load(files), fps, encoding)


def _load(files: list[Path]) -> Iterator[FrameHWC]:
    size: tuple[int, int] | None = None
    for file in files:
        try:
            with Image.open(file) as image:
                picture = image.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise VideoError(f"frame {file.name}: {error}") from None
        size = size or picture.size
        if picture.size != size:
            raise VideoError(
                f"frame {file.name} is {picture.size}, the first is {size}; frames of a video share one size"
            )
        yield np.asarray(picture)


def _require_frames(frames: int) -> None:
    if frames < MIN_FRAMES:
        raise VideoError(f"{frames} frame(s); a video needs at least {MIN_FRAMES}")


def _digest(source: Source) -> str:
    """SHA-256 of the file, or of a folder's frames one after the other."""
    digest = hashlib.sha256()
    for file in source.files:
        with file.open("rb") as stream:
            for block in itertools.takewhile(bool, iter(lambda: stream.read(1 << 20), None)):
                digest.update(block)
    return digest.hexdigest()
