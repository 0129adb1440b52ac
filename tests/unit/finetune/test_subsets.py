"""Few-label subsets: stratified, nested, of whole sources, the same for the same seed."""

import itertools

import numpy as np
import pytest
from PIL import Image

from finetune.subsets import (
    LabelledSamples,
    SubsetError,
    alike,
    cut_holdout,
    difference_hash,
    few_labels,
    source_numbers,
)
from videomae.data.video import EncodingConfig, decode, encode


def samples(count: int = 120, sources: int = 30, seed: int = 0) -> LabelledSamples:
    random = np.random.default_rng(seed)
    return LabelledSamples(
        place="shards/train",
        classes=("Fight", "NonFight", "Walk"),
        keys=tuple(f"clip-{number}" for number in range(count)),
        groups=("",) * count,
        files=("",) * count,
        labels_S=np.concatenate([np.arange(3), random.integers(3, size=count - 3)]),
        sources_S=random.integers(sources, size=count),
    )


def test_samples_of_one_group_or_one_file_are_one_source() -> None:
    names = [("a", "1"), ("b", "2"), ("a", "3"), ("c", "2"), ("d", "4"), ("e", "3")]
    assert source_numbers(names).tolist() == [0, 1, 0, 1, 2, 0]
    assert source_numbers(names, ((0, 4),)).tolist() == [0, 1, 0, 1, 0, 0]


def test_copies_look_alike_though_encoded_and_scaled_anew_and_others_do_not() -> None:
    hashes = []
    for seed in range(6):
        coarse = np.random.default_rng(seed).integers(0, 256, (3, 6, 8, 3), dtype=np.uint8)
        pictures = [Image.fromarray(picture).resize((128, 96), Image.Resampling.BICUBIC) for picture in coarse]
        for size, crf in (((128, 96), 12), ((80, 60), 32)):
            video = encode([np.asarray(one.resize(size)) for one in pictures], 10, EncodingConfig(fps=None, crf=crf))
            hashes.append(difference_hash(decode(video, range(3))))
    assert alike(np.stack(hashes), np.arange(12)) == tuple((2 * number, 2 * number + 1) for number in range(6))


def test_hashes_are_alike_if_a_tenth_of_their_bits_differ() -> None:
    bits_SB = np.random.default_rng(0).random((70, 192)) < 0.5
    for number in range(35):
        bits_SB[number + 35] = bits_SB[number]
        bits_SB[number + 35, : number + 1] ^= True
    distances = [(i, j, int((bits_SB[i] != bits_SB[j]).sum())) for i, j in itertools.combinations(range(70), 2)]
    wanted = {(i, j) for i, j, distance in distances if distance <= 19}
    assert len(wanted) == 19
    shares = np.array_split(np.arange(70), 3)
    assert {pair for share in shares for pair in alike(bits_SB, share)} == wanted


@pytest.mark.parametrize("seed", [0, 1])
def test_a_subset_has_as_many_of_each_class_and_is_part_of_every_larger_one(seed: int) -> None:
    found = samples()
    subsets = [few_labels(found, seed=seed, per_class=number, fraction=None) for number in (1, 2, 5, 10)]
    for number, subset in zip((1, 2, 5, 10), subsets, strict=True):
        assert np.bincount(found.labels_S[subset]).tolist() == [number] * 3
    assert all(set(small) <= set(large) for small, large in itertools.pairwise(subsets))
    assert (few_labels(found, seed=seed, per_class=5, fraction=None) == subsets[2]).all()
    assert set(few_labels(found, seed=seed + 1, per_class=5, fraction=None)) != set(subsets[2])


def test_a_fraction_is_stratified_and_all_is_all() -> None:
    found = samples()
    counts = np.bincount(found.labels_S)
    half = few_labels(found, seed=0, per_class=None, fraction=0.5)
    assert np.bincount(found.labels_S[half]).tolist() == [int(count / 2 + 0.5) for count in counts]
    assert few_labels(found, seed=0, per_class=None, fraction=1.0).tolist() == list(range(120))


def test_sources_are_taken_whole_but_for_the_last_of_each_class() -> None:
    found = samples()
    chosen = set(few_labels(found, seed=0, per_class=10, fraction=None).tolist())
    for label in range(3):
        members = np.flatnonzero(found.labels_S == label)
        cut = {
            source
            for source in found.sources_S[members]
            if 0
            < len(chosen & set(members[found.sources_S[members] == source]))
            < (found.sources_S[members] == source).sum()
        }
        assert len(cut) <= 1


@pytest.mark.parametrize(
    ("per_class", "fraction", "says"),
    [
        (None, 0.001, "leaves the class 'Fight' empty"),
        (1000, None, "labels_per_class=1000, but the class 'Fight' has only"),
    ],
)
def test_a_subset_that_cannot_be_drawn_is_refused(per_class: int | None, fraction: float | None, says: str) -> None:
    with pytest.raises(SubsetError, match=says):
        few_labels(samples(), seed=0, per_class=per_class, fraction=fraction)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_holdout_shares_no_source_and_has_every_class(seed: int) -> None:
    found = samples()
    ids = few_labels(found, seed=seed, per_class=30, fraction=None)
    train, holdout = cut_holdout(found, ids, fraction=0.2, seed=seed)
    assert sorted([*train, *holdout]) == ids.tolist()
    assert not set(found.sources_S[train]) & set(found.sources_S[holdout])
    assert np.abs(np.bincount(found.labels_S[holdout]) - 6).max() <= 3
    again = cut_holdout(found, ids, fraction=0.2, seed=seed)
    assert (again[1] == holdout).all()


def test_a_holdout_without_sources_is_refused() -> None:
    found = samples(sources=1)
    with pytest.raises(SubsetError, match=r"no holdout of 0\.2 can be cut off by source video.*1 sources"):
        cut_holdout(found, np.arange(120), fraction=0.2, seed=0)
