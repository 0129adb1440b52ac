"""Read tars sequentially with stock webdataset, for shards that have no index and cannot get one.

Use it to look at such tars and to repack them. Training reads by index, because sequential reading cannot promise that:
a tar that is cut at a member boundary looks complete, so samples can be missing silently; bytes are not verified; a
stream resumes only from its prefix; ranks end at different times; shuffling is limited to its buffer. Prefer
`videomae shards index`.
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

from videomae.data.errors import ShardError
from videomae.data.remote.fetch import as_url
from videomae.data.shards.index import MAX_MEMBER_BYTES, BoundedInfo
from videomae.data.shards.reader import Sample
from videomae.data.video import SUFFIXES, VideoError, probe

_log = logging.getLogger(__name__)


def read_sequentially(
    shards: Sequence[str],
    *,
    rank: int = 0,
    size: int = 1,
    shuffle_buffer: int = 0,
    seed: int = 0,
    allow_pipe: bool = False,
) -> Iterator[Sample]:
    """Yield the samples of this rank's shards once; `shuffle_buffer` samples are shuffled in memory.

    webdataset decodes nothing, so no pickle is opened. A `pipe:` address, which runs a command, is refused unless
    `allow_pipe` is set. A sample without a video is logged and skipped.

    Raises:
        ShardError: this rank has no shards, an address runs a command, or a tar cannot be read.
    """
    shards_of_rank = list(shards)[rank::size]
    if not shards_of_rank:
        raise ShardError(f"got {len(shards)} shard(s) for {size} ranks, none for rank {rank}; build smaller shards")
    for shard in shards_of_rank:
        if not allow_pipe and as_url(shard) is None and ":" in shard.partition("/")[0]:
            raise ShardError(
                f"{shard!r} would run a command or use an unknown scheme; pass allow_pipe=True if you trust it"
            )
    _log.warning(
        "reading without an index: truncated tars are not detected and samples are not verified; "
        "run `videomae shards index` first where you can"
    )
    stages = [SimpleShardList(shards_of_rank), pipelinefilter(url_opener)(), _members, pipelinefilter(group_by_keys)()]
    if shuffle_buffer:
        stages.append(shuffle(shuffle_buffer, seed=seed))
    try:
        for number, raw in enumerate(DataPipeline(*stages)):
            sample = _sample(number, raw)
            if sample is not None:
                yield sample
    except (OSError, EOFError, tarfile.TarError) as error:
        raise ShardError(f"{', '.join(shards_of_rank)}: {error}; copy the shard again") from None


def _members(opened: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the files of the tars like webdataset's own stage, and refuse a sample of over MAX_MEMBER_BYTES bytes."""
    for source in opened:
        url, sample, size = str(source["url"]), "", 0
        with tarfile.open(fileobj=source["stream"], mode="r|*", tarinfo=BoundedInfo) as archive:
            for member in archive:
                folder, _, base = member.name.rpartition("/")
                if not member.isfile() or base.startswith("__"):  # webdataset's metadata
                    continue
                prefix = folder + "/" + base.partition(".")[0]
                size = member.size + (size if prefix == sample else 0)
                sample = prefix
                if size > MAX_MEMBER_BYTES:
                    raise ShardError(f"{url}: {size} bytes for {member.name!r}; at most {MAX_MEMBER_BYTES} are allowed")
                file = archive.extractfile(member)
                yield {"fname": member.name, "data": file.read() if file else b"", "__url__": url}
                vars(archive)["members"].clear()  # tarfile keeps all members otherwise
        yield {}  # separates the samples of two tars


def _sample(number: int, raw: dict[str, Any]) -> Sample | None:
    video = next((value for suffix, value in raw.items() if f".{suffix}" in SUFFIXES), None)
    try:
        if video is None:
            raise VideoError("no video among its parts")
        info, meta = probe(video), json.loads(raw.get("json", b"{}"))
        label = int(raw.get("cls", meta.get("label", -1)))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        _log.warning("skipped %s in %s: %s", raw.get("__key__"), raw.get("__url__"), error)
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
