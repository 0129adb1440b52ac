"""An endless source of synthetic clips, in the place that a manifest and its reader have for shards.

Its samples carry no video: whoever transforms a sample draws the clip, from the generator of the sample's position. A
position in an epoch therefore always shows the same clip, and no clip comes twice, in whatever epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

from videomae.data.shards.reader import Sample
from videomae.data.synthetic.config import SyntheticConfig
from videomae.data.synthetic.images import open_images

NAME = "synthetic"


@dataclass(frozen=True, kw_only=True)
class SyntheticSample(Sample):
    """A clip that is still to be drawn. `video` is empty, and `id` says nothing about the content."""

    config: SyntheticConfig


@dataclass(frozen=True)
class SyntheticSet:
    """As many samples an epoch as the config says. Reading one costs nothing, so one chunk holds them all."""

    config: SyntheticConfig

    @property
    def samples(self) -> int:
        return self.config.epoch

    @property
    def chunk(self) -> int:
        return self.config.epoch

    def __len__(self) -> int:
        return self.samples

    def read(self, sample: int, *, weight: float = 1.0) -> SyntheticSample:
        """The sample of an id; there is nothing to read."""
        return SyntheticSample(
            id=sample, key=str(sample), shard=NAME, video=b"", label=-1, group="", frames=0, fps=0.0, width=0, height=0,
            weight=weight, config=self.config,
        )  # fmt: skip

    def shard_and_key(self, sample: int) -> tuple[str, str]:
        """See `ShardReader.shard_and_key`."""
        return NAME, str(sample)


def open_synthetic(config: SyntheticConfig) -> SyntheticSet:
    """Return the set of a config, whose images can be read.

    Raises:
        UserError: there are none.
    """
    if config.images:
        open_images(config.images)
    return SyntheticSet(config)
