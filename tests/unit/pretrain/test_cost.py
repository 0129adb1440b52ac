"""The work of a pretraining step against torch's own counter, which sees the backward pass too."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from pretrain.autoencoder import MaskedAutoencoder
from pretrain.batch import PretrainBatch
from pretrain.cost import workload
from pretrain.masking import MaskConfig
from tests.tiny import TINY_DECODER, TINY_ENCODER, tiny_batch


def counted_by_torch(batch: PretrainBatch) -> int:
    model = MaskedAutoencoder(TINY_ENCODER, TINY_DECODER).to("meta")
    patches_BVP = torch.empty(*batch.visible_BV.shape, TINY_ENCODER.patch_dim)
    inputs = (patches_BVP, batch.visible_BV, batch.hidden_BH, batch.ignored_BS)
    with FlopCounterMode(display=False) as counter:  # on the CPU it overlooks attention
        model(*(tensor.to("meta") for tensor in inputs)).sum().backward()
    return counter.get_total_flops()


def test_the_work_on_a_clip_is_that_of_a_forward_and_backward_pass() -> None:
    work = workload(TINY_ENCODER, TINY_DECODER, MaskConfig(ratio=0.75))
    assert work.flops == counted_by_torch(tiny_batch(seed=0, samples=1))
    assert work.parameters == sum(p.numel() for p in MaskedAutoencoder(TINY_ENCODER, TINY_DECODER).parameters())


def test_a_larger_mask_saves_work_in_the_encoder_alone() -> None:
    low, high = (workload(TINY_ENCODER, TINY_DECODER, MaskConfig(ratio=ratio)) for ratio in (0.5, 0.75))
    assert high.multiply_adds["encoder"] < 0.7 * low.multiply_adds["encoder"]
    assert high.multiply_adds["decoder"] > low.multiply_adds["decoder"]  # its head predicts more patches


def test_a_share_saves_work_in_the_decoder_alone() -> None:
    mask = MaskConfig(ratio=0.75)
    whole, part = (workload(TINY_ENCODER, TINY_DECODER, mask, share=share) for share in (1.0, 0.25))
    assert part.multiply_adds["encoder"] == whole.multiply_adds["encoder"]
    assert part.multiply_adds["decoder"] < 0.6 * whole.multiply_adds["decoder"]
