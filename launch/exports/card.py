"""The model card beside an export: data, recipe, figures and limits, as README.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from finetune.evaluation import FILE
from finetune.export import TrainedClassifier
from videomae.models.weights.export import EncoderExport
from videomae.run.directory import EXECUTION, RunDirectory

_PATHS = ("run", "shards", "weights", "encoder_weights", "resume")  # settings whose folders mean nothing elsewhere
_LIMITS = (
    "- Scores say how much a clip resembles the training classes. They are no calibrated probabilities, and "
    "say nothing of events that are not among the classes.",
    "- Cameras, places and lengths of clips that differ from the training data lower the accuracy; measure it "
    "on your own recordings, and set the threshold of alarms on quiet ones.",
    "- A decision about people needs a person who looks at the video.",
)


def classifier_card(found: TrainedClassifier, run: RunDirectory | None) -> str:
    """Return the card of a classifier."""
    input, stored = found.model.input, found.stored
    sampled = (
        f"{input.frames} frames {input.stride} apart"
        if input.frame_sampling == "clip"
        else f"{input.frames} frames spread evenly over the clip"
    )
    clips = (
        "The export does not describe the clips that it was trained on."
        if stored is None
        else f"Training clips: {stored.seconds:g} s (median), at most {stored.longest:g} s, {stored.fps:g} frames a "
        f"second, short side {stored.short_side} pixels."
    )
    return "\n".join(
        [
            f"# {found.model.name}: {' / '.join(found.classes)}",
            "",
            f"A video classifier ({found.model.name}, initial weights: {found.model.pretrained}).",
            "",
            f"Input: {sampled}, {input.size} x {input.size} pixels. Output: one logit per class, in the order "
            f"{', '.join(found.classes)}.",
            "",
            "## Data",
            "",
            clips,
            *_data_lines(run),
            *_recipe(run),
            "## Figures",
            "",
            *_figures(run),
            "## Limits",
            "",
            *_LIMITS,
            "",
        ]
    )


def encoder_card(found: EncoderExport, run: RunDirectory | None) -> str:
    """Return the card of an encoder."""
    config = found.config
    return "\n".join(
        [
            "# Video encoder",
            "",
            f"A VideoMAE encoder: width {config.dim}, {config.depth} blocks, {config.heads} heads, patches of "
            f"{config.tubelet} x {config.patch} x {config.patch}.",
            "",
            f"Input: {config.frames} frames of {config.size} x {config.size} pixels. "
            f"Output: {config.num_patches} tokens of width {config.dim}, ordered by time, height and width.",
            "",
            "## Data",
            "",
            "Pretrained without labels, by predicting hidden patches of videos.",
            *_data_lines(run),
            *_recipe(run),
            "## Limits",
            "",
            "- The features are made for fine-tuning; without it they tell classes apart less well.",
            "- They describe what the pretraining videos show, with its gaps.",
            "",
        ]
    )


def _data_lines(run: RunDirectory | None) -> list[str]:
    shards = None if run is None else (_settings(run).get("data") or {}).get("shards")
    named = [shards] if isinstance(shards, str) else [one["shards"] for one in shards or () if "shards" in one]
    names = ", ".join(_last_names(name) for name in named)
    return ["", f"Shards: {names}." if named else "The shards are unknown.", ""]


def _recipe(run: RunDirectory | None) -> list[str]:
    if run is None:
        return ["## Recipe", "", "Unknown: the weights were imported.", ""]
    science = {key: value for key, value in _settings(run).items() if key not in EXECUTION}
    settings = _without_folders(science)
    text = yaml.safe_dump(settings, sort_keys=False, width=120).rstrip()
    return ["## Recipe", "", f"Run {run.path.resolve().name}:", "", "```yaml", text, "```", ""]


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


def _settings(run: RunDirectory) -> dict[str, Any]:
    return yaml.safe_load(run.config.read_text())


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _last_names(one) if key in _PATHS and isinstance(one, str) else _without_folders(one)
            for key, one in value.items()
        }
    return [_without_folders(one) for one in value] if isinstance(value, list) else value


def _last_names(path: str) -> str:
    """The last two parts of a path: enough to know it by, without the folders of a machine."""
    return "/".join(Path(path).parts[-2:]) if "://" not in path else path.rstrip("/").rpartition("/")[2]
