"""Indexes tars that others wrote: any WebDataset tars that hold videos, left as they are.

A label comes from KEY.cls or KEY.json (`label`, a number or a class's name), and is -1 without either; frames, rate and
size come from the video itself. Writes the same index and manifest as a build does, beside the tars.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from videomae.core.files import file_sha256, write_atomic
from videomae.data.errors import ShardError
from videomae.core import progress
from videomae.data.shards.index import Entry, Index, TarSample, tar_samples
from videomae.data.shards.manifest import SkippedSource, Manifest, Shard
from videomae.data.video import VideoError, probe

_MIN_FRAMES = 2
_Labelled = tuple[Entry, str | int | None]


def index_folder(folder: Path, *, classes: Sequence[str] = ()) -> Manifest:
    """Index every tar of `folder` and write its manifest. `classes` names numbered labels.

    Raises:
        ShardError: no tars, a tar that is cut or damaged, no sample that can be used, or labels without a class.
    """
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise ShardError(f"no .tar files in {folder}; name the folder that holds them")
    skipped: list[SkippedSource] = []
    found: list[list[_Labelled]] = []
    with progress.track("Indexing", total=len(tars)) as task:
        for tar in tars:
            found.append(list(_usable(tar, skipped)))
            task.advance(1, note=f"{len(skipped)} left out" if skipped else "")
    if not any(found):
        first = f": {skipped[0].source}: {skipped[0].reason}" if skipped else ""
        raise ShardError(f"no sample in {folder} can be used{first}")
    names = _class_names({label for entries in found for _, label in entries}, tuple(classes))
    shards = tuple(
        _write_index(tar, Index([replace(entry, label=_number(label, names)) for entry, label in entries]))
        for tar, entries in zip(tars, found, strict=True)
        if entries
    )
    manifest = Manifest(
        folder=folder, split=folder.name, classes=names, shards=shards, skipped=tuple(skipped), duplicates=()
    )
    manifest.write()
    return manifest


def _usable(tar: Path, skipped: list[SkippedSource]) -> list[_Labelled]:
    found = []
    for sample in tar_samples(tar):
        try:
            found.append(_describe(sample))
        except VideoError as error:
            skipped.append(SkippedSource(source=f"{tar.name}/{sample.key}", reason=str(error)))
    return found


def _describe(sample: TarSample) -> _Labelled:
    if sample.video is None:
        raise VideoError(f"no video among its parts: {', '.join(sample.parts)}")
    offset, video = sample.video
    info = probe(video)
    if info.frames < _MIN_FRAMES:
        raise VideoError(f"{info.frames} frame(s); a video needs at least {_MIN_FRAMES}")
    meta = _meta(sample)
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
    return entry, _as_label(meta.get("label") if label is None else label.strip())


def _meta(sample: TarSample) -> dict[str, Any]:
    text = sample.text("json")
    try:
        meta = json.loads(text) if text is not None else {}
    except (ValueError, RecursionError) as error:
        raise VideoError(f"its JSON cannot be read: {error}") from None
    return meta if isinstance(meta, dict) else {}


def _as_label(value: object) -> str | int | None:
    if value is None or value == "" or value == -1:
        return None
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() else text


def _class_names(labels: set[str | int | None], given: tuple[str, ...]) -> tuple[str, ...]:
    named = {label for label in labels if isinstance(label, str)}
    numbers = {label for label in labels if isinstance(label, int)}
    if named and numbers:
        raise ShardError(f"labels are partly names ({min(named)}), partly numbers ({min(numbers)}); use one kind")
    if not given:
        return tuple(sorted(named)) or tuple(str(number) for number in range(max(numbers, default=-1) + 1))
    unknown = named - set(given) or {number for number in numbers if number >= len(given)}
    if unknown:
        raise ShardError(f"label {min(unknown, key=str)} is none of the {len(given)} classes given by --classes")
    return given


def _number(label: str | int | None, names: tuple[str, ...]) -> int:
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
