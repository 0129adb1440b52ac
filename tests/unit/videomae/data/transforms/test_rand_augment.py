"""RandAugment: timm's two tables, level by level, its operations' effect, and its settings string."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from PIL import Image

import videomae.core.torchvision_compat  # noqa: F401  timm imports torchvision, which this module makes importable
from videomae.data.transforms.rand_augment import (
    INCREASING_OPERATIONS,
    OPERATIONS,
    Operation,
    RandAugmentSettings,
    rand_augment,
)

auto_augment = pytest.importorskip("timm.data.auto_augment")
TABLES = [
    (OPERATIONS, auto_augment._RAND_TRANSFORMS),
    (INCREASING_OPERATIONS, auto_augment._RAND_INCREASING_TRANSFORMS),
]
HPARAMS = {"translate_pct": 0.45}


def _timm_arguments(name: str, level: float, sign: float, monkeypatch: pytest.MonkeyPatch) -> tuple[float, ...]:
    monkeypatch.setattr(auto_augment, "_randomly_negate", lambda value: sign * value)
    level_to_arg = auto_augment.LEVEL_TO_ARG[name]
    return () if level_to_arg is None else level_to_arg(level, HPARAMS)


@pytest.mark.parametrize(("table", "names"), TABLES, ids=["default", "inc1"])
def test_every_operation_has_the_argument_of_timm_at_every_level(
    table: Mapping[str, Operation], names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(table) == names
    for name, operation in table.items():
        for level in [*range(11), 6.51, 7.49]:
            for sign in (1.0, -1.0):
                expected = _timm_arguments(name, level, sign, monkeypatch)
                got = operation.argument(level, sign)
                assert got == pytest.approx(expected[0] if expected else 0.0, rel=1e-12), (name, level, sign)


def _timm_image(name: str, arguments: tuple[float, ...], image_HWC: np.ndarray) -> np.ndarray:
    if name.startswith("Posterize") and arguments[0] == 0:
        return np.zeros_like(image_HWC)  # what earlier versions of PIL return; the present one refuses 0 bits
    options = {"resample": Image.Resampling.BILINEAR, "fillcolor": (128, 128, 128)}
    return np.asarray(auto_augment.NAME_TO_OP[name](Image.fromarray(image_HWC), *arguments, **options))


@pytest.mark.parametrize(("table", "names"), TABLES, ids=["default", "inc1"])
@pytest.mark.parametrize("level", [0, 3, 7, 10])
def test_every_operation_changes_an_image_as_that_of_timm(
    table: Mapping[str, Operation], names: list[str], level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, columns = np.mgrid[:48, :64]
    image_HWC = np.stack([2 * rows + 40, 3 * columns + 20, rows + columns], axis=-1).astype(np.uint8)
    frames_TCHW = torch.from_numpy(image_HWC).permute(2, 0, 1)[None]
    for name in names:
        arguments = _timm_arguments(name, level, 1.0, monkeypatch)
        expected_HWC = _timm_image(name, arguments, image_HWC)
        got_HWC = table[name].apply(frames_TCHW, table[name].argument(level, 1.0))[0].permute(1, 2, 0).numpy()
        off = np.abs(got_HWC.astype(int) - expected_HWC.astype(int)).max(axis=-1)
        assert (off > 2).mean() < 0.05, (name, level)  # one row or column at a border, where fill is blended in


def test_levels_are_noisy_and_stay_within_0_and_10(monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[float] = []
    signs: list[float] = []

    def record(level: float, sign: float) -> float:
        levels.append(level)
        signs.append(sign)
        return 0.0

    recorder = {"Recorder": Operation(record, lambda frames, _: frames)}
    monkeypatch.setattr("videomae.data.transforms.rand_augment.OPERATIONS", recorder)
    frames_TCHW = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    for seed in range(200):
        rand_augment(frames_TCHW, "rand-m9-n4-mstd1", np.random.default_rng(seed))
    assert max(levels) == 10
    assert 0 <= min(levels) < 8
    assert 0.45 < len(levels) / 800 < 0.55  # probability 0.5
    assert 0.4 < np.mean(np.array(signs) > 0) < 0.6


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("rand-m7-n4-mstd0.5", RandAugmentSettings(7, 4, 0.5, increasing=False)),
        ("rand-m7-n4-mstd0.5-inc1", RandAugmentSettings(7, 4, 0.5, increasing=True)),
        ("rand-m7-n4-mstd0.5-inc0", RandAugmentSettings(7, 4, 0.5, increasing=False)),
        ("rand-m9-n2", RandAugmentSettings(9, 2, 0.0, increasing=False)),
    ],
)
def test_settings_are_parsed(text: str, settings: RandAugmentSettings) -> None:
    assert RandAugmentSettings.parse(text) == settings


@pytest.mark.parametrize("text", ["", "rand", "rand-m12-n2", "rand-n2-m9", "augmix-m3", "rand-m7-n4-inc2"])
def test_malformed_settings_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"rand-m7-n4-mstd0\.5-inc1"):
        RandAugmentSettings.parse(text)
