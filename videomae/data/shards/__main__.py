"""Shards from the command line: `python -m videomae.data.shards build SRC OUT` and the rest; `--help` says more.

Exit codes: 0 done, 1 the shards are not in order, 2 the command cannot be carried out (standard error says why).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from videomae.core import progress
from videomae.core.errors import UserError
from videomae.data.build.sources import Listing
from videomae.data.shards.reader import read_manifests


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m videomae.data.shards", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_build(commands.add_parser("build", help="pack a folder of videos into tar shards"))
    synthesize = commands.add_parser("synthesize", help="draw a small set of real H.264 videos")
    _add_synthesize(synthesize)
    _add_index(commands.add_parser("index", help="index tars that others wrote, so that they can be used"))
    _add_verify(commands.add_parser("verify", help="check every byte of shards against their manifest"))
    _add_show(commands.add_parser("show", help="print a data card and draw a contact sheet"))
    _add_bench(commands.add_parser("bench", help="measure loading against the official way, webdataset and the floor"))
    _add_simulate(commands.add_parser("simulate", help="plan a cluster job without data: time, memory, shards a rank"))
    parsed = parser.parse_args(arguments)
    progress.log_to(None)
    try:
        return parsed.run(parsed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130


def _add_synthesize(parser: argparse.ArgumentParser) -> None:
    from videomae.data.synthetic import synthesize

    synthesize.add_arguments(parser)
    parser.set_defaults(run=synthesize.run)


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="train|val/<class>/<video or folder of frames>, or loose videos")
    parser.add_argument("out", type=Path, help="where the shards go")
    parser.add_argument("--short-side", type=int, default=256, help="pixels of the shorter side; 0 keeps the source's")
    parser.add_argument("--fps", type=float, default=15.0, help="stored frame rate, never raised; 0 keeps the source's")
    parser.add_argument("--jpeg", action="store_true", help="store every frame as a JPEG instead of as H.264")
    parser.add_argument("--gop", type=int, default=32, help="frames from one keyframe to the next")
    parser.add_argument("--crf", type=int, default=23, help="x264's constant rate factor: lower is better and larger")
    parser.add_argument("--preset", default="veryfast", help="x264's preset")
    parser.add_argument("--compact", action="store_true", help="smaller files that decode more slowly")
    parser.add_argument("--samples-per-shard", type=int, default=1000, help="a shard is closed at this many samples")
    parser.add_argument("--bytes-per-shard", type=float, help="or at this many bytes of video, such as 2e8")
    parser.add_argument("--frames-fps", type=float, default=30.0, help="the rate that frame folders were extracted at")
    parser.add_argument("--unlabelled", action="store_true", help="take every video below the source, without classes")
    parser.add_argument("--train-list", type=Path, help="file of `path label` lines, paths relative to the source")
    parser.add_argument("--val-list", type=Path, help="the same for the val split")
    parser.add_argument("--classes", type=Path, help="file with a class's name a line, for lists with numbered labels")
    parser.add_argument("--ucf101", type=Path, help="folder with UCF101's official trainlist/testlist files")
    parser.add_argument("--hmdb51", type=Path, help="folder with HMDB51's official split files")
    parser.add_argument("--official-split", type=int, choices=(1, 2, 3), default=1, help="of UCF101 or HMDB51")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--overwrite", action="store_true", help="replace a build made otherwise")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=_build)


def _build(arguments: argparse.Namespace) -> int:
    from videomae.core.config import parse
    from videomae.data.build.build import BuildConfig, build

    encoding = {
        "short_side": arguments.short_side or None,
        "fps": arguments.fps or None,
        "codec": "jpeg" if arguments.jpeg else "h264",
        "gop": arguments.gop,
        "crf": arguments.crf,
        "preset": arguments.preset,
        "fast_decode": not arguments.compact,
    }
    values = {
        "encoding": encoding,
        "samples_per_shard": arguments.samples_per_shard,
        "bytes_per_shard": None if arguments.bytes_per_shard is None else int(arguments.bytes_per_shard),
        "frames_fps": arguments.frames_fps,
    }
    config = parse(BuildConfig, values, source="build options")
    result = build(_listing(arguments), arguments.out, config, workers=arguments.workers, overwrite=arguments.overwrite)
    _report(arguments, result)
    return 0


def _listing(arguments: argparse.Namespace) -> Listing:
    from videomae.data.build.source_lists import from_hmdb51, from_lists, from_ucf101
    from videomae.data.build.sources import find

    lists = {"train": arguments.train_list, "val": arguments.val_list}
    given = {split: file for split, file in lists.items() if file}
    if arguments.ucf101:
        return from_ucf101(arguments.source, arguments.ucf101, arguments.official_split)
    if arguments.hmdb51:
        return from_hmdb51(arguments.source, arguments.hmdb51, arguments.official_split)
    if given:
        classes = arguments.classes.read_text().split("\n") if arguments.classes else []
        return from_lists(arguments.source, given, classes=[name.strip() for name in classes if name.strip()])
    return find(arguments.source, unlabelled=arguments.unlabelled)


def _report(arguments: argparse.Namespace, result: object) -> None:
    from videomae.data.build.build import BuildResult

    assert isinstance(result, BuildResult)
    rows = {
        split: {
            "samples": manifest.samples,
            "shards": len(manifest.shards),
            "bytes": sum(shard.bytes for shard in manifest.shards),
            "skipped": len(manifest.skipped),
            "duplicates": len(manifest.duplicates),
        }
        for split, manifest in result.manifests.items()
    }
    if arguments.json:
        print(json.dumps({"out": str(arguments.out), "reused": result.reused, "splits": rows}))
        return
    if result.reused:
        print(f"reusing the shards in {arguments.out}: same sources, same options")
    for split, row in rows.items():
        print(
            f"{split}: {row['samples']} samples in {row['shards']} shard(s), {row['bytes'] / 1e6:.1f} MB,"
            f" {row['skipped']} left out, {row['duplicates']} also in another split"
        )
        for left in result.manifests[split].skipped:
            print(f"  left out {left.source}: {left.reason}")


def _add_index(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="the folder that holds the tars; index and manifest go beside them")
    parser.add_argument("--classes", default="", help="names for numbered labels, separated by commas")
    parser.set_defaults(run=_index)


def _index(arguments: argparse.Namespace) -> int:
    from videomae.data.build.external_tars import index_folder

    manifest = index_folder(arguments.folder, classes=[name for name in arguments.classes.split(",") if name])
    print(f"{manifest.samples} samples in {len(manifest.shards)} shard(s), {len(manifest.classes)} classes")
    for left in manifest.skipped:
        print(f"  left out {left.source}: {left.reason}")
    return 0


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="what `build` wrote, or one of its splits")
    parser.add_argument("--decode", action="store_true", help="also decode every video and count its frames")
    parser.add_argument("--json", action="store_true", help="print the faults as JSON")
    parser.set_defaults(run=_verify)


def _verify(arguments: argparse.Namespace) -> int:
    from videomae.data.shards.verification import verify

    manifests = read_manifests(arguments.folder)
    faults = {manifest.split: verify(manifest, decode=arguments.decode) for manifest in manifests}
    count = sum(len(found) for found in faults.values())
    if arguments.json:
        print(json.dumps({"faults": {split: [asdict(fault) for fault in found] for split, found in faults.items()}}))
        return 1 if count else 0
    for split, found in faults.items():
        for fault in found:
            print(f"{split}/{fault.shard}{' ' + fault.key if fault.key else ''}: {fault.reason}")
    samples, shards = sum(m.samples for m in manifests), sum(len(m.shards) for m in manifests)
    print(f"{samples} samples in {shards} shard(s): " + (f"{count} faults" if count else "every byte is as built"))
    return 1 if count else 0


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="what `build` wrote, or one of its splits")
    parser.add_argument(
        "--sheet", type=Path, help="where the contact sheets go; FOLDER/<split>/contact-sheet.png if not given"
    )
    parser.add_argument("--clips", type=int, default=12, help="clips on a contact sheet")
    parser.add_argument("--json", action="store_true", help="print the card as JSON")
    parser.set_defaults(run=_show)


def _show(arguments: argparse.Namespace) -> int:
    from videomae.data.build.dataset_card import dataset_card, write_contact_sheet

    cards, sheets = [], []
    for manifest in read_manifests(arguments.folder):
        cards.append(dataset_card(manifest))
        folder = arguments.sheet / manifest.split if arguments.sheet else manifest.folder
        sheets.append(folder / "contact-sheet.png")
        write_contact_sheet(manifest, sheets[-1], clips=arguments.clips)
    if arguments.json:
        print(json.dumps({"splits": [asdict(each) for each in cards], "sheets": [str(sheet) for sheet in sheets]}))
        return 0
    for each, sheet in zip(cards, sheets, strict=True):
        print("\n".join([*each.lines(), f"  sheet       {sheet}"]))
    return 0


def _add_bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, nargs="?", help="a folder of videos; a synthetic one if not given")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", default="1,2", help="also measure with these numbers of worker processes")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=_bench)


def _bench(arguments: argparse.Namespace) -> int:
    from benchmarks.loading import bench
    from videomae.data.synthetic.synthesize import SyntheticConfig, synthesize

    official = importlib.util.find_spec("decord") is not None
    if not official:
        print(
            "decord is missing: the official way is left out; install it with: pip install -e '.[bench]'",
            file=sys.stderr,
        )
    workers = tuple(int(count) for count in arguments.workers.split(",") if count)
    with tempfile.TemporaryDirectory(prefix="bench-videos-") as folder:
        source = arguments.source
        if source is None:
            source = Path(folder) / "videos"
            drawn = SyntheticConfig(train=max(4, arguments.clips // 4 * 4), val=4, width=640, height=360)
            synthesize(source, drawn, workers=os.cpu_count() or 1)
        result = bench(source, clips=arguments.clips, rounds=arguments.rounds, workers=workers, official=official)
    print(json.dumps(result.to_json()) if arguments.json else "\n".join(result.lines()))
    return 0


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=float, default=1e10)
    parser.add_argument("--ranks", type=int, default=16384)
    parser.add_argument("--per-rank", type=int, default=4, help="samples that a rank takes of every batch")
    parser.add_argument("--lanes", default="", help="numbers of lanes, separated by commas")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.set_defaults(run=_simulate)


def _simulate(arguments: argparse.Namespace) -> int:
    from benchmarks.order_at_scale import simulate

    lanes = [int(count) for count in arguments.lanes.split(",") if count]
    result = simulate(samples=int(arguments.samples), ranks=arguments.ranks, per_rank=arguments.per_rank, lanes=lanes)
    print(json.dumps(result.to_json()) if arguments.json else "\n".join(result.lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
