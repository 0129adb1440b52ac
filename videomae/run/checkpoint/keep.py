"""Which checkpoints have had their day: a pure function of their steps."""

from __future__ import annotations

from collections.abc import Iterable


def outdated(steps: Iterable[int], *, newest: int, keep: int, keep_every: int | None) -> list[int]:
    """The steps to remove after saving `newest`: all but the last `keep`, and one of every `keep_every` steps.

    For ever stays the first checkpoint at or after each multiple of `keep_every`. Steps later than `newest` are of a
    course that was given up: they are not counted and not removed here.
    """
    past = sorted(step for step in steps if step <= newest)
    milestones: dict[int, int] = {}
    if keep_every is not None:
        for step in past:
            milestones.setdefault(step // keep_every, step)
        milestones.pop(0, None)
    return [step for step in past[:-keep] if step not in milestones.values()]
