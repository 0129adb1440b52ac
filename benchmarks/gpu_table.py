"""The table of what `benchmarks/gpu.sh OUT` has measured: `python -m benchmarks.gpu_table OUT`.

It also writes OUT/measured.json, the rows of all step benchmarks with an MFU, for `videomae plan --measured`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import end_to_end, step, step_engines, step_finetune
from videomae.core.files import write_json

OPERATORS = 12


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The JSON that a part wrote, one object or a list; of a list that was cut off, the rows that are there."""
    text = file.read_text() if file.is_file() else ""
    for whole in (text, text.rpartition("\n")[0] + "]"):
        with contextlib.suppress(ValueError):
            found = json.loads(whole)
            return found if isinstance(found, list) else [found]
    return []


def show_tests(file: Path) -> str:
    """Verdicts of a pytest report, with the first line of each failure."""
    try:
        root = ElementTree.parse(file).getroot()
    except (OSError, ElementTree.ParseError):
        log = file.with_suffix(".txt")
        return f"  no report: it ran out of time; {log} ends:\n{_tail(log)}"
    cases = list(root.iter("testcase"))
    failed = [(case, found) for case in cases for kind in ("failure", "error") for found in case.iter(kind)]
    skipped = sum(1 for case in cases if case.find("skipped") is not None)
    passed = len(cases) - len({id(case) for case, _ in failed}) - skipped
    lines = [f"  {passed} passed, {len(failed)} failed, {skipped} skipped"]
    lines += [f"    {case.get('name')}: {(found.get('message') or '').splitlines()[0][:150]}" for case, found in failed]
    return "\n".join(lines) + "\n"


def show_batch(row: dict[str, Any]) -> str:
    mfu = "" if row["mfu"] is None else f", MFU {row['mfu']:.1%}"
    return f"{row['model']}, {row['precision']}: {row['batch']} clips, {row['clips_per_second']:.1f} clips/s{mfu}\n"


def show_profile(row: dict[str, Any]) -> str:
    found = [
        f"  {part['share']:6.1%} {part['calls']:7.0f} x {part['name'][:90]}" for part in row["operators"][:OPERATORS]
    ]
    return "\n".join([f"{row['model']}, {row['precision']}, batch {row['batch']}", *found]) + "\n"


SHOW: dict[str, Callable[[dict[str, Any]], str]] = {
    "step_batch": show_batch,
    "step": step.describe,
    "profile": show_profile,
    "end_to_end": end_to_end.describe,
    "finetune": step_finetune.describe,
    "engines": step_engines.describe,
}


def table(folder: Path) -> str:
    """All parts in the order in which they ran."""
    parts = [json.loads(line) for line in (folder / "parts.jsonl").read_text().splitlines()]
    text = ""
    for part in parts:
        name = part["part"]
        text += f"== {name}: exit code {part['code']}, {part['seconds']} s\n"
        if name.startswith("tests"):
            text += show_tests(folder / f"{name}.xml")
            continue
        show = next(show for prefix, show in SHOW.items() if name.startswith(prefix))
        rows = read_rows(folder / f"{name}.json")
        text += "".join(map(show, rows)) or f"  no result; {folder / name}.log ends:\n{_tail(folder / f'{name}.log')}"
    return text


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    return "".join(f"    {line[:200]}\n" for line in lines[-3:])


def measured(folder: Path) -> list[dict[str, Any]]:
    """Rows of the step benchmarks that know an MFU."""
    rows = [row for file in sorted(folder.glob("step*.json")) for row in read_rows(file)]
    keys = ("device", "model", "precision", "compiled", "batch", "mfu")
    return [{key: row[key] for key in keys} for row in rows if row.get("mfu") is not None]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_table", description="What gpu.sh has measured.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    write_json(folder / "measured.json", measured(folder))
    sys.stdout.write(table(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
