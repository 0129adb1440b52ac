"""The report as Markdown, for a README or an issue: the table, the paired tests, few labels, other data, commands."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.benchmark.charts import percent
from finetune.benchmark.results import About, BenchmarkRow
from finetune.benchmark.summary import Model, compare

METRICS = (
    "balanced_accuracy",
    "precision",
    "recall",
    "f1",
    "roc_auc",
    "average_precision",
    "hit_at_5",
    "clip_hit_at_1",
    "clip_hit_at_5",
    "hamming_loss",
    "calibration_error",
    "loss",
)


def markdown(models: Sequence[Model], about: About) -> str:
    """Return the report as Markdown."""
    whole = [model for model in models if model.first.labels == "all"]
    parts = [f"# {about.title}", " ".join(filter(None, [about.data, about.protocol])), _results(whole or models)]
    names = [name for name in METRICS if any(model.metric(name) is not None for model in whole)]
    if names:
        head = ["model", *(name.replace("_", " ") for name in names)]
        lines = [[model.title, *(_optional(model.metric(name)) for name in names)] for model in whole]
        parts += ["## Metrics", _table(head, lines)]
    pairs = compare(whole)
    if pairs:
        head = ["first", "second", "difference", "95 % interval", "p, bootstrap", "p, McNemar"]
        lines = [
            [
                pair.first,
                pair.second,
                percent(pair.difference),
                f"{percent(pair.low)} to {percent(pair.high)}",
                f"{pair.p_bootstrap:.3f}",
                f"{pair.p_mcnemar:.3f}",
            ]
            for pair in pairs
        ]
        parts += ["## Paired tests", "P-values are corrected by Holm's method.", _table(head, lines)]
    if len(whole) < len(models):
        lines = [
            [model.title, model.first.labels, percent(model.accuracy), _interval(model)]
            for model in sorted(models, key=lambda model: model.title)
        ]
        parts += ["## Few labels", _table(["model", "labels", "accuracy", "95 % interval"], lines)]
    if about.evaluate_on:
        lines = [[model.title, *(_share(model.cross(name)) for name in about.evaluate_on)] for model in whole]
        parts += ["## Other data", _table(["trained as", *about.evaluate_on], lines)]
    if about.commands:
        parts += ["## Commands", "```bash\n" + "\n".join(about.commands) + "\n```"]
    return "\n\n".join(parts) + "\n"


def _results(models: Sequence[Model]) -> str:
    clean = any(model.clean() for model in models)
    head = ["model", "starts from", "accuracy", "95 % interval", *(["without duplicates"] if clean else [])]
    head += ["params (M)", "GMACs", "clips/s", "latency (ms)", "training"]
    published = any(model.first.published for model in models)
    head += ["published, RWF-2000", "published from"] if published else []
    lines = []
    for model in models:
        row, without = model.first, model.clean()
        lines.append(
            [
                model.title,
                initial_weights(row.pretrained),
                percent(model.accuracy),
                _interval(model),
                *([f"{percent(without[0])} of {without[1]}" if without else "–"] if clean else []),
                f"{row.params / 1e6:.2f}",
                figure(row.gmacs),
                figure(row.clips_per_second),
                "–" if row.latency_ms is None else figure(row.latency_ms),
                duration(model.seconds),
                *(_published(row) if published else []),
            ]
        )
    return _table(head, lines)


def _published(row: BenchmarkRow) -> list[str]:
    return ["–" if row.published is None else f"{row.published:.1f} %", row.published_pretrained or "–"]


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
    )


def _interval(model: Model) -> str:
    return f"{100 * model.interval[0]:.1f} to {100 * model.interval[1]:.1f}"


def _optional(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)


def figure(value: float) -> str:
    """Format a number with three significant digits, or as an integer from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def initial_weights(pretrained: str) -> str:
    """Return the label of a model's initial weights; paths are not shown."""
    return "from scratch" if pretrained == "scratch" else "pretrained" if "/" in pretrained else pretrained
