"""Layer-wise rates on the real classifier."""

import pytest

from finetune.layer_decay import layer_lr_scales
from finetune.models import build
from finetune.models.videomae import VideomaeConfig
from tests.tiny import TINY_ENCODER


def test_rates_fall_from_the_head_to_the_pixels() -> None:
    factor = layer_lr_scales(build(VideomaeConfig(encoder=TINY_ENCODER), 2), 0.5)
    assert factor("head.weight") == 1
    assert factor("fc_norm.weight") == 1
    assert factor("encoder.blocks.1.mlp.fc1.weight") == pytest.approx(0.5)
    assert factor("encoder.blocks.0.attn.qkv.weight") == pytest.approx(0.25)
    assert factor("encoder.patch_embed.proj.weight") == pytest.approx(0.125)
