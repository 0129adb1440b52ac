"""Re-encode sources for shards in worker processes, in order, and survive sources that kill a worker."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from videomae.data.build.classes import UNLABELLED
from videomae.data.build.sources import Source
from videomae.data.shards.index import SampleMeta
from videomae.data.shards.manifest import SkippedSource
from videomae.data.shards.reader import Sample
from videomae.data.video import EncodingConfig, FrameHWC, Timeline, VideoError, encode, probe, transcode

MIN_FRAMES = 2
_QUEUED = 4  # tasks submitted ahead for each worker


@dataclass(frozen=True, kw_only=True)
class Packed:
    """An encoded video, its metadata, and what the manifest remarks of its source."""

    video: bytes
    meta: SampleMeta
    remarks: tuple[str, ...] = ()


def pack(source: Source, encoding: EncodingConfig, frames_fps: float) -> Packed | SkippedSource:
    """Re-encode `source`; an unreadable one gives a SkippedSource with the reason."""
    remarks: list[str] = []
    try:
        digest = _digest(source)
        if source.path.is_dir():
            video = _encode_frames(source, encoding, frames_fps)
        else:
            found = probe(source.path)
            _require_frames(found.frames)
            video = transcode(source.path, encoding, remark=remarks.append)
        stored = probe(video)
        _require_frames(stored.frames)
    except (VideoError, OSError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        return SkippedSource(source=source.name, reason=reason or str(error))
    meta = SampleMeta(
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
    return Packed(video=video, meta=meta, remarks=tuple(remarks))


def stored_sample(path: Path, encoding: EncodingConfig) -> Sample:
    """A video file as a sample: as it is if it has the form of stored videos already, else as shards would hold it.

    Raises:
        VideoError: the file is no video, or cannot be converted. A damaged sample may raise it when it is decoded.
    """
    found = probe(path)
    slow = encoding.fps is None or found.fps <= encoding.fps * 1.001
    small = encoding.short_side is None or min(found.width, found.height) <= encoding.short_side
    fits = slow and small and found.constant
    video = path.read_bytes() if fits else transcode(path, encoding)
    found = found if fits else probe(video)
    return Sample(
        id=0,
        key=path.stem,
        shard="",
        video=video,
        label=UNLABELLED,
        group="",
        frames=found.frames,
        fps=found.fps,
        width=found.width,
        height=found.height,
    )


def pack_all(
    sources: Sequence[Source], encoding: EncodingConfig, frames_fps: float, *, workers: int
) -> Iterator[Packed | SkippedSource]:
    """Yield one result per source, in order; `workers=1` packs in this process.

    When a worker process dies, the queued sources are packed one at a time; a source that kills its process again is
    skipped.
    """
    if workers <= 1:
        yield from (pack(source, encoding, frames_fps) for source in sources)
        return
    done = 0
    while done < len(sources):
        try:
            for result in _pack_in_pool(sources[done:], encoding, frames_fps, workers):
                done += 1
                yield result
        except BrokenProcessPool:
            for result in _pack_one_by_one(sources[done : done + _QUEUED * workers], encoding, frames_fps):
                done += 1
                yield result


def _pack_in_pool(
    sources: Sequence[Source], encoding: EncodingConfig, frames_fps: float, workers: int
) -> Iterator[Packed | SkippedSource]:
    waiting: deque[Future[Packed | SkippedSource]] = deque()
    with spawn_pool(workers) as pool:
        try:
            for source in sources:
                waiting.append(pool.submit(pack, source, encoding, frames_fps))
                if len(waiting) >= _QUEUED * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _pack_one_by_one(
    sources: Sequence[Source], encoding: EncodingConfig, frames_fps: float
) -> Iterator[Packed | SkippedSource]:
    """Pack one source at a time, so that a dead process identifies its source."""
    pool = spawn_pool(1)
    for source in sources:
        try:
            yield pool.submit(pack, source, encoding, frames_fps).result()
        except BrokenProcessPool:
            yield SkippedSource(
                source=source.name, reason="the process that decoded it died: the file is damaged, or memory ran out"
            )
            pool = spawn_pool(1)
    pool.shutdown()


def spawn_pool(workers: int) -> ProcessPoolExecutor:
    """Processes that leave an interruption by the keyboard to this one."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(
        workers, mp_context=spawn, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    )


def _encode_frames(source: Source, encoding: EncodingConfig, fps: float) -> bytes:
    files = source.files
    _require_frames(len(files))
    if encoding.fps is not None and encoding.fps < fps:
        rate = Fraction(fps).limit_denominator(1001)
        times = Timeline(starts=list(range(len(files))), end=Fraction(len(files)), unit=1 / rate, rate=rate)
        repeats = times.repeats(Fraction(encoding.fps).limit_denominator(1001))
        files = [file for file, count in zip(files, repeats, strict=True) if count]
        fps = encoding.fps
    return encode(_load_frames(files), fps, encoding)


def _load_frames(files: list[Path]) -> Iterator[FrameHWC]:
    size: tuple[int, int] | None = None
    for file in files:
        try:
            with Image.open(file) as image:
                frame = _eight_bits(ImageOps.exif_transpose(image)).convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise VideoError(f"frame {file.name}: {error}") from None
        size = size or frame.size
        if frame.size != size:
            raise VideoError(f"frame {file.name} is {frame.size}, the first is {size}; wanted frames of one size")
        yield np.asarray(frame)


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel; Pillow itself would cut grey values of 16 bits off at 255."""
    if image.mode == "F":
        raise VideoError("its values are floating-point numbers without a range; wanted 8 or 16 bits")
    if image.mode != "I" and not image.mode.startswith("I;"):
        return image
    values = np.asarray(image).astype(np.float64) * (255 / 65535)
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _require_frames(frames: int) -> None:
    if frames < MIN_FRAMES:
        raise VideoError(f"{frames} frame(s); a video needs at least {MIN_FRAMES}")


def _digest(source: Source) -> str:
    """SHA-256 of the file, or of the concatenated frames of a folder."""
    digest = hashlib.sha256()
    for file in source.files:
        with file.open("rb") as stream:
            for block in itertools.takewhile(bool, iter(lambda: stream.read(1 << 20), None)):
                digest.update(block)
    return digest.hexdigest()
