"""What a config of synthetic clips may not say, and what the message tells."""

import pytest

from videomae.core.config import ConfigError, parse
from videomae.data.synthetic.config import SyntheticConfig


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"epoch": 0}, "epoch: got 0; Input should be greater than 0"),
        ({"objects": [0, 2]}, r"two counts from 1 to 64, fewest first, got \[0, 2\]"),
        ({"objects": 3}, "objects"),
        ({"radius": [0.5, 0.2]}, r"radius must be two numbers from 0.02 to 1, smallest first, got \[0.5, 0.2\]"),
        ({"noise": 40}, "noise: got 40; Input should be less than or equal to 16"),
        ({"textures": "images"}, "needs images=FOLDER"),
        ({"images": "a"}, "images=a has no use with textures=noise; set textures=images"),
        ({"motion": "fast"}, "motion: got 'fast'.*'still'.*'single'"),
        ({"shape": "circles"}, "unknown key 'shape'; did you mean 'shapes'"),
    ],
)
def test_misuse_is_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(SyntheticConfig, values, source="test")
