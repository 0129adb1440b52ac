"""Mutates tars and videos and reads them: no crash, no hang, no sample that was never there.

    python -m tests.faults.fuzz_shards --tars 2000 --videos 2000 [--seed 0]

Each reading runs in this process: a crash or a hang ends it, and so fails the test that started it.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.splits import write_split
from videomae.core.files import file_sha256
from videomae.data.errors import ShardError
from videomae.data.shards.index import index_tar
from videomae.data.shards.manifest import Manifest
from videomae.data.shards.reader import ShardReader, read_manifest
from videomae.data.video import (
    MAX_FRAMES,
    EncodingConfig,
    VideoError,
    decode,
    decode_boxes,
    decode_with_demuxer,
    encode,
    probe,
    transcode,
)

SECONDS_PER_CASE = 20
STRANGE = (None, -1, 0, 1, 1.5, 1e300, 2**40, 2**80, float("inf"), "x", [], {}, True)
_STORED = EncodingConfig(short_side=None, fps=None)


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """One to four cuts, flips, overwritten, repeated, removed or zeroed stretches."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        if not data:
            break
        start = int(rng.integers(len(data)))
        length = int(min(len(data) - start, 2 ** rng.integers(0, 12)))
        kind = rng.integers(7)
        if kind == 0:
            del data[start:]
        elif kind == 1:
            data[start] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            data[start : start + length] = rng.bytes(length)
        elif kind == 3:
            data[start:start] = data[start : start + length]
        elif kind == 4:
            del data[start : start + length]
        elif kind == 5:
            data[start : start + length] = bytes(length)
        else:
            data[start : start + 4] = bytes([0xFF, 0xFF, 0xFF, 0xFF])[: len(data[start : start + 4])]
    return bytes(data)


def noise(folder: Path, seed: int) -> tuple[Manifest, list[bytes]]:
    """A split of one shard of six samples, and their videos."""
    rng = np.random.default_rng(seed)
    videos = [rng.bytes(int(rng.integers(200, 1500))) for _ in range(6)]
    return write_split(folder, {f"{n:03d}": video for n, video in enumerate(videos)}, classes=("a",)), videos


def fuzz_tars(count: int, seed: int, folder: Path) -> Counter[str]:
    """Index mutated tars; every sample that comes out is one that went in, by the bytes of its video."""
    known = set(noise(folder, seed)[1])
    whole = (folder / "000000.tar").read_bytes()
    outcomes: Counter[str] = Counter()
    for case in range(count):
        content = mutate(whole, np.random.default_rng([seed, case]))
        path = folder / "mutated.tar"
        path.write_bytes(content)
        faulthandler.dump_traceback_later(SECONDS_PER_CASE, exit=True)
        try:
            index = index_tar(path)
        except ShardError:
            outcomes["refused"] += 1
            continue
        entries = [index[place] for place in range(len(index))]
        videos = [content[entry.offset : entry.offset + entry.size] for entry in entries]
        changed = sum(video not in known for video in videos)
        assert changed <= 4, f"case {case}: {changed} samples that were never written"  # one for each mutation
        assert all(len(video) == entry.size for video, entry in zip(videos, entries, strict=True)), case
        outcomes["data changed" if changed else "read"] += 1
    return outcomes


def fuzz_reading(count: int, seed: int, folder: Path) -> Counter[str]:
    """Read shards of which the tar, the index or the manifest is mutated: what went in comes out, or an error."""
    _, videos = noise(folder, seed)
    files = [folder / "000000.tar", folder / "000000.index.json", folder / "manifest.json"]
    whole = {file: file.read_bytes() for file in files}
    outcomes: Counter[str] = Counter()
    for case in range(count):
        mutated = files[case % 3]
        mutated.write_bytes(mutate(whole[mutated], np.random.default_rng([seed, case])))
        faulthandler.dump_traceback_later(SECONDS_PER_CASE, exit=True)
        try:
            reader = ShardReader(read_manifest(folder))
            for number in range(min(len(reader), 20)):
                try:
                    sample = reader.read(number)
                except ShardError:
                    outcomes["sample refused"] += 1
                    continue
                assert sample.video == videos[number], f"case {case}: sample {number} was never written"
                assert sample.key == f"{number:03d}", case
                outcomes["read"] += 1
        except ShardError:
            outcomes["set refused"] += 1
        finally:
            mutated.write_bytes(whole[mutated])
    return outcomes


def fuzz_signed(count: int, seed: int, folder: Path) -> Counter[str]:
    """Read shards whose index is mutated, and its checksum in the manifest with it: whole samples, or an error."""
    manifest, videos = noise(folder, seed)
    file = folder / "000000.index.json"
    whole = file.read_bytes()
    outcomes: Counter[str] = Counter()
    for case in range(count):
        rng = np.random.default_rng([seed, case])
        columns = json.loads(whole)
        columns[rng.choice(list(columns))][int(rng.integers(6))] = STRANGE[int(rng.integers(len(STRANGE)))]
        file.write_bytes(mutate(whole, rng) if case % 2 else json.dumps(columns).encode())
        shard = replace(manifest.shards[0], index_sha256=file_sha256(file))
        reader = ShardReader(replace(manifest, shards=(shard,)))
        faulthandler.dump_traceback_later(SECONDS_PER_CASE, exit=True)
        for number in range(6):
            try:
                sample = reader.read(number)
            except ShardError:
                outcomes["refused"] += 1
                continue
            assert sample.video in videos, case
            assert sample.label in (-1, 0), case
            assert 0 < sample.frames <= MAX_FRAMES, case
            outcomes["read"] += 1
    return outcomes


def fuzz_videos(count: int, seed: int) -> Counter[str]:
    """Probe, decode and transcode mutated videos; what comes out has the shape that was asked for."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 255, (12, 48, 64, 3), dtype=np.uint8)
    smooth = np.clip(frames // 8 + np.arange(12, dtype=np.uint8)[:, None, None, None] * 10, 0, 255).astype(np.uint8)
    videos = [
        encode(smooth, 10, _STORED),
        encode(smooth, 10, EncodingConfig(short_side=None, fast_decode=False, b_frames=2, gop=5)),
        encode(smooth, 10, EncodingConfig(codec="jpeg")),
    ]
    outcomes: Counter[str] = Counter()
    for case in range(count):
        content = mutate(videos[case % len(videos)], np.random.default_rng([seed, case]))
        faulthandler.dump_traceback_later(SECONDS_PER_CASE, exit=True)
        try:
            info = probe(content)
            assert info.frames > 0, case
            index_T = np.array([0, info.frames // 2, info.frames - 1])
            found = decode(content, index_T)
            assert found.shape[0] == 3, case
            assert found.dtype == np.uint8, case
            assert np.array_equal(decode_boxes(content, index_T, None)[0], found), case
            decode_with_demuxer(content, index_T)[0]
            if case % 4 == 0:
                transcode(content, EncodingConfig(short_side=32))
        except VideoError:
            outcomes["refused"] += 1
            continue
        outcomes["decoded"] += 1
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the reading of tars and videos.")
    parser.add_argument("--tars", type=int, default=2000)
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        print("tars", dict(fuzz_tars(arguments.tars, arguments.seed, Path(folder))), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        print("with a manifest", dict(fuzz_reading(arguments.tars, arguments.seed, Path(folder))), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        print("with a signed index", dict(fuzz_signed(arguments.tars, arguments.seed, Path(folder))), flush=True)
    print("videos", dict(fuzz_videos(arguments.videos, arguments.seed)), flush=True)
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
