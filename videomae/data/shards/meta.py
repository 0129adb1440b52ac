"""What stands beside each video in a shard: KEY.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Meta:
    """Label and class, the source group that splits must keep whole, the stored video's shape, and where it is from.

    `sha256` is that of the source file, before it was encoded anew.
    """

    label: int
    class_name: str
    group: str
    frames: int
    fps: float
    width: int
    height: int
    sha256: str
    source: str

    def to_json(self) -> bytes:
        values = asdict(self)
        values["class"] = values.pop("class_name")
        return json.dumps(values, sort_keys=True).encode()
