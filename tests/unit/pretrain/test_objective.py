"""The objective against a slow reference in float64 that is written from the paper."""

import numpy as np
import torch

from pretrain.objective import (
    PatchNormalizer,
    hidden_targets,
    measure,
    reconstruction_loss,
    to_pixels,
    trivial_loss,
)
from videomae.data.transforms.augment import IMAGENET_MEAN, IMAGENET_STD, normalize
from videomae.models.encoder import EncoderConfig, patchify, unpatchify

ENCODER = EncoderConfig(frames=4, size=16, tubelet=2, patch=8, dim=12, depth=1, heads=2)


def draw_case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(3)
    video = torch.from_numpy(rng.integers(0, 256, (2, 3, 4, 16, 16), dtype=np.uint8))
    hidden = torch.tensor([[0, 3, 4, 7], [1, 2, 5, 6]])
    predictions = torch.from_numpy(rng.normal(size=(2, 4, ENCODER.patch_dim))).float()
    return video, hidden, predictions


def slow_loss(video: torch.Tensor, hidden: torch.Tensor, predictions: torch.Tensor) -> float:
    """Patch by patch, channel by channel, value by value."""
    pixels = video.numpy().astype(np.float64) / 255
    errors = []
    for sample in range(len(pixels)):
        for place, token in enumerate(hidden[sample].tolist()):
            time, row, column = token // 4, token % 4 // 2, token % 2
            patch = pixels[sample, :, 2 * time : 2 * time + 2, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            wanted = np.empty_like(patch)
            for channel in range(3):
                values = patch[channel]
                wanted[channel] = (values - values.mean()) / (values.std(ddof=1) + 1e-6)
            flat = [wanted[c, t, y, x] for t in range(2) for y in range(8) for x in range(8) for c in range(3)]
            errors += list((np.array(flat) - predictions[sample, place].numpy().astype(np.float64)) ** 2)
    return float(np.mean(errors))


def test_loss_equals_the_slow_reference() -> None:
    video, hidden, predictions = draw_case()
    targets, _ = hidden_targets(video, hidden, encoder=ENCODER, normalize=True)
    assert abs(reconstruction_loss(predictions, targets).item() - slow_loss(video, hidden, predictions)) < 1e-6


def test_float_pixels_give_the_same_targets_as_uint8() -> None:
    video, hidden, _ = draw_case()
    as_bytes, _ = hidden_targets(video, hidden, encoder=ENCODER, normalize=True)
    as_floats, _ = hidden_targets(video.float() / 255, hidden, encoder=ENCODER, normalize=True)
    torch.testing.assert_close(as_bytes, as_floats)


def test_patchs_and_video_are_inverse() -> None:
    video, _, _ = draw_case()
    assert torch.equal(unpatchify(patchify(video, ENCODER), ENCODER), video)


def test_patches_are_normalised_like_the_whole_video() -> None:
    video, _, _ = draw_case()
    expected = patchify(normalize(video, IMAGENET_MEAN, IMAGENET_STD), ENCODER)
    torch.testing.assert_close(PatchNormalizer(ENCODER, video.device)(patchify(video, ENCODER)), expected)


def test_a_perfect_prediction_gives_the_pixels_back() -> None:
    video, hidden, _ = draw_case()
    targets, statistics = hidden_targets(video, hidden, encoder=ENCODER, normalize=True)
    plain, _ = hidden_targets(video, hidden, encoder=ENCODER, normalize=False)
    torch.testing.assert_close(to_pixels(targets, statistics, normalize=True), plain, atol=1e-5, rtol=0)


def test_predicting_the_mean_costs_what_the_docstring_says() -> None:
    video, hidden, predictions = draw_case()
    targets, _ = hidden_targets(video, hidden, encoder=ENCODER, normalize=True)
    pixels = ENCODER.patch_dim // 3
    assert abs(reconstruction_loss(torch.zeros_like(predictions), targets).item() - (pixels - 1) / pixels) < 1e-4


def test_both_errors_are_the_same_whichever_target_is_trained_on() -> None:
    video, hidden, predictions = draw_case()
    targets, statistics = hidden_targets(video, hidden, encoder=ENCODER, normalize=True)
    pixels, _ = hidden_targets(video, hidden, encoder=ENCODER, normalize=False)
    painted = to_pixels(predictions, statistics, normalize=True)
    normalised = measure(predictions, targets, statistics, normalized=True)
    plain = measure(painted, pixels, statistics, normalized=False)
    torch.testing.assert_close(normalised["normalized_loss"].value, reconstruction_loss(predictions, targets))
    torch.testing.assert_close(plain["pixel_loss"].value, (painted - pixels).square().mean())
    torch.testing.assert_close(normalised["pixel_loss"].value, plain["pixel_loss"].value, rtol=1e-3, atol=0)


def test_predicting_the_mean_has_the_trivial_loss_in_both_units() -> None:
    video, hidden, predictions = draw_case()
    for normalized in (True, False):
        targets, statistics = hidden_targets(video, hidden, encoder=ENCODER, normalize=normalized)
        means = torch.zeros_like(predictions)
        if not normalized:
            means = to_pixels(means, statistics, normalize=True)
        measured = measure(means, targets, statistics, normalized=normalized)["normalized_loss"].value
        assert abs(measured.item() - trivial_loss(ENCODER).value) < 1e-4
