"""False alarms an hour in the report, from the `negatives.json` of each run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from finetune.benchmark.charts import Chart, line_chart
from finetune.benchmark.curves import Axes
from finetune.negatives import FILE


def alarm_chart(runs: Sequence[Path], names: Sequence[str]) -> Chart | None:
    """False alarms an hour at each threshold; None if no run has been tried on videos without the positive class."""
    found = [json.loads((run / FILE).read_text()) if (run / FILE).is_file() else None for run in runs]
    if not any(found):
        return None
    series = [
        [(point["threshold"], point["alarms_per_hour"]) for point in each["curve"]] if each is not None else []
        for each in found
    ]
    hours = max(each["hours"] for each in found if each is not None)
    ends = [f"on {each['hours']:.2f} hours" if each is not None else "" for each in found]
    chart = line_chart("False alarms an hour", names, series, Axes(x="threshold", y="alarms an hour"), ends=ends)
    note = " ".join(filter(None, [f"On {hours:.2f} hours of video without the positive class.", chart.note]))
    return Chart(title=chart.title, description=chart.description, note=note, svg=chart.svg)
