"""What a build was made from: its options and every source file, kept in build.json to tell whether it still holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videomae.data.shards.manifest import ShardError
from videomae.data.build.sources import Listing

NAME = "build.json"


@dataclass(frozen=True, kw_only=True)
class Record:
    """Options as plain values, and name -> [bytes, modification time in ns] of every source file."""

    options: dict[str, Any]
    files: dict[str, list[int]]

    @classmethod
    def of(cls, options: dict[str, Any], listing: Listing) -> Record:
        """The record of a build that is about to start. Files that are listed but missing have no size or time."""
        files: dict[str, list[int]] = {}
        for source in (source for sources in listing.splits.values() for source in sources):
            for file in source.files:
                name = source.name if file == source.path else f"{source.name}/{file.name}"
                files[name] = [file.stat().st_size, file.stat().st_mtime_ns] if file.exists() else []
        return cls(options={**options, "labels": listing.digest}, files=files)

    @classmethod
    def read(cls, folder: Path) -> Record:
        try:
            values = json.loads((folder / NAME).read_text())
            return cls(options=values["options"], files=values["files"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ShardError(f"{folder / NAME} cannot be read ({error}); pass --overwrite to build again") from None

    def write(self, folder: Path) -> None:
        values = {"options": self.options, "files": self.files}
        (folder / NAME).write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")

    def differences(self, other: Record) -> list[str]:
        """In words, what `other` has otherwise; empty when the two builds would be the same."""
        old, new = _flat(self.options), _flat(other.options)
        found = [
            f"{name}: {old.get(name)} -> {new.get(name)}"
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ]
        for word, names in (
            ("added", other.files.keys() - self.files.keys()),
            ("gone", self.files.keys() - other.files.keys()),
            ("changed", {name for name in self.files if other.files.get(name, self.files[name]) != self.files[name]}),
        ):
            if names:
                found.append(f"{len(names)} source file(s) {word}, such as {min(names)}")
        return found


def _flat(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
