"""Verify every byte of a split's shards against its manifest."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from videomae.core import progress
from videomae.core.files import file_sha256
from videomae.data.errors import RemoteError, ShardError
from videomae.data.remote.cache import ShardCache
from videomae.data.remote.fetch import RemoteFolder
from videomae.data.shards.index import Entry, Index
from videomae.data.shards.manifest import FORMAT, Manifest, Shard
from videomae.data.video import VideoError, iter_frames


@dataclass(frozen=True, kw_only=True)
class ShardFault:
    """A difference from the manifest; `key` is empty if it concerns a whole shard."""

    shard: str
    key: str
    reason: str


def verify_shards(manifest: Manifest, *, decode: bool = False) -> list[ShardFault]:
    """List every fault of the split's files; with `decode`, also videos that do not decode to their frame count.

    Shards behind a URL are downloaded to this node's cache unless they are there, and verified in it.
    """
    faults: list[ShardFault] = []
    with progress.track(f"Verifying {manifest.split}", total=len(manifest.shards)) as task:
        for shard in manifest.shards:
            faults += [
                ShardFault(shard=shard.name, key=key, reason=reason)
                for key, reason in _find_faults(manifest, shard, decode=decode)
            ]
            task.advance(1, note=f"{len(faults)} faults" if faults else "")
    if manifest.url:
        return faults  # the cache may hold other files
    listed = {shard.name for shard in manifest.shards}
    for name in sorted(path.name for path in manifest.folder.glob("*.tar") if path.name not in listed):
        faults.append(ShardFault(shard=name, key="", reason="not in the manifest"))
    return faults


def old_rules(manifest: Manifest) -> str:
    """Say what may be wrong in shards of an older format, though every byte is as built; empty for the present one."""
    if manifest.format == FORMAT:
        return ""
    return (
        f"packed by the old rules ({manifest.format}): display matrices were ignored, variable frame rates shortened,"
        " and colours other than BT.601 of limited range stored wrongly; build again where the sources have such"
    )


def _find_faults(manifest: Manifest, shard: Shard, *, decode: bool) -> Iterator[tuple[str, str]]:
    """Yield the key, empty for the whole shard, and the reason of each fault."""
    tar, index_path = manifest.folder / shard.name, manifest.folder / shard.index_name
    try:
        if manifest.url:
            cache = ShardCache(RemoteFolder(manifest.url))
            cache.fetch(shard.name, size=shard.bytes, sha256=shard.sha256)
            cache.fetch_text(shard.index_name, sha256=shard.index_sha256)
        missing = [path.name for path in (tar, index_path) if not path.is_file()]
        if missing:
            yield "", f"{' and '.join(missing)} missing"
            return
        size = tar.stat().st_size
        if size != shard.bytes:
            yield "", f"{size} bytes, the manifest says {shard.bytes}"
        elif file_sha256(tar) != shard.sha256:
            yield "", "its SHA-256 differs from the manifest's"
        if file_sha256(index_path) != shard.index_sha256:
            yield "", f"the SHA-256 of {index_path.name} differs from the manifest's"
            return
        index = Index.from_json(index_path.read_text(errors="replace"), source=str(index_path))
    except (RemoteError, ShardError) as error:
        yield "", str(error)
        return
    if len(index) != shard.samples:
        yield "", f"{len(index)} samples, the manifest says {shard.samples}"
    with tar.open("rb") as file:
        for position in range(len(index)):
            entry = index[position]
            reason = _find_fault(os.pread(file.fileno(), entry.size, entry.offset), entry, decode=decode)
            if reason:
                yield entry.key, reason


def _find_fault(video: bytes, entry: Entry, *, decode: bool) -> str:
    if len(video) != entry.size:
        return f"truncated: {len(video)} of {entry.size} bytes"
    if zlib.crc32(video) != entry.crc32:
        return "its checksum differs from the index"
    if decode:
        try:
            frames = sum(1 for _ in iter_frames(video))
        except VideoError as error:
            return str(error)
        if frames != entry.frames:
            return f"{frames} frames decode, the index says {entry.frames}"
    return ""
