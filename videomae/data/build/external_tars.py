"""Index WebDataset tars of videos from any writer, and write the indexes and manifest of a build beside them.

The tars are not changed. The label is KEY.cls, or `label` in KEY.json: a number or a class name; -1 without either.
Frame count, frame rate and size are those that the video decodes to. A key ends at the first dot; where several videos
share one, as with names such as a.v1.mp4 and a.v2.mp4, each is a sample, whose other members have its name up to the
last dot.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from videomae.core import progress
from videomae.core.files import file_sha256, write_atomic
from videomae.data.build.classes import UNLABELLED, Classes, Label, LabelError, parse_label, resolve_classes
from videomae.data.build.packing import MIN_FRAMES, spawn_pool
from videomae.data.errors import ShardError
from videomae.data.shards.index import Entry, Index, TarSample, tar_samples
from videomae.data.shards.manifest import Manifest, Remark, Shard, SkippedSource
from videomae.data.video import SUFFIXES, VideoError, probe

_COMPRESSED = re.compile(r"\.(tgz|tbz2?|txz|tar\.(gz|bz2|xz|lzma|lz4|zst|z))$", re.IGNORECASE)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Labelled:
    """An entry whose label is not yet a class index, and where its label stands."""

    entry: Entry
    label: Label | None
    place: str
    remarks: tuple[str, ...] = ()


def index_folder(folder: Path, *, classes: Sequence[str] = (), workers: int = 1) -> list[Manifest]:
    """Index every tar of `folder`, or of its subfolders, each of which is a split, and write the manifests.

    `classes` names numeric labels. All splits get the same classes. Every video is decoded, to count the frames that
    can be; `workers` processes share the tars.

    Raises:
        ShardError: no tars, a truncated or damaged tar, no usable sample, or one that kills the process decoding it.
        LabelError: labels that contradict each other or denote no class.
    """
    splits = _find_tars(folder)
    skipped: dict[Path, list[SkippedSource]] = {path: [] for path in splits}
    found: dict[Path, list[_Labelled]] = {}
    with progress.track("Indexing", total=sum(map(len, splits.values()))) as task:
        for path, tars in splits.items():
            for tar, (entries, left_out) in zip(tars, _read_all(folder, tars, workers), strict=True):
                found[tar] = entries
                skipped[path] += left_out
                task.advance(1, note=f"{len(skipped[path])} skipped" if skipped[path] else "")
    for path, tars in splits.items():
        if not any(found[tar] for tar in tars):
            first = f": {skipped[path][0].source}: {skipped[path][0].reason}" if skipped[path] else ""
            raise ShardError(f"no usable sample in {path}{first}")
    listed = [each for entries in found.values() for each in entries]
    resolved = resolve_classes([(each.label, each.place) for each in listed], classes)
    missing = [each for each in listed if each.label is None]
    if 0 < len(missing) < len(listed):
        _log.warning(
            "%d of %d samples have no label, such as %s; pretraining takes them, fine-tuning refuses the split",
            len(missing), len(listed), missing[0].place,
        )  # fmt: skip
    return [
        _write_split(path, {tar: found[tar] for tar in tars}, resolved, skipped[path]) for path, tars in splits.items()
    ]


def _find_tars(folder: Path) -> dict[Path, list[Path]]:
    """The tars of each split: those of `folder`, or of its subfolders. Others are warned of. Raises ShardError."""
    below = {path: sorted(path.glob("*.tar")) for path in sorted(folder.glob("*/")) if any(path.glob("*.tar"))}
    own = sorted(path for path in folder.glob("*.tar") if path.is_file())
    splits = {folder: own} if own else below
    packed = [path for place in (folder, *below) for path in sorted(place.glob("*")) if _COMPRESSED.search(path.name)]
    if not splits:
        hint = f": unpack {packed[0].name} and the like first, which cannot be read by offset" if packed else ""
        raise ShardError(f"no .tar files in {folder}{hint or '; name the folder that holds them'}")
    for path in below if own else ():
        _log.warning("%s holds tars too, which are not indexed; index that folder by itself", path)
    if packed:
        _log.warning("%d compressed tars are not indexed, such as %s; unpack them first", len(packed), packed[0])
    return splits


def _write_split(
    folder: Path, found: dict[Path, list[_Labelled]], classes: Classes, skipped: list[SkippedSource]
) -> Manifest:
    shards = tuple(
        _write_index(tar, Index([replace(each.entry, label=classes.index(each.label)) for each in entries]))
        for tar, entries in found.items()
        if entries
    )
    remarks = [
        Remark(source=f"{tar.name}/{each.entry.key}", text=text)
        for tar, entries in found.items()
        for each in entries
        for text in each.remarks
    ]
    for remark in remarks:
        _log.warning("%s: %s", remark.source, remark.text)
    manifest = Manifest(
        folder=folder,
        split=folder.name,
        classes=classes.names,
        shards=shards,
        skipped=tuple(skipped),
        remarks=tuple(remarks),
    )
    manifest.write()
    return manifest


def _read_all(
    folder: Path, tars: Sequence[Path], workers: int
) -> Iterator[tuple[list[_Labelled], list[SkippedSource]]]:
    shown = [tar.relative_to(folder).as_posix() for tar in tars]
    if workers <= 1 or len(tars) == 1:
        yield from map(_read_entries, tars, shown)
        return
    with spawn_pool(min(workers, len(tars))) as pool:
        try:
            yield from pool.map(_read_entries, tars, shown)
        except BrokenProcessPool:
            raise ShardError(
                f"a process that decoded videos of {tars[0].parent} died: a file is damaged, or memory ran out;"
                " index with --workers 1 to see at which tar"
            ) from None


def _read_entries(tar: Path, shown: str) -> tuple[list[_Labelled], list[SkippedSource]]:
    found: list[_Labelled] = []
    skipped: list[SkippedSource] = []
    for sample in (part for whole in tar_samples(tar) for part in _split_videos(whole)):
        try:
            found.append(_read_entry(sample, f"{shown}/{sample.key}"))
        except VideoError as error:
            skipped.append(SkippedSource(source=f"{tar.name}/{sample.key}", reason=str(error)))
    return found, skipped


def _split_videos(sample: TarSample) -> Iterator[TarSample]:
    """The sample, or if its members are several videos or have further dots, one sample for each video."""
    videos = [suffix for suffix in sample.parts if f".{suffix.rpartition('.')[2]}" in SUFFIXES]
    if len(videos) < 2 and all("." not in suffix for suffix in videos):
        yield sample
        return
    shared = {suffix: sample.parts[suffix] for suffix in ("cls", "json") if suffix in sample.parts}
    for video in videos:
        stem, dot, kind = video.rpartition(".")
        start = stem + dot
        own = {suffix.removeprefix(start): sample.parts[suffix] for suffix in sample.parts if suffix.startswith(start)}
        key = f"{sample.key}.{stem}" if stem else f"{sample.key}.{video}" if video != videos[0] else sample.key
        yield TarSample(key=key, parts=(shared | own if stem else shared) | {kind: sample.parts[video]})


def _read_entry(sample: TarSample, place: str) -> _Labelled:
    if sample.video is None:
        raise VideoError(f"no video among its members: {', '.join(sample.parts)}")
    offset, video = sample.video
    info = probe(video, decode=True)
    if info.frames < MIN_FRAMES:
        raise VideoError(f"{info.frames} frame(s); a video needs at least {MIN_FRAMES}")
    meta = _read_meta(sample)
    folder, slash, base = sample.key.rpartition("/")
    entry = Entry(
        key=sample.key,
        offset=offset,
        size=len(video),
        crc32=zlib.crc32(video),
        label=UNLABELLED,
        group=str(meta.get("group", folder + slash + base.partition(".")[0])),
        frames=info.frames,
        fps=info.fps,
        width=info.width,
        height=info.height,
        sha256=hashlib.sha256(video).hexdigest(),
    )
    return _Labelled(entry, _read_label(sample, meta, place), place, info.remarks)


def _read_label(sample: TarSample, meta: dict[str, Any], place: str) -> Label | None:
    """The label of KEY.cls or KEY.json. Raises LabelError if both have one of the same kind, but not the same."""
    text, value = parse_label(sample.text("cls"), f"{place}.cls"), parse_label(meta.get("label"), f"{place}.json")
    if text is not None and value is not None and type(text) is type(value) and text != value:
        raise LabelError(f"{place} has two labels: {text} in its .cls and {value} in its .json; correct one")
    return value if text is None else text


def _read_meta(sample: TarSample) -> dict[str, Any]:
    text = sample.text("json")
    try:
        meta = json.loads(text) if text is not None else {}
    except (ValueError, RecursionError) as error:
        raise VideoError(f"invalid JSON: {error}") from None
    return meta if isinstance(meta, dict) else {}


def _write_index(tar: Path, index: Index) -> Shard:
    path = tar.with_name(tar.name.removesuffix(".tar") + ".index.json")
    write_atomic(path, index.to_json())
    return Shard(
        name=tar.name,
        samples=len(index),
        bytes=tar.stat().st_size,
        sha256=file_sha256(tar),
        index_sha256=file_sha256(path),
    )
