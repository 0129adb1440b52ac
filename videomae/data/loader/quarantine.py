"""Bad samples in training: one line each in quarantine.jsonl, and quotas that end a run with too many of them."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from videomae.core.config import configclass
from videomae.core.errors import UserError

_log = logging.getLogger(__name__)


class BadSampleError(UserError):
    """More bad samples than the quotas allow, or one where none is allowed."""


@configclass
class QuotaConfig:
    """How many distinct samples may be bad before the run ends, counted over all its ranks."""

    samples: int = 1000
    fraction: float = 0.05  # of the data set
    per_shard: int = 200

    def __post_init__(self) -> None:
        if self.samples < 0 or not 0 <= self.fraction <= 1 or self.per_shard < 0:
            raise UserError("quotas must not be negative, and fraction at most 1")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A sample that could not be used: where it lies and why."""

    shard: str
    key: str
    reason: str


class Quarantine:
    """The list of bad samples of a run: of all its ranks, and of its earlier parts.

    All append to the one `file`, each line in one write; a rank that meets a fault reads what the others have added.
    """

    def __init__(self, file: Path, quota: QuotaConfig, *, samples: int) -> None:
        self._file, self._quota, self._samples = file, quota, samples
        self._known: set[tuple[str, str]] = set()
        self._read = 0  # bytes of the file
        self._look()

    def record(self, fault: Fault, *, step: int) -> None:
        """Write `fault` down if it is new.

        Raises:
            BadSampleError: the run, not this rank alone, has used up a quota.
        """
        mine = (fault.shard, fault.key)
        if mine in self._known:
            return
        self._look()
        if mine not in self._known:
            self._known.add(mine)
            try:
                self._append(json.dumps({**asdict(fault), "step": step}))
            except OSError as error:
                _log.error("cannot write %s (%s); the run goes on without the line for %s", self._file, error, fault)
            self._look()  # of two ranks that append at once, the later one sees both lines
        self._check()

    def _look(self) -> None:
        """Learn the lines that have been added since the last look; a last one that is cut or under way waits."""
        try:
            with self._file.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._read:  # somebody has emptied it
                    self._read = 0
                file.seek(self._read)
                lines = file.read()
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                _log.error("cannot read %s (%s); the quotas go by what is known of it", self._file, error)
            return
        lines = lines[: lines.rfind(b"\n") + 1]
        self._read += len(lines)
        for line in lines.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # cut by a kill or a full disk
                values = json.loads(line)
                self._known.add((values["shard"], values["key"]))

    def _append(self, line: str) -> None:
        """Add a line in one write, which no other rank's can break into."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(file).st_size
            cut = size and os.pread(file, 1, size - 1) != b"\n"  # the last line is cut: do not lose this one too
            text = f"\n{line}\n" if cut else f"{line}\n"
            if os.write(file, text.encode()) < len(text.encode()):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(file)

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
