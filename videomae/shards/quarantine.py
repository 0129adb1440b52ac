"""Bad samples in training: one line each in quarantine.jsonl, and quotas that end a run with too many of them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from videomae.config import configclass

_log = logging.getLogger(__name__)


class BadSampleError(ValueError):
    """More bad samples than the quotas allow, or one where none is allowed."""


@configclass
class QuotaConfig:
    """How many distinct samples may be bad before the run ends."""

    samples: int = 1000
    fraction: float = 0.05  # of the data set
    per_shard: int = 200

    def __post_init__(self) -> None:
        if self.samples < 0 or not 0 <= self.fraction <= 1 or self.per_shard < 0:
            raise ValueError("quotas must not be negative, and fraction at most 1")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A sample that could not be used: where it lies and why."""

    shard: str
    key: str
    reason: str


class Quarantine:
    """The list of bad samples of a run. Lines of earlier parts of the run count too."""

    def __init__(self, file: Path, quota: QuotaConfig, *, samples: int) -> None:
        self._file, self._quota, self._samples = file, quota, samples
        self._known: set[tuple[str, str]] = set()
        if file.is_file():
            for line in file.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):  # cut by a kill or a full disk
                    values = json.loads(line)
                    self._known.add((values["shard"], values["key"]))

    def record(self, fault: Fault, *, step: int) -> None:
        """Write `fault` down if it is new.

        Raises:
            BadSampleError: a quota is used up.
        """
        if (fault.shard, fault.key) in self._known:
            return
        self._known.add((fault.shard, fault.key))
        try:
            self._write(json.dumps({**asdict(fault), "step": step}) + "\n")
        except OSError as error:
            _log.error("cannot write %s (%s); the run goes on without the line for %s", self._file, error, fault)
        self._check()

    def _write(self, line: str) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # the last line is cut: do not lose this one too
                    line = "\n" + line
            file.write(line.encode())

    def _check(self) -> None:
        bad = len(self._known)
        shard, in_shard = Counter(shard for shard, _ in self._known).most_common(1)[0]
        quota = self._quota
        for found, allowed, what in (
            (bad, quota.samples, "quota.samples"),
            (bad, max(1, int(quota.fraction * self._samples)), f"quota.fraction={quota.fraction} of {self._samples}"),
            (in_shard, quota.per_shard, f"quota.per_shard in {shard}"),
        ):
            if found > allowed:
                raise BadSampleError(
                    f"{found} bad samples, {allowed} allowed by {what}; {self._file} lists them:"
                    " mend the shards, or raise the quota"
                )
