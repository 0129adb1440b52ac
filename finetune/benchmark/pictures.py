"""Pictures of a benchmark: the hardest clips, and where the encoder looks. `pictures/*.jpg`, listed in pictures.json.

A clip is hard if the models give its class little probability on average. The attention is that of the encoder's last
block: how much all tokens attend to each patch, averaged over heads.

Shapes: S videos, T frames, H height, W width; t, h, w: the grid of patches; N patches, B clips, D width.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from finetune.benchmark.summary import Model
from finetune.config import EvaluationConfig
from finetune.export import load_classifier
from finetune.models.interface import ModelInput
from finetune.predictions import Predictions
from finetune.stream import EvaluationViews
from finetune.subsets import LabelledSamples
from videomae.core.files import write_atomic, write_json
from videomae.data.shards.manifest import Manifest
from videomae.data.shards.reader import ShardReader
from videomae.data.transforms.augment import normalize
from videomae.data.video import decode
from videomae.models.encoder import VideoEncoder
from videomae.models.transformer import Attention

FOLDER, FILE = "pictures", "pictures.json"
_HARDEST, _ATTENDED, _FRAMES, _HEIGHT = 6, 3, 4, 112


def make_pictures(folder: Path, models: Sequence[Model], tested: Manifest) -> None:
    """Write the pictures of the videos in `tested` and their captions; makes none without predictions."""
    sets = [each for model in models for each in model.predictions if each.keys == _first_keys(models)]
    if not sets:
        return
    (folder / FOLDER).mkdir(exist_ok=True)
    reader, numbers = ShardReader(tested), {key: i for i, key in enumerate(LabelledSamples.read(tested).keys)}
    order = [place for place in hardest(sets) if sets[0].keys[place] in numbers]
    found: list[dict[str, Any]] = []
    for rank, place in enumerate(order[:_HARDEST]):
        sample = reader.read(numbers[sets[0].keys[place]])
        index = np.linspace(0, sample.frames - 1, _FRAMES).round().astype(np.int64)
        name = f"hardest-{rank + 1}.jpg"
        write_atomic(folder / FOLDER / name, _jpeg(list(decode(sample.video, index))))
        found.append({"kind": "hardest", "file": name, "caption": _caption(sets, place)})
    encoder_model = next((model for model in models if model.first.model.startswith("videomae")), None)
    if encoder_model is not None:
        classifier = load_classifier(folder / encoder_model.first.run / "export")
        module, input = classifier.module, classifier.model.input
        for rank, place in enumerate(order[:_ATTENDED]):
            name = f"attention-{rank + 1}.jpg"
            sample = reader.read(numbers[sets[0].keys[place]])
            view = EvaluationViews(EvaluationConfig(clips=1, crops=1), input)(sample, ())[0]
            write_atomic(folder / FOLDER / name, _jpeg(attention_frames(module, input, view.frames_TCHW)))
            found.append({"kind": "attention", "file": name, "caption": f"{encoder_model.title}: {sample.key}"})
    write_json(folder / FILE, found)


def read_pictures(folder: Path, kind: str) -> dict[str, bytes]:
    """The JPEG files of one kind by their captions; empty if there are none."""
    file = folder / FILE
    if not file.is_file():
        return {}
    listed = [entry for entry in json.loads(file.read_text()) if entry.get("kind") == kind]
    paths = {str(entry["caption"]): folder / FOLDER / Path(str(entry["file"])).name for entry in listed}
    return {caption: path.read_bytes() for caption, path in paths.items() if path.is_file()}


def hardest(sets: Sequence[Predictions]) -> list[int]:
    """The places of the videos, from the one whose class gets the least probability, in the mean over the runs."""
    own = [each.probabilities_SK[np.arange(len(each.labels_S)), each.labels_S] for each in sets]
    return np.argsort(np.mean(np.log(np.maximum(own, 1e-12)), axis=0), kind="stable").tolist()


def attention_frames(module: nn.Module, input: ModelInput, frames_TCHW: Tensor) -> list[np.ndarray]:
    """Frames of a uint8 clip at the model's size, each followed by itself under its attention."""
    video_BCTHW = normalize(frames_TCHW.permute(1, 0, 2, 3)[None], input.mean, input.std)
    heat_thw = attention_map(module, video_BCTHW)
    frames_THWC = frames_TCHW.permute(0, 2, 3, 1).numpy()
    pictures = []
    for t in np.linspace(0, len(heat_thw) - 1, min(_FRAMES // 2, len(heat_thw))).round().astype(int):
        frame_HWC = frames_THWC[min(t * len(frames_THWC) // len(heat_thw), len(frames_THWC) - 1)]
        size = (frame_HWC.shape[1], frame_HWC.shape[0])
        shade = Image.fromarray((255 * heat_thw[t]).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
        colour_HWC = 255 * matplotlib.colormaps["inferno"](np.asarray(shade) / 255)[..., :3]
        pictures += [frame_HWC, (0.45 * frame_HWC + 0.55 * colour_HWC).astype(np.uint8)]
    return pictures


@torch.no_grad()
def attention_map(module: nn.Module, video_BCTHW: Tensor) -> np.ndarray:
    """How much the tokens of the encoder's last block attend to each patch of one clip (t, h, w), scaled to [0, 1]."""
    encoder = next(part for part in module.modules() if isinstance(part, VideoEncoder))
    attention = [part for part in encoder.modules() if isinstance(part, Attention)][-1]
    taken: list[Tensor] = []

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        taken.append(inputs[0])

    handle = attention.register_forward_pre_hook(keep)
    try:
        module(video_BCTHW)
    finally:
        handle.remove()
    query_BND, key_BND, _ = attention.project(taken[-1])
    query, key = (rearrange(part, "b n (h d) -> b h n d", h=attention.heads) for part in (query_BND, key_BND))
    weights_N = torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, dim=-1).mean(dim=(0, 1, 2))
    size = encoder.config.grid_size
    heat_thw = weights_N.reshape(-1, size, size).numpy()
    return (heat_thw - heat_thw.min()) / max(float(np.ptp(heat_thw)), 1e-12)


def _first_keys(models: Sequence[Model]) -> tuple[str, ...]:
    return next((model.predictions[0].keys for model in models if model.predictions), ())


def _caption(sets: Sequence[Predictions], place: int) -> str:
    first = sets[0]
    wrong = sum(int(each.scores().correct[place] == 0) for each in sets)
    return f"{first.keys[place]}: {first.classes[first.labels_S[place]]}, {wrong} of {len(sets)} runs are wrong"


def _jpeg(frames: Sequence[np.ndarray]) -> bytes:
    """The frames side by side at one height."""
    images = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    images = [image.resize((round(image.width * _HEIGHT / image.height), _HEIGHT)) for image in images]
    strip = Image.new("RGB", (sum(image.width for image in images) + 4 * (len(images) - 1), _HEIGHT), "white")
    left = 0
    for image in images:
        strip.paste(image, (left, 0))
        left += image.width + 4
    data = io.BytesIO()
    strip.save(data, format="JPEG", quality=80)
    return data.getvalue()
