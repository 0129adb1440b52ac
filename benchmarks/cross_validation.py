"""Cross-validate rows of a benchmark over source videos: each clip is tested once, by models that saw no clip of its
source.

A small val split says little: 60 clips of 9 sources give intervals that are 40 points wide.

    python -m benchmarks.cross_validation configs/benchmark/surveillance.yaml CLIPS OUT --folds 5 --rows S3D [--json]

CLIPS holds train|val / class / videos and groups.csv. Each fold is a set of shards and a benchmark of its own below
OUT; finished ones are reused. A row that starts from an encoder whose pretraining has seen CLIPS has seen the tested
clips too, without their labels: leave it out, or say so.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from finetune.benchmark.results import RESULT
from finetune.predictions import FILE, Predictions
from finetune.statistics.comparison import holm, paired_bootstrap
from finetune.statistics.intervals import estimates
from finetune.statistics.metrics import Floats
from videomae.command import guarded
from videomae.core.errors import UserError
from videomae.core.files import atomic_folder

GROUPS = ("split", "class", "clip", "source_group")


@dataclass(frozen=True)
class Clip:
    """A video file, its class, and the source video it was cut from."""

    file: Path
    label: str
    source: str


@dataclass(frozen=True)
class Pooled:
    """A row's accuracy over the clips of all folds, with its 95 % interval, and that of each fold."""

    title: str
    clips: int
    accuracy: float
    low: float
    high: float
    folds: list[float]


@dataclass(frozen=True)
class Paired:
    """By how much one row's accuracy exceeds another's, with its 95 % interval and p-value after Holm's correction."""

    better: str
    worse: str
    difference: float
    low: float
    high: float
    p: float


def read_clips(folder: Path) -> list[Clip]:
    """The clips that groups.csv of `folder` names. Raises UserError if it or a clip is missing."""
    listed = folder / "groups.csv"
    if not listed.is_file():
        raise UserError(f"no {listed}; wanted a CSV file with the columns {', '.join(GROUPS)}")
    clips = []
    with listed.open(newline="") as file:
        for split, label, name, source in csv.reader(file):
            if (split, label, name, source) != GROUPS:
                found = sorted((folder / split / label).glob(f"{name}.*"))
                if len(found) != 1:
                    raise UserError(f"{listed} names {split}/{label}/{name}, of which there are {len(found)} files")
                clips.append(Clip(found[0], label, source))
    return clips


def write_folds(clips: Sequence[Clip], out: Path, *, folds: int) -> list[Path]:
    """Write a folder of links for each fold, classes balanced and sources whole; the same clips give the same folds."""
    labels, sources = [clip.label for clip in clips], [clip.source for clip in clips]
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    found = []
    for number, (_, tested) in enumerate(splitter.split(labels, labels, sources)):
        folder = out / f"fold-{number}" / "videos"
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with atomic_folder(folder) as part:
                _link(clips, set(tested.tolist()), part)
        found.append(folder.parent)
    return found


def _link(clips: Sequence[Clip], tested: set[int], folder: Path) -> None:
    with (folder / "groups.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(GROUPS)
        for number, clip in enumerate(clips):
            split = "val" if number in tested else "train"
            link = folder / split / clip.label / clip.file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(clip.file.resolve())
            lines.writerow([split, clip.label, clip.file.stem, clip.source])


def run_fold(config: Path, fold: Path, *, options: argparse.Namespace) -> dict[str, Predictions]:
    """Build the fold's shards, run its benchmark, and return the predictions of the first seed by row title."""
    size = ["--short-side", str(options.short_side), "--fps", str(options.fps)]
    _videomae("shards", "build", fold / "videos", fold / "shards", *size)
    rows = [word for title in options.rows for word in ("--rows", title)]
    settings = [f"run={fold / 'benchmark'}", f"protocol.data.shards={fold / 'shards'}", "seeds=[0]", "labels=null"]
    _videomae("benchmark", config, *settings, *options.set, *rows)
    results = json.loads((fold / "benchmark" / RESULT).read_text())
    return {row["title"]: Predictions.load(fold / "benchmark" / row["run"] / FILE) for row in results}


def _videomae(*words: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "launch", *map(str, words)], check=True, stdout=sys.stderr)


def join(folds: Sequence[Predictions]) -> Predictions:
    """The predictions of all folds as those of one test set."""
    return Predictions(
        classes=folds[0].classes,
        keys=tuple(key for fold in folds for key in fold.keys),
        sources=tuple(source for fold in folds for source in fold.sources),
        labels_S=np.concatenate([fold.labels_S for fold in folds]),
        probabilities_SK=np.concatenate([fold.probabilities_SK for fold in folds]),
        clip_hits_S2=np.concatenate([fold.clip_hits_S2 for fold in folds]),
        duplicate_S=np.concatenate([fold.duplicate_S for fold in folds]),
    )


def pool(title: str, folds: Sequence[Predictions]) -> Pooled:
    """Judge the predictions of all folds together; the interval resamples the sources."""
    whole = join(folds)
    found = estimates(whole.scores(), whole.source_numbers)["accuracy"]
    each = [float(_correct(fold).mean()) for fold in folds]
    return Pooled(title, len(whole.keys), found.value, found.low, found.high, each)


def compare(rows: Mapping[str, Sequence[Predictions]]) -> list[Paired]:
    """Every two rows on the same clips: a paired bootstrap over sources."""
    joined = {title: join(folds) for title, folds in rows.items()}
    ranked = sorted(joined, key=lambda title: -_correct(joined[title]).mean())
    pairs = list(itertools.combinations(ranked, 2))
    tests = [
        paired_bootstrap(_correct(joined[better]), _correct(joined[worse]), joined[better].source_numbers)
        for better, worse in pairs
    ]
    return [
        Paired(*pair, test.estimate.value, test.estimate.low, test.estimate.high, p)
        for pair, test, p in zip(pairs, tests, holm([test.p for test in tests]), strict=True)
    ]


def _correct(predictions: Predictions) -> Floats:
    return (predictions.probabilities_SK.argmax(1) == predictions.labels_S).astype(np.float64)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cross_validation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", type=Path, help="of a benchmark")
    parser.add_argument("clips", type=Path, help="train|val / class / videos, and groups.csv")
    parser.add_argument("out", type=Path, help="for the folds")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--rows", nargs="+", default=[], help="titles; default: all")
    parser.add_argument("--short-side", type=int, default=96, help="of the shards")
    parser.add_argument("--fps", type=float, default=10, help="of the shards")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the config")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, alone")
    options = parser.parse_args(words)
    return guarded(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    folds = write_folds(read_clips(options.clips), options.out, folds=options.folds)
    found = [run_fold(options.config, fold, options=options) for fold in folds]
    rows = {title: [fold[title] for fold in found] for title in found[0]}
    pooled, pairs = [pool(title, own) for title, own in rows.items()], compare(rows)
    if options.json:
        result = {"rows": [asdict(row) for row in pooled], "pairs": [asdict(pair) for pair in pairs]}
        sys.stdout.write(json.dumps(result) + "\n")
        return
    for row in pooled:
        each = ", ".join(f"{value:.1%}" for value in row.folds)
        sys.stdout.write(f"{row.title:42}{row.accuracy:7.1%} ({row.low:.1%} to {row.high:.1%}); folds: {each}\n")
    for pair in pairs:
        gain = f"{pair.difference:+.1%} ({pair.low:+.1%} to {pair.high:+.1%}), p {pair.p:.3f}"
        sys.stdout.write(f"{pair.better} over {pair.worse}: {gain}\n")


if __name__ == "__main__":
    sys.exit(main())
