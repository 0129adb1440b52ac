"""Disks: the run's directory, whether all ranks mean the same one by it, and the shards."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from launch.doctor.finding import Answer, Context, Finding, by_host, places
from launch.plan.estimate import checkpoint_bytes
from launch.plan.model import ModelProfile, shard_folders
from videomae.data.shards.manifest import Manifest
from videomae.data.shards.reader import ShardReader

DISK, SHARED, SHARDS = "disk", "shared run directory", "shards"
CHUNK, CHUNKS = 2**23, 8  # bytes written to measure
SLOW = 50e6  # bytes a second
SPARE = 2**30


def has_run(context: Context) -> bool:
    return context.run is not None


def has_config(context: Context) -> bool:
    return context.config is not None


def _folder(context: Context) -> Path:
    """The run's directory, or the nearest folder above it that is there."""
    folder = (context.run or Path()).absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def probe_disk(context: Context) -> dict[str, Any]:
    """Free bytes, and bytes a second that reach the disk."""
    folder = _folder(context)
    file = folder / f".doctor-{uuid.uuid4().hex}"
    free = shutil.disk_usage(folder).free
    size = CHUNK * max(1, min(CHUNKS, free // (4 * CHUNK)))
    chunk = os.urandom(CHUNK)
    start = time.perf_counter()
    try:
        with file.open("wb") as stream:
            for _ in range(size // CHUNK):
                stream.write(chunk)
            stream.flush()
            os.fsync(stream.fileno())
        seconds = time.perf_counter() - start
    finally:
        file.unlink(missing_ok=True)
    return {"folder": str(folder), "free": free, "rate": size / seconds}


def needed_bytes(context: Context) -> int:
    """What the kept checkpoints and one that is being written take; a little without a config."""
    if context.config is None:
        return SPARE
    kept = context.config.checkpoint.keep + 1
    return SPARE + kept * checkpoint_bytes(ModelProfile(context.config))


def judge_disk(answers: Sequence[Answer], context: Context) -> list[Finding]:
    """Room for the checkpoints, and a speed that does not hold up the run."""
    need = needed_bytes(context)
    fullest = min(answers, key=lambda answer: answer.value["free"])
    free, folder = fullest.value["free"], fullest.value["folder"]
    room = f"{free / 1e9:.1f} GB free in {folder} ({fullest.place}), {need / 1e9:.1f} GB wanted"
    if free < need:
        return [Finding(DISK, "red", room, "free space there, type run=PATH on another disk, or checkpoint.keep=1")]
    slowest = min(answers, key=lambda answer: answer.value["rate"])
    rate = f"{slowest.value['rate'] / 1e6:.0f} MB/s"
    if slowest.value["rate"] < SLOW:
        remedy = "type run=PATH on a faster file system, or save less often (checkpoint.every)"
        return [Finding(DISK, "yellow", f"{rate} on {slowest.place}; {room}", remedy)]
    return [Finding(DISK, "green", f"{room}; {rate} or more")]


def probe_shared(context: Context) -> bool:
    """Whether this rank sees what rank 0 has just written beside the run's directory."""
    folder = context.world.share(str(_folder(context)))
    token = context.world.share(uuid.uuid4().hex)
    file = Path(folder) / f".doctor-{token}"
    if context.world.first:
        with suppress(OSError):  # then nobody sees it, which is the finding
            file.write_text(token)
    context.world.barrier()
    seen = _sees(file, token)
    context.world.barrier()
    if context.world.first:
        file.unlink(missing_ok=True)
    return seen


def _sees(file: Path, token: str) -> bool:
    for _ in range(10):  # network file systems show new files late
        with suppress(OSError):
            if file in file.parent.iterdir() and file.read_text() == token:  # listing makes NFS look again
                return True
        time.sleep(0.2)
    return False


def judge_shared(answers: Sequence[Answer], context: Context) -> list[Finding]:
    """All ranks see one directory."""
    blind = [answer for answer in answers if not answer.value]
    if blind:
        remedy = "put run= on a file system that all hosts mount at the same path; checkpoints need it"
        return [
            Finding(SHARED, "red", f"what rank 0 writes in {_folder(context)} is not seen by {places(blind)}", remedy)
        ]
    return [Finding(SHARED, "green", f"{_folder(context)} is the same for all ranks")]


def probe_shards(context: Context) -> dict[str, Any]:
    """Read the first and the last sample of each data set."""
    assert context.config is not None
    samples, start = 0, time.perf_counter()
    for folder in shard_folders(context.config):
        manifest = Manifest.read(folder)
        reader = ShardReader(manifest)
        for sample in {0, manifest.samples - 1}:
            reader.read(sample)
        reader.close()
        samples += manifest.samples
    return {"samples": samples, "seconds": time.perf_counter() - start}


def judge_shards(answers: Sequence[Answer], context: Context) -> list[Finding]:
    """All ranks read the same data set."""
    counts = sorted({answer.value["samples"] for answer in answers})
    if len(counts) > 1:
        odd = [answer for answer in answers if answer.value["samples"] != answers[0].value["samples"]]
        said = f"{', '.join(map(str, counts))} samples; another number than rank 0 on {places(odd)}"
        return [
            Finding(SHARDS, "red", said, "copy the same shards to every host: python -m videomae.data.shards verify")
        ]
    slowest = max(by_host(answers), key=lambda answer: answer.value["seconds"])
    said = f"{counts[0]} samples, first and last read on every rank, in at most {slowest.value['seconds']:.2f} s"
    return [Finding(SHARDS, "green", said)]
