"""The run directory's disk, whether all ranks share it, and the shards."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.config import FinetuneConfig
from finetune.stream import check_labels, split
from launch.doctor.check import Answer, Check, CheckResult, Context, failed, name_ranks, passed, warned
from launch.plan.estimate import checkpoint_bytes
from launch.plan.model import ModelProfile, shard_folders
from pretrain.config import PretrainConfig
from videomae.data.datasets import DataSets
from videomae.data.shards.reader import ShardReader, read_manifest
from videomae.run.checkpoint.loading import check_shared_filesystem

_CHUNK, _CHUNKS = 2**23, 8  # bytes written to measure the speed
_GOOD_SPEED = 50e6  # bytes per second
_RESERVE = 2**30  # bytes beside the checkpoints


def _existing_folder(context: Context) -> Path:
    """The run directory, or its nearest parent that exists."""
    folder = context.run.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def probe_disk(context: Context) -> dict[str, Any]:
    """Free bytes, and bytes per second that reach the disk."""
    folder = _existing_folder(context)
    file = folder / f".doctor-{uuid.uuid4().hex}"
    free = shutil.disk_usage(folder).free
    count = max(1, min(_CHUNKS, free // (4 * _CHUNK)))
    chunk = os.urandom(_CHUNK)
    start = time.perf_counter()
    try:
        with file.open("wb") as stream:
            for _ in range(count):
                stream.write(chunk)
            stream.flush()
            os.fsync(stream.fileno())
        seconds = time.perf_counter() - start
    finally:
        file.unlink(missing_ok=True)
    return {"folder": str(folder), "free": free, "speed": count * _CHUNK / seconds}


def needed_bytes(context: Context) -> int:
    """Size of the kept checkpoints, one being written and a reserve; the reserve alone without a config."""
    if context.config is None:
        return _RESERVE
    return _RESERVE + (context.config.checkpoint.keep + 1) * checkpoint_bytes(ModelProfile(context.config))


def judge_disk(answers: Sequence[Answer], context: Context) -> list[CheckResult]:
    """Room for the checkpoints, and a speed that does not delay the run."""
    need = needed_bytes(context)
    fullest = min(answers, key=lambda answer: answer.value["free"])
    slowest = min(answers, key=lambda answer: answer.value["speed"])
    free, speed = fullest.value["free"], slowest.value["speed"]
    room = f"{free / 1e9:.1f} GB free in {fullest.value['folder']} on {fullest}, {need / 1e9:.1f} GB needed"
    if free < need:
        return failed(room, "free space there, type run=PATH on another disk, or checkpoint.keep=1")
    if speed < _GOOD_SPEED:
        remedy = "type run=PATH on a faster file system, or save less often (checkpoint.every)"
        return warned(f"{speed / 1e6:.0f} MB/s on {slowest}; {room}", remedy)
    return passed(f"{room}; {speed / 1e6:.0f} MB/s or more")


def probe_shared_folder(context: Context) -> str:
    """The folder, if all ranks see a file that rank 0 writes there; else the error that a run would end with."""
    check_shared_filesystem(_existing_folder(context), world=context.world)
    return str(_existing_folder(context))


def judge_shared_folder(answers: Sequence[Answer], context: Context) -> list[CheckResult]:
    return passed(f"{answers[0].value} is the same for all ranks")


def probe_shards(context: Context) -> dict[str, Any]:
    """Read the first and the last sample of each data set; for fine-tuning, also all labels."""
    assert context.config is not None
    if isinstance(context.config, FinetuneConfig):
        for name in ("train", "val"):
            check_labels(split(context.config, name))
    samples, start = 0, time.perf_counter()
    for folder in shard_folders(context.config):
        manifest = read_manifest(folder)
        reader = ShardReader(manifest)
        for sample in {0, manifest.samples - 1}:
            reader.read(sample)
        reader.close()
        samples += manifest.samples
    if isinstance(context.config, PretrainConfig):
        samples = DataSets.read(context.config.data.shards).samples  # synthetic clips count, their images are opened
    return {"samples": samples, "seconds": time.perf_counter() - start}


def judge_shards(answers: Sequence[Answer], context: Context) -> list[CheckResult]:
    samples = answers[0].value["samples"]
    other = [answer for answer in answers if answer.value["samples"] != samples]
    if other:
        counts = ", ".join(map(str, sorted({answer.value["samples"] for answer in answers})))
        remedy = "copy the same shards to every host: videomae shards verify"
        return failed(f"{counts} samples; another number than rank 0 on {name_ranks(other)}", remedy)
    slowest = max(answer.value["seconds"] for answer in answers)
    return passed(f"{samples} samples, first and last read on {len(answers)} ranks, in at most {slowest:.2f} s")


CHECKS = (
    Check(name="disk", probe=probe_disk, judge=judge_disk, timeout=60),
    Check(
        name="shared run directory", probe=probe_shared_folder, judge=judge_shared_folder, collective=True, min_ranks=2
    ),
    Check(
        name="shards", probe=probe_shards, judge=judge_shards, timeout=60, applies=lambda context: bool(context.config)
    ),
)
