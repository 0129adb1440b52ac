"""The pictures of the report: which clips are hard, and where the encoder looks."""

import dataclasses

import numpy as np
import torch

from finetune.benchmark.pictures import attention_frames, attention_map, hardest
from finetune.models import build, parse_model
from tests.unit.finetune.test_report import predictions
from videomae.models.transformer import Attention

TINY = {"frames": 8, "size": 32, "tubelet": 2, "patch": 8, "dim": 48, "depth": 2, "heads": 3}


def test_the_clip_with_the_least_probability_is_the_hardest() -> None:
    first = predictions(wrong=3)
    other = dataclasses.replace(first, probabilities_SK=np.full((20, 2), 0.5))
    order = hardest([first, other])
    own = first.probabilities_SK[np.arange(20), first.labels_S]
    assert order == np.argsort(own, kind="stable").tolist()
    assert set(order[:3]) == {0, 1, 2}


def test_the_attention_is_that_of_the_last_block() -> None:
    config = parse_model({"name": "videomae", "encoder": TINY}, source="test")
    torch.manual_seed(0)
    model = build(config, 2).eval()
    last = next(block for name, block in model.named_modules() if name == "encoder.blocks.1.attn")
    assert isinstance(last, Attention)
    with torch.no_grad():
        last.qkv.weight.normal_()  # an untrained model attends evenly
    frames_TCHW = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    pictures = attention_frames(model, config.input, frames_TCHW)
    assert [picture.shape for picture in pictures] == [(32, 32, 3)] * 4
    assert np.array_equal(pictures[0], frames_TCHW[0].permute(1, 2, 0).numpy())
    video = torch.rand(1, 3, 8, 32, 32)
    heat_thw = attention_map(model, video)
    assert heat_thw.shape == (4, 4, 4)
    assert (heat_thw.min(), heat_thw.max()) == (0, 1)
    tokens: list[torch.Tensor] = []
    handle = last.register_forward_pre_hook(lambda layer, inputs: tokens.append(inputs[0]))
    model(video)
    handle.remove()
    query, key, _ = (part.detach() for part in last.project(tokens[0]))
    weights_N = np.zeros(64)
    for head in range(3):
        score = query[0, :, 16 * head : 16 * head + 16] @ key[0, :, 16 * head : 16 * head + 16].T / 4
        weights_N += score.softmax(-1).mean(0).numpy() / 3
    assert heat_thw.argmax() == weights_N.argmax()
    assert np.corrcoef(heat_thw.ravel(), weights_N)[0, 1] > 0.999
