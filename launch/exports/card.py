"""The model card beside an export: data, recipe, figures and limits, as README.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from finetune.evaluation import FILE
from finetune.export import TrainedClassifier
from videomae.models.weights.export import EncoderExport
from videomae.run.directory import EXECUTION, RunDirectory

_PATHS = ("run", "shards", "weights", "encoder_weights", "resume")  # settings whose folders mean nothing elsewhere


def classifier_card(found: TrainedClassifier, run: RunDirectory | None) -> str:
    """Return the card of a classifier."""
    input, stored, names = found.model.input, found.stored, ", ".join(found.classes)
    apart = f"{input.stride} apart" if input.frame_sampling == "clip" else "spread evenly over the clip"
    clips = "The export does not describe the clips that it was trained on."
    if stored is not None:
        clips = (
            f"Training clips: {stored.seconds:g} s (median), at most {stored.longest:g} s, {stored.fps:g} frames a "
            f"second, short side {stored.short_side} pixels."
        )
    return _card(
        run,
        title=f"{found.model.name}: {' / '.join(found.classes)}",
        about=f"A video classifier ({found.model.name}, initial weights: {found.model.pretrained}).\n\n"
        f"Input: {input.frames} frames {apart}, {input.size} x {input.size} pixels. "
        f"Output: one logit per class, in the order {names}.",
        data=clips,
        figures=["## Figures", "", *_figures(run)],
        limits=(
            "Scores say how much a clip resembles the training classes. They are no calibrated probabilities, and "
            "say nothing of events that are not among the classes.",
            "Cameras, places and lengths of clips that differ from the training data lower the accuracy; measure it "
            "on your own recordings, and set the threshold of alarms on quiet ones.",
            "A decision about people needs a person who looks at the video.",
        ),
    )


def encoder_card(found: EncoderExport, run: RunDirectory | None) -> str:
    """Return the card of an encoder."""
    config = found.config
    return _card(
        run,
        title="Video encoder",
        about=f"A VideoMAE encoder: width {config.dim}, {config.depth} blocks, {config.heads} heads, patches of "
        f"{config.tubelet} x {config.patch} x {config.patch}.\n\n"
        f"Input: {config.frames} frames of {config.size} x {config.size} pixels. "
        f"Output: {config.num_patches} tokens of width {config.dim}, ordered by time, height and width.",
        data="Pretrained without labels, by predicting hidden patches of videos.",
        limits=(
            "The features are made for fine-tuning; without it they tell classes apart less well.",
            "They describe what the pretraining videos show, with its gaps.",
        ),
    )


def _card(
    run: RunDirectory | None, *, title: str, about: str, data: str, limits: Sequence[str], figures: Sequence[str] = ()
) -> str:
    settings: dict[str, Any] = {} if run is None else yaml.safe_load(run.config.read_text())
    parts = [f"# {title}", "", about, "", "## Data", "", data, "", _shards(settings), "", "## Recipe", ""]
    if run is None:
        parts += ["Unknown: the weights were imported.", ""]
    else:
        science = {key: _without_folders(value, key) for key, value in settings.items() if key not in EXECUTION}
        text = yaml.safe_dump(science, sort_keys=False, width=120).rstrip()
        parts += [f"Run {run.path.resolve().name}:", "", "```yaml", text, "```", ""]
    return "\n".join([*parts, *figures, "## Limits", "", *(f"- {limit}" for limit in limits), ""])


def _shards(settings: dict[str, Any]) -> str:
    shards = (settings.get("data") or {}).get("shards")
    named = [shards] if isinstance(shards, str) else [one["shards"] for one in shards or () if one.get("shards")]
    return f"Shards: {', '.join(map(_last_names, named))}." if named else "The shards are unknown."


def _figures(run: RunDirectory | None) -> list[str]:
    if run is None or not (run.path / FILE).is_file():
        return ["None: the run has not been evaluated.", ""]
    result = json.loads((run.path / FILE).read_text())
    low, high = result["interval"]
    rows = zip(result["classes"], result["confusion"], strict=True)
    return [
        f"Accuracy {result['accuracy']:.1%} on {result['total']} videos of the val split "
        f"({result['views']} views a video, 95 % interval {low:.1%} to {high:.1%}).",
        "",
        f"| true, predicted | {' | '.join(result['classes'])} |",
        f"|---|{'---|' * len(result['classes'])}",
        *(f"| {name} | {' | '.join(map(str, counts))} |" for name, counts in rows),
        "",
    ]


def _without_folders(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _without_folders(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [_without_folders(one) for one in value]
    return _last_names(value) if key in _PATHS and isinstance(value, str) else value


def _last_names(path: str) -> str:
    """The last two parts of a path: enough to know it by, without the folders of a machine."""
    return "/".join(Path(path).parts[-2:]) if "://" not in path else path.rstrip("/").rpartition("/")[2]
