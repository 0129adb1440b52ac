"""Means over a batch that is filled up are means over its real clips, however it is cut."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from videomae.data.order.order import Order, OrderConfig
from videomae.data.sample_weights import stack_weights, weighted_mean


def test_a_whole_batch_is_not_weighed_at_all() -> None:
    assert stack_weights([1.0] * 8) is None
    values = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(weighted_mean(values, None), values.mean())


@given(
    samples=st.integers(1, 300), batch=st.sampled_from([8, 24, 48]), parts=st.sampled_from([1, 2, 4, 8]), data=st.data()
)
def test_the_mean_over_all_parts_is_that_of_the_real_clips(
    samples: int, batch: int, parts: int, data: st.DataObject
) -> None:
    order = Order(OrderConfig(partial="pad"), samples=samples, batch=batch, chunk=10)
    places = order.slots(data.draw(st.integers(0, 3 * order.batches)))
    values = torch.randn(batch, 2, 3, generator=torch.Generator().manual_seed(samples), dtype=torch.float64)
    share = batch // parts
    cuts = [slice(first, first + share) for first in range(0, batch, share)]
    means = [weighted_mean(values[cut], stack_weights(place.weight for place in places[cut])) for cut in cuts]
    real = torch.tensor([place.weight > 0 for place in places])
    assert torch.stack(means).mean().item() == pytest.approx(values[real].mean().item(), abs=1e-6)
