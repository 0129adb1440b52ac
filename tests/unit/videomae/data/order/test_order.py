"""The order: exactly once, the same for any number of ranks, any batch found directly."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videomae.data.order.order import Order, OrderConfig, OrderError, SampleSlot
from videomae.data.order.permutation import TABLE_LIMIT, permutation


@st.composite
def orders(draw: st.DrawFn) -> Order:
    lanes = draw(st.sampled_from([None, 1, 2, 3, 4]))
    batch = (lanes or 1) * draw(st.integers(1, 12))
    partial = draw(st.sampled_from(["drop", "pad"]))
    samples = draw(st.integers(batch if partial == "drop" else lanes or 1, 600))
    config = OrderConfig(
        seed=draw(st.integers(0, 2**40)),
        lanes=lanes,
        block=draw(st.sampled_from([None, 1, 7, 64])),
        partial=partial,
    )
    subset = None
    if draw(st.booleans()):
        subset = [3 * number + 1 for number in range(samples)]
    return Order(
        config,
        samples=3 * samples + 2 if subset else samples,
        batch=batch,
        chunk=draw(st.integers(1, 99)),
        subset=subset,
    )


def epoch_of(order: Order, epoch: int) -> list[SampleSlot]:
    return [
        place for number in range(epoch * order.batches, (epoch + 1) * order.batches) for place in order.slots(number)
    ]


@settings(max_examples=150, deadline=None)
@given(orders(), st.integers(0, 5))
def test_an_epoch_holds_each_sample_exactly_once(order: Order, epoch: int) -> None:
    places = epoch_of(order, epoch)
    real = [place.sample for place in places if place.weight]
    everything = set(range(order.samples)) if order.subset is None else set(order.subset.tolist())
    assert len(real) == len(set(real)) == order.used
    assert set(real) <= everything
    assert order.samples - order.used < order.batch
    assert len(places) == order.batches * order.batch
    assert [place.position for place in places] == list(range(len(places)))
    assert {place.epoch for place in places} == {epoch}
    padding = [place for place in places if not place.weight]
    assert all(place.position >= (order.batches - 1) * order.batch for place in padding)


@settings(max_examples=150, deadline=None)
@given(orders(), st.integers(0, 5))
def test_weights_sum_up_to_the_batch_and_are_one_in_whole_batches(order: Order, epoch: int) -> None:
    for number in range(epoch * order.batches, (epoch + 1) * order.batches):
        weights = [place.weight for place in order.slots(number)]
        real = [weight for weight in weights if weight]
        assert len(real) == order.real(number) > 0
        assert sum(weights) == pytest.approx(order.batch, rel=1e-12)
        assert len(set(real)) == 1
        assert len(real) < order.batch or set(real) == {1.0}


def test_the_last_batch_is_filled_up_with_weight_zero() -> None:
    order = Order(OrderConfig(partial="pad", lanes=1), samples=11, batch=4, chunk=3)
    assert order.batches == 3
    assert [place.weight for place in order.slots(2)] == [4 / 3, 4 / 3, 4 / 3, 0.0]
    assert [place.weight for number in (0, 1, 3) for place in order.slots(number)] == [1.0] * 12
    few = Order(OrderConfig(partial="pad"), samples=3, batch=8, chunk=9)
    assert [few.batches, few.real(0), few.real(7)] == [1, 3, 3]


@settings(max_examples=100, deadline=None)
@given(orders(), st.integers(1, 64), st.integers(0, 10**9))
def test_ranks_together_see_what_one_sees(order: Order, ranks: int, number: int) -> None:
    edges = [order.batch * rank // ranks for rank in range(ranks + 1)]
    together = [place for start, stop in itertools.pairwise(edges) for place in order.slots(number, start, stop)]
    assert together == order.slots(number)


def test_epochs_and_seeds_differ_and_repeat() -> None:
    def sequence(seed: int, epoch: int) -> list[int]:
        order = Order(OrderConfig(seed=seed), samples=1000, batch=8, chunk=50)
        return [place.sample for place in epoch_of(order, epoch)]

    assert sequence(0, 0) == sequence(0, 0)
    assert len({tuple(sequence(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_a_tiny_set_is_shuffled_whole() -> None:
    order = Order(OrderConfig(), samples=40, batch=8, chunk=40)
    assert order.lanes == 1
    first_batches = {frozenset(place.sample for place in order.slots(epoch * order.batches)) for epoch in range(50)}
    assert len(first_batches) > 45
    assert set().union(*first_batches) == set(range(40))


def test_a_rank_meets_few_shards() -> None:
    order = Order(OrderConfig(lanes=64), samples=1_000_000, batch=1024, chunk=1000)
    shards = {place.sample // 1000 for number in range(order.batches // 10) for place in order.slots(number, 0, 16)}
    assert len(shards) < 12  # a tenth of an epoch of one of 64 ranks, 1560 samples: 2 would do, 1000 is all


def test_any_place_of_a_huge_set_is_found_directly() -> None:
    order = Order(OrderConfig(lanes=1024), samples=10**10, batch=4096, chunk=10_000)
    places = order.slots(7 * order.batches + order.batches // 2)
    assert len({place.sample for place in places}) == 4096
    assert all(0 <= place.sample < 10**10 for place in places)


@pytest.mark.parametrize("size", [1, 2, 1000, TABLE_LIMIT, TABLE_LIMIT + 1, 100_003])
def test_permutations_are_one_to_one_and_invert(size: int) -> None:
    places = np.arange(size)
    shuffled = permutation(size, key=(1, 2), counter=(3, 4, 5))
    images = shuffled.forward(places)
    assert np.array_equal(np.sort(images), places)
    assert np.array_equal(shuffled.inverse(images), places)
    if size > 1000:
        moved = np.abs(images - places).mean() / size
        assert 0.3 < moved < 0.37  # a third, for a uniform permutation
        assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 0.02


def test_replacements_are_a_function_of_place_and_attempt() -> None:
    order = Order(OrderConfig(seed=5), samples=100, batch=10, chunk=10, subset=range(50, 100))
    draws = [order.replacements.sample(SampleSlot(2, 17, 60), attempt) for attempt in range(200)]
    assert draws == [order.replacements.sample(SampleSlot(2, 17, 99), attempt) for attempt in range(200)]
    assert set(draws) <= set(range(50, 100))
    assert len(set(draws)) > 40


@pytest.mark.parametrize(
    ("samples", "batch", "lanes", "said"),
    [(0, 1, None, "at least 1"), (5, 8, None, "choose a batch of 5"), (64, 8, 3, "divisor"), (8, 8, 16, "divisor")],
)
def test_orders_that_cannot_be_are_refused(samples: int, batch: int, lanes: int | None, said: str) -> None:
    with pytest.raises(OrderError, match=said):
        Order(OrderConfig(lanes=lanes), samples=samples, batch=batch, chunk=10)
