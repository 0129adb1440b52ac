"""Reads tars in sequence with stock webdataset, for shards that have no index and cannot get one.

What it cannot promise, where an index can: a tar cut at a member's end passes for whole, so samples can be missing
without a word; a sample's bytes are not checked; a stream resumes only from its beginning; ranks get what their shards
hold, so they end at different times; shuffling reaches no farther than its buffer. Prefer the command `index`.
"""

from __future__ import annotations

import json
import logging
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from webdataset.filters import pipelinefilter, shuffle
from webdataset.pipeline import DataPipeline
from webdataset.shardlists import SimpleShardList
from webdataset.tariterators import group_by_keys, url_opener

from videomae.data.remote.fetch import as_url
from videomae.data.shards.index import MAX_MEMBER_BYTES, BoundedInfo
from videomae.data.shards.manifest import ShardError
from videomae.data.shards.reader import Sample
from videomae.data.video import SUFFIXES, VideoError, probe

_log = logging.getLogger(__name__)


def read_in_sequence(
    shards: Sequence[str], *, rank: int = 0, size: int = 1, mix: int = 0, seed: int = 0, allow_pipe: bool = False
) -> Iterator[Sample]:
    """The samples of this rank's shards, one pass. `mix` is the number of samples that are shuffled in memory.

    Nothing is decoded by webdataset, so no pickle is ever opened; a `pipe:` address, which runs a command, is refused
    unless `allow_pipe` is passed. A sample that is no video is logged and left out.

    Raises:
        ShardError: no shards for this rank, an address that runs a command, or a tar that cannot be read.
    """
    mine = list(shards)[rank::size]
    if not mine:
        raise ShardError(f"{len(shards)} shard(s) for {size} ranks leave rank {rank} without any; build smaller shards")
    for shard in mine:
        if not allow_pipe and as_url(shard) is None and ":" in shard.partition("/")[0]:
            raise ShardError(
                f"{shard!r} would run a command or use an unknown scheme; pass allow_pipe=True if you trust it"
            )
    _log.warning("reading without an index: cut tars go unseen, and no sample is checked; better run `index` first")
    stages = [SimpleShardList(mine), pipelinefilter(url_opener)(), _members, pipelinefilter(group_by_keys)()]
    if mix:
        stages.append(shuffle(mix, seed=seed))
    try:
        for number, raw in enumerate(DataPipeline(*stages)):
            sample = _sample(number, raw)
            if sample is not None:
                yield sample
    except (OSError, EOFError, tarfile.TarError) as error:
        raise ShardError(f"{', '.join(mine)}: {error}; copy the shard again") from None


def _members(opened: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The files of tars, as webdataset's own stage gives them, but no sample of more than a member may hold."""
    for source in opened:
        url, sample, size = str(source["url"]), "", 0
        with tarfile.open(fileobj=source["stream"], mode="r|*", tarinfo=BoundedInfo) as archive:
            for member in archive:
                folder, _, base = member.name.rpartition("/")
                if not member.isfile() or base.startswith("__"):  # webdataset's notes
                    continue
                beginning = folder + "/" + base.partition(".")[0]
                size = member.size + (size if beginning == sample else 0)
                sample = beginning
                if size > MAX_MEMBER_BYTES:
                    raise ShardError(f"{url}: {size} bytes for {member.name!r}; at most {MAX_MEMBER_BYTES} are read")
                file = archive.extractfile(member)
                yield {"fname": member.name, "data": file.read() if file else b"", "__url__": url}
                vars(archive)["members"].clear()  # or it would remember all
        yield {}  # so that no sample is made of two tars


def _sample(number: int, raw: dict[str, Any]) -> Sample | None:
    video = next((value for suffix, value in raw.items() if f".{suffix}" in SUFFIXES), None)
    try:
        if video is None:
            raise VideoError("no video among its parts")
        info, meta = probe(video), json.loads(raw.get("json", b"{}"))
        label = int(raw.get("cls", meta.get("label", -1)))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        _log.warning("left out %s in %s: %s", raw.get("__key__"), raw.get("__url__"), error)
        return None
    return Sample(
        id=number,
        key=raw["__key__"],
        shard=str(raw["__url__"]).rpartition("/")[2],
        video=video,
        label=label,
        group=str(meta.get("group", raw["__key__"])),
        frames=info.frames,
        fps=info.fps,
        width=info.width,
        height=info.height,
    )
