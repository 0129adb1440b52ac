"""Going back to the last good checkpoint: which one it is, and what is said when there is none or it has not helped."""

from __future__ import annotations

from videomae.core.signals import LimitReached
from videomae.run.checkpoint import Checkpoint, CheckpointStore, newest
from videomae.run.directory import RunDirectory
from videomae.run.health.guard import Guard


def last_good(store: CheckpointStore, guard: Guard, run: RunDirectory, *, left: int) -> Checkpoint:
    """The newest whole checkpoint that was saved while all was well; called by all ranks of a run that leaves `left`.

    Raises:
        LimitReached: there is none, or `guard` has gone back as often as it may.
    """
    limit = guard.config.rollbacks
    found = newest(store.folder, world=store.world).checkpoint if guard.rollbacks < limit else None
    while found is not None and not Guard.was_clean(found.progress.get("health")):
        found = newest(store.folder, world=store.world, at_most=found.step - 1).checkpoint
    if found is None:
        raise LimitReached(
            f"{run.path} cannot go on at step {left}: {guard.trouble}. It has gone back {guard.rollbacks} times "
            f"(health.rollbacks={limit}), and starting it again would do the same. Its checkpoints are whole. Look at "
            f"{run.metrics}; then go on in a run of its own with run=PATH checkpoint.resume={run.path} and a lower "
            f"optimizer.lr or optimizer.clip=1.0, or let this one try again with health.rollbacks={limit + 3}"
        )
    return found
