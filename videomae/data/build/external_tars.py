"""Index WebDataset tars of videos from any writer, and write the indexes and manifest of a build beside them.

The tars are not changed. The label is KEY.cls, or `label` in KEY.json: a number or a class name; -1 without either.
Frame count, frame rate and size are probed from the video.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from videomae.core import progress
from videomae.core.files import file_sha256, write_atomic
from videomae.data.build.packing import MIN_FRAMES
from videomae.data.errors import ShardError
from videomae.data.shards.index import Entry, Index, TarSample, tar_samples
from videomae.data.shards.manifest import Manifest, Shard, SkippedSource
from videomae.data.video import VideoError, probe

_Labelled = tuple[Entry, str | int | None]


def index_folder(folder: Path, *, classes: Sequence[str] = ()) -> Manifest:
    """Index every tar of `folder` and write its manifest; `classes` names numeric labels.

    Raises:
        ShardError: no tars, a truncated or damaged tar, no usable sample, or a label without a class.
    """
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise ShardError(f"no .tar files in {folder}; name the folder that holds them")
    skipped: list[SkippedSource] = []
    found: list[list[_Labelled]] = []
    with progress.track("Indexing", total=len(tars)) as task:
        for tar in tars:
            found.append(_read_entries(tar, skipped))
            task.advance(1, note=f"{len(skipped)} skipped" if skipped else "")
    if not any(found):
        first = f": {skipped[0].source}: {skipped[0].reason}" if skipped else ""
        raise ShardError(f"no usable sample in {folder}{first}")
    names = _class_names({label for entries in found for _, label in entries}, tuple(classes))
    shards = tuple(
        _write_index(tar, Index([replace(entry, label=_class_number(label, names)) for entry, label in entries]))
        for tar, entries in zip(tars, found, strict=True)
        if entries
    )
    manifest = Manifest(
        folder=folder, split=folder.name, classes=names, shards=shards, skipped=tuple(skipped), duplicates=()
    )
    manifest.write()
    return manifest


def _read_entries(tar: Path, skipped: list[SkippedSource]) -> list[_Labelled]:
    found = []
    for sample in tar_samples(tar):
        try:
            found.append(_read_entry(sample))
        except VideoError as error:
            skipped.append(SkippedSource(source=f"{tar.name}/{sample.key}", reason=str(error)))
    return found


def _read_entry(sample: TarSample) -> _Labelled:
    if sample.video is None:
        raise VideoError(f"no video among its members: {', '.join(sample.parts)}")
    offset, video = sample.video
    info = probe(video)
    if info.frames < MIN_FRAMES:
        raise VideoError(f"{info.frames} frame(s); a video needs at least {MIN_FRAMES}")
    meta = _read_meta(sample)
    entry = Entry(
        key=sample.key,
        offset=offset,
        size=len(video),
        crc32=zlib.crc32(video),
        label=-1,
        group=str(meta.get("group", sample.key)),
        frames=info.frames,
        fps=info.fps,
        width=info.width,
        height=info.height,
        sha256=hashlib.sha256(video).hexdigest(),
    )
    label = sample.text("cls")
    return entry, _parse_label(meta.get("label") if label is None else label.strip())


def _read_meta(sample: TarSample) -> dict[str, Any]:
    text = sample.text("json")
    try:
        meta = json.loads(text) if text is not None else {}
    except (ValueError, RecursionError) as error:
        raise VideoError(f"invalid JSON: {error}") from None
    return meta if isinstance(meta, dict) else {}


def _parse_label(value: object) -> str | int | None:
    if value is None or value == "" or value == -1:
        return None
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() else text


def _class_names(labels: set[str | int | None], given: tuple[str, ...]) -> tuple[str, ...]:
    named = {label for label in labels if isinstance(label, str)}
    numbers = {label for label in labels if isinstance(label, int)}
    if named and numbers:
        raise ShardError(f"labels mix names ({min(named)}) and numbers ({min(numbers)}); use one kind")
    if not given:
        return tuple(sorted(named)) or tuple(str(number) for number in range(max(numbers, default=-1) + 1))
    unknown = named - set(given) or {number for number in numbers if number >= len(given)}
    if unknown:
        raise ShardError(f"label {min(unknown, key=str)} is none of the {len(given)} classes given by --classes")
    return given


def _class_number(label: str | int | None, names: tuple[str, ...]) -> int:
    if label is None:
        return -1
    return label if isinstance(label, int) else names.index(label)


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
