"""The tables of a benchmark as text, which the terminal, report.md and W&B share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finetune.benchmark.results import About
from finetune.benchmark.summary import Model, Pair, on_all_labels
from videomae.core.progress import duration

METRICS = (
    *("balanced_accuracy", "precision", "recall", "f1", "roc_auc", "average_precision", "hit_at_5", "clip_hit_at_1"),
    *("clip_hit_at_5", "hamming_loss", "calibration_error", "loss"),
)
_NONE = "–"


@dataclass(frozen=True)
class TextTable:
    """Rows of cells below a head; `note` explains them."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def tables(models: Sequence[Model], pairs: Sequence[Pair], about: About) -> list[TextTable]:
    """The tables that have rows: results, metrics, paired tests, few labels, other data."""
    whole = on_all_labels(models)
    found = [_results(whole), _metrics(whole), _paired(pairs)]
    if any(model.first.labels != "all" for model in models):
        found.append(_few_labels(models))
    if names := tuple(about.evaluate_on):
        rows = [
            (
                model.title,
                percent(model.accuracy),
                *(_optional(model.cross(other), percent) for other in names),
            )
            for model in whole
        ]
        found.append(TextTable("Other data", ("trained as", "own", *names), tuple(rows)))
    return [table for table in found if table.rows]


def _results(models: Sequence[Model]) -> TextTable:
    """A line a model, without the columns that none fills."""
    columns = {
        "model": [model.title for model in models],
        "starts from": [initial_weights(model.first.pretrained) for model in models],
        "accuracy": [percent(model.accuracy) for model in models],
        "95 % interval": [_interval(model) for model in models],
        "without duplicates": [f"{percent(clean[0])} of {clean[1]}" if (clean := m.clean()) else _NONE for m in models],
        "seeds": [str(len(model.rows)) for model in models],
        "params (M)": [f"{model.first.params / 1e6:.2f}" for model in models],
        "GMACs": [figure(model.first.gmacs) for model in models],
        "clips/s": [figure(model.first.clips_per_second) for model in models],
        "latency (ms)": [_optional(model.first.latency_ms, figure) for model in models],
        "GPU memory (GB)": [_optional(model.first.memory_gb, figure) for model in models],
        "training": [duration(model.seconds) for model in models],
        "training (TMACs)": [_optional(model.training_tmacs, figure) for model in models],
        "published, RWF-2000": [_optional(model.first.published, lambda value: f"{value:.1f} %") for model in models],
        "published from": [model.first.published_pretrained or _NONE for model in models],
    }
    filled = {name: cells for name, cells in columns.items() if set(cells) != {_NONE}}
    return TextTable("Results", tuple(filled), tuple(zip(*filled.values(), strict=True)))


def _metrics(models: Sequence[Model]) -> TextTable:
    names = [name for name in METRICS if any(model.metric(name) is not None for model in models)]
    rows = [(model.title, *(_optional(model.metric(name), "{:.3f}".format) for name in names)) for model in models]
    return TextTable("Metrics", ("model", *(name.replace("_", " ") for name in names)), tuple(rows if names else ()))


def _few_labels(models: Sequence[Model]) -> TextTable:
    """A line a model that was trained on parts of the labels, a column a part; all labels stand last."""
    parts = {model.first.labels: model.first for model in models}
    order = sorted(
        parts.values(), key=lambda row: (row.labels == "all", row.label_fraction or row.labels_per_class or 0)
    )
    cells = {(model.title, model.first.labels): f"{percent(model.accuracy)} ({_interval(model)})" for model in models}
    titles = dict.fromkeys(model.title for model in models if model.first.labels != "all")
    rows = [(title, *(cells.get((title, row.labels), _NONE) for row in order)) for title in titles]
    head = ("model", *(row.labels for row in order))
    return TextTable("Few labels", head, tuple(rows), "Accuracy and its 95 % interval, by the part of the labels.")


def _paired(pairs: Sequence[Pair]) -> TextTable:
    head = ("first", "second", "difference", "95 % interval", "p, bootstrap", "p, McNemar")
    rows = [
        (
            *(pair.first, pair.second, percent(pair.difference), f"{percent(pair.low)} to {percent(pair.high)}"),
            *(p_value(pair.p_bootstrap), p_value(pair.p_mcnemar)),
        )
        for pair in pairs
    ]
    return TextTable("Paired tests", head, tuple(rows), "P-values are corrected by Holm's method.")


def markdown(found: Sequence[TextTable], about: About) -> str:
    """Return the report as Markdown, for a README or an issue."""
    parts = [f"# {about.title}", " ".join(filter(None, [about.data, about.protocol]))]
    for table in found:
        lines = [table.head, ("---",) * len(table.head), *table.rows]
        cells = ((cell.replace("|", "\\|").replace("\n", " ") for cell in line) for line in lines)
        parts += [f"## {table.title}", table.note, "\n".join(f"| {' | '.join(line)} |" for line in cells)]
    if about.commands:
        parts += ["## Commands", "```bash\n" + "\n".join(about.commands) + "\n```"]
    return "\n\n".join(filter(None, parts)) + "\n"


def _interval(model: Model) -> str:
    return f"{100 * model.interval[0]:.1f} to {100 * model.interval[1]:.1f}"


def _optional(value: float | None, form: Callable[[float], str]) -> str:
    return _NONE if value is None else form(value)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(value: int) -> str:
    """Format a number of parameters, such as 11.5 M."""
    return f"{value / 1e6:.1f} M" if value >= 1e6 else f"{value / 1e3:.1f} k" if value >= 1e3 else str(value)


def figure(value: float) -> str:
    """Format a number with three significant digits, or as an integer from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def initial_weights(pretrained: str) -> str:
    """Return the label of a model's initial weights; paths are not shown."""
    return "from scratch" if pretrained == "scratch" else "pretrained" if "/" in pretrained else pretrained
