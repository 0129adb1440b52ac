"""Checks every byte of a split's shards against its manifest and names every fault."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from videomae.core import progress
from videomae.core.files import file_sha256
from videomae.data.errors import RemoteError, ShardError
from videomae.data.remote.cache import ShardCache
from videomae.data.remote.fetch import RemoteFolder
from videomae.data.shards.index import Entry, Index
from videomae.data.shards.manifest import Manifest, Shard
from videomae.data.video import VideoError, iter_frames


@dataclass(frozen=True, kw_only=True)
class ShardFault:
    """Something that is not as the manifest says; `key` is empty where a whole shard is meant."""

    shard: str
    key: str
    reason: str


def verify(manifest: Manifest, *, decode: bool = False) -> list[ShardFault]:
    """Every fault of the split's files; with `decode`, also every video that does not decode to its frames.

    Of shards behind a URL, this node's copies are checked; those that it has not are downloaded.
    """
    findings: list[ShardFault] = []
    with progress.track(f"Verifying {manifest.split}", total=len(manifest.shards)) as task:
        for shard in manifest.shards:
            findings += _fetch(manifest, shard) or _verify_shard(manifest.folder, shard, decode=decode)
            task.advance(1, note=f"{len(findings)} faults" if findings else "")
    if manifest.url:
        return findings  # what else lies in the node's cache is no fault
    known = {shard.name for shard in manifest.shards}
    for stray in sorted(path.name for path in manifest.folder.glob("*.tar") if path.name not in known):
        findings.append(ShardFault(shard=stray, key="", reason="not in the manifest"))
    return findings


def _fetch(manifest: Manifest, shard: Shard) -> list[ShardFault]:
    """Have a remote shard and its index here; nothing to do for local ones."""
    if manifest.url:
        cache = ShardCache(RemoteFolder(manifest.url))
        try:
            cache.fetch(shard.name, size=shard.bytes, sha256=shard.sha256)
            cache.fetch_text(shard.index_name, sha256=shard.index_sha256)
        except (RemoteError, ShardError) as error:
            return [ShardFault(shard=shard.name, key="", reason=str(error))]
    return []


def _verify_shard(folder: Path, shard: Shard, *, decode: bool) -> Iterator[ShardFault]:
    tar, index_path = folder / shard.name, folder / shard.index_name
    missing = [path.name for path in (tar, index_path) if not path.is_file()]
    if missing:
        yield ShardFault(shard=shard.name, key="", reason=f"{' and '.join(missing)} missing")
        return
    size = tar.stat().st_size
    if size != shard.bytes:
        yield ShardFault(shard=shard.name, key="", reason=f"{size} bytes, the manifest says {shard.bytes}")
    elif file_sha256(tar) != shard.sha256:
        yield ShardFault(shard=shard.name, key="", reason="its SHA-256 is not the manifest's")
    if file_sha256(index_path) != shard.index_sha256:
        yield ShardFault(
            shard=shard.name, key="", reason=f"{index_path.name} is not the one that the manifest speaks of"
        )
        return
    try:
        index = Index.from_json(index_path.read_text(errors="replace"), source=str(index_path))
    except ShardError as error:
        yield ShardFault(shard=shard.name, key="", reason=str(error))
        return
    if len(index) != shard.samples:
        yield ShardFault(shard=shard.name, key="", reason=f"{len(index)} samples, the manifest says {shard.samples}")
    with tar.open("rb") as file:
        for place in range(len(index)):
            entry = index[place]
            reason = _fault(os.pread(file.fileno(), entry.size, entry.offset), entry, decode=decode)
            if reason:
                yield ShardFault(shard=shard.name, key=entry.key, reason=reason)


def _fault(video: bytes, entry: Entry, *, decode: bool) -> str:
    if len(video) != entry.size:
        return f"cut: {len(video)} of {entry.size} bytes"
    if zlib.crc32(video) != entry.crc32:
        return "its bytes changed: wrong checksum"
    if decode:
        try:
            frames = sum(1 for _ in iter_frames(video))
        except VideoError as error:
            return str(error)
        if frames != entry.frames:
            return f"{frames} frames decode, the index says {entry.frames}"
    return ""
