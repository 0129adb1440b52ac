"""The commands `videomae shards ...`. Heavy imports stand in the functions, so that --help is quick.

Exit codes: 0 done, 1 the shards have faults, 2 user error, 130 interrupted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from videomae.command import PATH, examples, json_option

if TYPE_CHECKING:
    from videomae.data.build.build import BuildResult
    from videomae.data.build.sources import Listing
    from videomae.data.shards.manifest import Manifest

INTERRUPTED = 130
CPUS = len(os.sched_getaffinity(0))


def _pair(separator: str, wanted: str, *, single: bool) -> Callable[[Any, Any, str | None], tuple[int, int] | None]:
    """A parser of two numbers, such as 160x120 or 15..30; with `single`, one number stands for both."""

    def parse(_context: Any, _parameter: Any, text: str | None) -> tuple[int, int] | None:
        if text is None:
            return None
        low, found, high = text.lower().partition(separator)
        try:
            return int(low), int(high if found or not single else low)
        except ValueError:
            raise click.BadParameter(f"got {text!r}, wanted {wanted}") from None

    return parse


@click.command(
    epilog=examples(
        "videomae shards synthesize videos",
        "videomae shards synthesize videos --per-class 30 --val-per-class 50",
        "videomae shards synthesize videos --classes left,right,grow,shrink --size 96x96 --fps 12",
    ),
)
@click.argument("out", type=PATH)
@click.option("--classes", default="", help="Separated by commas.", show_default="eight; pass,strike is a pair")
@click.option("--train", type=int, default=240, help="Training clips, all classes together.")
@click.option("--val", type=int, default=120, help="Validation clips, all classes together.")
@click.option("--per-class", type=int, help="Training clips of each class, in place of --train.")
@click.option("--val-per-class", type=int, help="Validation clips of each class, in place of --val.")
@click.option("--seed", type=int, default=0, help="Seed of all clips.")
@click.option("--seconds", type=float, default=2.0, help="Length of a clip.")
@click.option(
    "--fps",
    callback=_pair("..", "a frame rate like 25 or a range like 15..30", single=True),
    help="Frame rate, or range of frame rates.",
    show_default="8",
)
@click.option(
    "--size",
    callback=_pair("x", "WIDTHxHEIGHT like 160x120", single=False),
    help="Width x height in pixels.",
    show_default="64x64",
)
@click.option("--workers", type=int, default=CPUS, show_default="number of CPUs", help="Processes.")
def synthesize(out: Path, *, workers: int, **options: Any) -> None:
    """Generate a small labelled set of synthetic H.264 videos: the label is an object's motion.

    OUT is the folder to write: train|val / class / *.mp4, with groups.csv and synthetic.json.
    """
    from videomae.core.config import parse
    from videomae.core.progress import log_to, logger
    from videomae.data.synthetic.synthesize import CLASSES, LabelledConfig, synthesize

    log_to(None)
    classes = tuple(name.strip() for name in options["classes"].split(",") if name.strip())
    count = len(classes or CLASSES)
    per_class = {"train": options["per_class"], "val": options["val_per_class"]}
    values = {name: options[name] for name in ("train", "val", "seed", "seconds")}
    values |= {split: number * count for split, number in per_class.items() if number is not None}
    values |= {"classes": classes} | ({"fps": options["fps"]} if options["fps"] else {})
    values |= dict(zip(("width", "height"), options["size"] or (), strict=False))
    config = parse(LabelledConfig, values, source="synthesize")
    made = synthesize(out, config, workers=workers)
    verb = "wrote" if made else "reused, as the options are the same:"
    logger.info("%s %d train and %d val clips in %s", verb, config.train, config.val, out)


@click.command(
    epilog=examples(
        "videomae shards build RWF-2000 data/rwf2000 --short-side 256 --fps 15",
        "videomae shards build UCF-101 data/ucf101 --ucf101 ucfTrainTestlist --official-split 1",
        "videomae shards build kinetics data/k400 --train-list train.csv --val-list val.csv",
    ),
)
@click.argument("source", type=PATH)
@click.argument("out", type=PATH)
@click.option("--short-side", type=int, default=256, help="Pixels of the shorter side; 0 keeps the source's.")
@click.option("--fps", type=float, default=15.0, help="Stored frame rate, never raised; 0 keeps the source's.")
@click.option("--jpeg", is_flag=True, help="Store every frame as a JPEG instead of H.264.")
@click.option("--gop", type=int, default=32, help="Frames from one keyframe to the next.")
@click.option("--crf", type=int, default=23, help="x264's constant rate factor; lower is better and larger.")
@click.option("--preset", default="veryfast", help="x264's preset.")
@click.option("--compact", is_flag=True, help="Write smaller files that decode more slowly.")
@click.option("--samples-per-shard", type=int, default=1000, help="Samples after which a shard is closed.")
@click.option("--bytes-per-shard", type=float, help="Bytes of video after which a shard is closed, such as 2e8.")
@click.option("--frames-fps", type=float, default=30.0, help="Frame rate at which frame folders were extracted.")
@click.option("--unlabelled", is_flag=True, help="Take every video below SOURCE or in the lists, without classes.")
@click.option("--train-list", type=PATH, help="File of `path label` lines or a CSV, paths relative to SOURCE.")
@click.option("--val-list", type=PATH, help="The same for the val split.")
@click.option("--classes", type=PATH, help="File with one class name a line, for lists with numeric labels.")
@click.option("--ucf101", type=PATH, help="Folder with UCF101's official trainlist and testlist files.")
@click.option("--hmdb51", type=PATH, help="Folder with HMDB51's official split files.")
@click.option("--official-split", type=click.Choice([1, 2, 3]), default=1, help="Split of UCF101 or HMDB51.")
@click.option("--workers", type=int, default=CPUS, show_default="number of CPUs", help="Processes that encode.")
@click.option("--overwrite", is_flag=True, help="Replace shards that were built with other options.")
@json_option
def build(source: Path, out: Path, *, workers: int, overwrite: bool, as_json: bool, **options: Any) -> int:
    """Encode videos and pack them into tar shards.

    SOURCE holds train|val / class / videos or folders of frames, loose videos, or what the lists name. OUT is the
    folder of the shards. The same input gives the same bytes, and the same command resumes an interrupted build.
    """
    from videomae.core.config import parse
    from videomae.core.progress import log_to
    from videomae.data.build.build import BuildConfig, build

    log_to(None)
    encoding = {
        "short_side": options["short_side"] or None,
        "fps": options["fps"] or None,
        "codec": "jpeg" if options["jpeg"] else "h264",
        "fast_decode": not options["compact"],
        **{name: options[name] for name in ("gop", "crf", "preset")},
    }
    limit = options["bytes_per_shard"]
    values = {
        "encoding": encoding,
        "bytes_per_shard": None if limit is None else int(limit),
        **{name: options[name] for name in ("samples_per_shard", "frames_fps")},
    }
    config = parse(BuildConfig, values, source="build options")
    try:
        listing = _listing(source, options)
        result = build(listing, out, config, workers=workers, overwrite=overwrite)
    except KeyboardInterrupt:
        click.echo("interrupted; the same command resumes the build", err=True)
        return INTERRUPTED
    _print_build(out, result, listing.left_out_by_reason(), as_json=as_json)
    return 0


def _listing(source: Path, options: dict[str, Any]) -> Listing:
    from videomae.data.build.classes import read_class_names
    from videomae.data.build.source_lists import list_from_files, list_hmdb51, list_ucf101
    from videomae.data.build.sources import find_sources

    lists = {split: options[f"{split}_list"] for split in ("train", "val") if options[f"{split}_list"]}
    if options["ucf101"]:
        return list_ucf101(source, options["ucf101"], options["official_split"])
    if options["hmdb51"]:
        return list_hmdb51(source, options["hmdb51"], options["official_split"])
    if lists:
        names = read_class_names(options["classes"]) if options["classes"] else []
        return list_from_files(source, lists, classes=names, unlabelled=options["unlabelled"])
    return find_sources(source, unlabelled=options["unlabelled"])


def _print_split(manifest: Manifest) -> None:
    counts = manifest.counts
    click.echo(
        f"{manifest.split}: {counts['samples']} samples in {counts['shards']} shard(s), {counts['classes']} classes,"
        f" {counts['bytes'] / 1e6:.1f} MB, {counts['skipped']} skipped, {counts['remarks']} with a remark,"
        f" {counts['duplicates']} also in another split"
    )
    for skipped in manifest.skipped:
        click.echo(f"  skipped {skipped.source}: {skipped.reason}")


def _print_build(out: Path, result: BuildResult, left_out: dict[str, list[str]], *, as_json: bool) -> None:
    if as_json:
        rows = {split: manifest.counts for split, manifest in result.manifests.items()}
        click.echo(json.dumps({"out": str(out), "reused": result.reused, "splits": rows, "left_out": left_out}))
        return
    if result.reused:
        click.echo(f"reusing the shards in {out}: same sources, same options")
    for manifest in result.manifests.values():
        _print_split(manifest)
    if left_out:
        click.echo(f"left out {sum(map(len, left_out.values()))} files and folders, all named in {out}/build.json:")
    for reason, names in left_out.items():
        click.echo(f"  {len(names)}: {reason}, such as {names[0]}")


@click.command(epilog=examples("videomae shards index tars --classes NonFight,Fight"))
@click.argument("folder", type=PATH)
@click.option("--classes", default="", help="Names for numeric labels, separated by commas.")
@click.option("--workers", type=int, default=CPUS, show_default="number of CPUs", help="Processes that decode.")
@json_option
def index(folder: Path, classes: str, *, workers: int, as_json: bool) -> None:
    """Index WebDataset tars that another program wrote.

    FOLDER holds the tars, or a folder of them for each split; index and manifest are written beside them.
    Every video is decoded, so that the index counts only frames that decode.
    """
    from videomae.core.progress import log_to
    from videomae.data.build.external_tars import index_folder

    log_to(None)
    names = [name.strip() for name in classes.split(",") if name.strip()]
    manifests = index_folder(folder, classes=names, workers=workers)
    if as_json:
        click.echo(json.dumps({"splits": {manifest.split: manifest.counts for manifest in manifests}}))
        return
    for manifest in manifests:
        _print_split(manifest)


@click.command(
    epilog=examples("videomae shards verify data/rwf2000", "videomae shards verify s3://bucket/rwf2000/train --decode"),
)
@click.argument("folder", type=PATH)
@click.option("--decode", is_flag=True, help="Also decode every video and count its frames.")
@json_option
def verify(folder: Path, *, decode: bool, as_json: bool) -> int:
    """Check every byte of shards against their manifest.

    FOLDER is a folder or URL of shards, or of one split. The exit code is 1 if there are faults.
    """
    from videomae.core.progress import log_to
    from videomae.data.shards.reader import read_manifests
    from videomae.data.shards.verification import old_rules, verify_shards

    log_to(None)
    manifests = read_manifests(folder)
    faults = {manifest.split: verify_shards(manifest, decode=decode) for manifest in manifests}
    count = sum(len(found) for found in faults.values())
    if as_json:
        listed = {split: [asdict(fault) for fault in found] for split, found in faults.items()}
        click.echo(json.dumps({"faults": listed, "old_rules": [m.split for m in manifests if old_rules(m)]}))
        return 1 if count else 0
    for split, found in faults.items():
        for fault in found:
            click.echo(f"{split}/{fault.shard}{' ' + fault.key if fault.key else ''}: {fault.reason}")
    for manifest in manifests:
        if old := old_rules(manifest):
            click.echo(f"{manifest.split}: {old}")
    samples, shards = sum(m.samples for m in manifests), sum(len(m.shards) for m in manifests)
    click.echo(f"{samples} samples in {shards} shard(s): " + (f"{count} faults" if count else "every byte is as built"))
    return 1 if count else 0


@click.command(
    epilog=examples("videomae shards show data/rwf2000", "videomae shards show data/rwf2000/val --clips 24"),
)
@click.argument("folder", type=PATH)
@click.option("--sheet", type=PATH, help="Folder of the contact sheets; default: that of each split.")
@click.option("--clips", type=int, default=12, help="Clips on a contact sheet.")
@json_option
def show(folder: Path, *, sheet: Path | None, clips: int, as_json: bool) -> None:
    """Print a data card of shards and draw a contact sheet.

    FOLDER is a folder or URL of shards, or of one split.
    """
    from videomae.core.progress import log_to
    from videomae.data.build.dataset_card import card_lines, dataset_card, write_contact_sheet
    from videomae.data.shards.reader import read_manifests

    log_to(None)
    cards, sheets = [], []
    for manifest in read_manifests(folder):
        cards.append(dataset_card(manifest))
        sheets.append((sheet / manifest.split if sheet else manifest.folder) / "contact-sheet.png")
        write_contact_sheet(manifest, sheets[-1], clips=clips)
    if as_json:
        click.echo(json.dumps({"splits": cards, "sheets": [str(path) for path in sheets]}))
        return
    for each, path in zip(cards, sheets, strict=True):
        click.echo("\n".join([*card_lines(each), f"  sheet       {path}"]))
