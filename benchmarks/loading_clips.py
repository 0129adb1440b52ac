"""The clips that a loading benchmark runs on: originals, short side 320, and shards as `build` makes by default."""

from __future__ import annotations

import dataclasses
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videomae.core import progress
from videomae.data.build.build import BuildConfig, build
from videomae.data.build.sources import find_sources
from videomae.data.errors import SourceError
from videomae.data.shards.manifest import Manifest
from videomae.data.video import EncodingConfig, VideoError, decode, probe, transcode

# What ffmpeg makes of a file when only the size is asked for: x264's defaults.
_RESIZED = EncodingConfig(short_side=320, fps=None, gop=250, b_frames=3, preset="medium", fast_decode=False)


@dataclass(frozen=True, kw_only=True)
class Clips:
    """The same clips three times over; `originals` and `resized` in one order."""

    originals: tuple[Path, ...]
    resized: tuple[Path, ...]
    manifest: Manifest
    packing: Packing


@dataclass(frozen=True, kw_only=True)
class Packing:
    """What packing costs once: CPU seconds and bytes a clip, and PSNR against frames stored all but losslessly."""

    seconds_per_clip: float
    kilobytes_original: float
    kilobytes_resized: float
    kilobytes_packed: float
    psnr: float


def prepare(source: Path, folder: Path, *, count: int, shards: int) -> Clips:
    """Copy `count` clips of `source`, resize them, pack them into that many `shards` or more.

    Raises:
        SourceError: no clips, or fewer than shards.
        BuildError: they cannot be packed.
    """
    originals = _copy(source, folder / "originals", count)
    if len(originals) < shards:
        raise SourceError(f"{len(originals)} readable clips for {shards} workers; give more --clips or fewer --workers")
    resized = []
    with progress.track("Resizing to 320", total=len(originals)) as task:
        for path in originals:
            resized.append(folder / "resized" / path.with_suffix(".mp4").name)
            resized[-1].parent.mkdir(exist_ok=True)
            resized[-1].write_bytes(transcode(path, _RESIZED))
            task.advance()
    start = time.process_time()
    parts = max(shards, min(4, len(originals)))
    config = BuildConfig(samples_per_shard=len(originals) // parts)  # else as by default
    manifest = build(find_sources(folder / "originals", unlabelled=True), folder / "shards", config).manifests["train"]
    seconds = time.process_time() - start
    packing = Packing(
        seconds_per_clip=seconds / len(originals),
        kilobytes_original=_kilobytes(originals),
        kilobytes_resized=_kilobytes(resized),
        kilobytes_packed=sum(shard.bytes for shard in manifest.shards) / 1000 / len(originals),
        psnr=float(np.median([_psnr(path, config.encoding) for path in originals[:: max(1, len(originals) // 10)]])),
    )
    return Clips(originals=tuple(originals), resized=tuple(resized), manifest=manifest, packing=packing)


def _copy(source: Path, folder: Path, count: int) -> list[Path]:
    listed = [video.path for videos in find_sources(source).splits.values() for video in videos if video.path.is_file()]
    folder.mkdir(parents=True)
    copied: list[Path] = []
    for place in np.unique(np.linspace(0, len(listed) - 1, min(4 * count, len(listed))).round().astype(int)):
        try:
            probe(listed[place])
        except VideoError:
            continue
        copied.append(folder / f"{len(copied):04d}{listed[place].suffix}")
        shutil.copyfile(listed[place], copied[-1])
    if not copied:
        raise SourceError(f"no readable video files in {source}; the benchmark takes files, not folders of frames")
    kept = set(np.linspace(0, len(copied) - 1, min(count, len(copied))).round().astype(int).tolist())
    for place, path in enumerate(copied):
        if place not in kept:
            path.unlink()
    return [path for place, path in enumerate(copied) if place in kept]


def _psnr(path: Path, encoding: EncodingConfig) -> float:
    stored = transcode(path, encoding)
    reference = transcode(path, dataclasses.replace(encoding, crf=1))
    index_T = np.arange(0, probe(stored).frames, 4)
    error = decode(stored, index_T).astype(np.float32) - decode(reference, index_T).astype(np.float32)
    return float(10 * np.log10(255**2 / max(float((error**2).mean()), 1e-6)))


def _kilobytes(files: list[Path]) -> float:
    return sum(path.stat().st_size for path in files) / 1000 / len(files)
