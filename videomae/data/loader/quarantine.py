"""Record bad training samples, one line each in quarantine.jsonl, and end a run that exceeds its quota of them."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import Field, NonNegativeInt

from videomae.core.config import configclass
from videomae.core.errors import UserError

_log = logging.getLogger(__name__)


class BadSampleError(UserError):
    """More bad samples than the quota allows, or one where none is allowed."""


@configclass
class QuotaConfig:
    """The number of distinct bad samples, over all ranks of a run, beyond which the run ends."""

    samples: NonNegativeInt = 1000
    fraction: float = Field(0.05, ge=0, le=1)  # of the data set
    per_shard: NonNegativeInt = 200


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A sample that could not be used: its location and the reason."""

    shard: str
    key: str
    reason: str


class Quarantine:
    """The bad samples of a run, from all of its ranks and from before a resume.

    All ranks append to one `file`, each line in a single write. A rank that meets a fault reads the others' new lines.
    """

    def __init__(self, file: Path, quota: QuotaConfig, *, samples: int) -> None:
        self._file, self._quota, self._samples = file, quota, samples
        self._known: set[tuple[str, str]] = set()
        self._offset = 0  # bytes of the file that have been read
        self._read_new_lines()

    def record(self, fault: Fault, *, step: int) -> None:
        """Append `fault` unless it is listed already.

        Raises:
            BadSampleError: the run as a whole, not this rank alone, has exceeded a quota.
        """
        sample = (fault.shard, fault.key)
        if sample in self._known:
            return
        self._read_new_lines()
        if sample not in self._known:
            self._known.add(sample)
            try:
                self._append(json.dumps({**asdict(fault), "step": step}))
            except OSError as error:
                _log.error("cannot write %s (%s); training continues without a record of %s", self._file, error, fault)
            self._read_new_lines()  # if two ranks append at once, the later one sees both lines
        self._check()

    def _read_new_lines(self) -> None:
        """Read the lines added since the last call; an incomplete last line is left for the next call."""
        try:
            with self._file.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:  # the file was truncated
                    self._offset = 0
                file.seek(self._offset)
                lines = file.read()
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                _log.error("cannot read %s (%s); the quota counts only the lines read before", self._file, error)
            return
        lines = lines[: lines.rfind(b"\n") + 1]
        self._offset += len(lines)
        for line in lines.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a line truncated by a kill or a full disk
                values = json.loads(line)
                self._known.add((values["shard"], values["key"]))

    def _append(self, line: str) -> None:
        """Append a line in a single write, so that lines of several ranks do not interleave."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(file).st_size
            incomplete = size and os.pread(file, 1, size - 1) != b"\n"  # keep this line apart from a truncated one
            text = f"\n{line}\n" if incomplete else f"{line}\n"
            if os.write(file, text.encode()) < len(text.encode()):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(file)

    def _check(self) -> None:
        bad = len(self._known)
        shard, in_shard = Counter(shard for shard, _ in self._known).most_common(1)[0]
        quota = self._quota
        for found, allowed, quota_name in (
            (bad, quota.samples, "quota.samples"),
            (bad, max(1, int(quota.fraction * self._samples)), f"quota.fraction={quota.fraction} of {self._samples}"),
            (in_shard, quota.per_shard, f"quota.per_shard in {shard}"),
        ):
            if found > allowed:
                raise BadSampleError(
                    f"{found} bad samples, {allowed} allowed by {quota_name}; {self._file} lists them:"
                    " repair the shards, or raise the quota"
                )
