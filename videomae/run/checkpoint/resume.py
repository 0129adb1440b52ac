"""Choose the checkpoint that a run starts from, by `checkpoint.resume`.

auto    the run's latest valid checkpoint; from scratch if there has never been one. If all are damaged the run does not
        start: it must not discard weeks of work silently.
must    the run's latest valid checkpoint, or an error that says what was found; never from scratch.
never   from scratch, and only in a directory without checkpoints, so that nothing is overwritten.
PATH    a checkpoint's folder, or a run directory, whose latest valid one is used. The run continues from its step and
        data position, and saves into its own directory; once it has checkpoints of its own it resumes from those, so
        the same command can be restarted. PATH is only read.
"""

from __future__ import annotations

from pathlib import Path

from videomae.core.progress import logger
from videomae.run.checkpoint import loading
from videomae.run.checkpoint.config import RESUME_MODES
from videomae.run.checkpoint.loading import CheckpointError
from videomae.run.checkpoint.manifest import MANIFEST
from videomae.run.checkpoint.store import DAMAGED, Checkpoint, CheckpointStore, step_names

CHECKPOINTS = "checkpoints"


def find_resume_point(store: CheckpointStore, resume: str) -> Checkpoint | None:
    """Return the checkpoint to start from, the same on every rank, or None to start from scratch.

    Raises:
        CheckpointError: `resume` requests a checkpoint that does not exist, or would lose one that does.
    """
    loading.check_shared_filesystem(store.folder, world=store.world)
    store.recover()
    if resume == "never":
        _require_empty(store)
        return None
    found = loading.find_latest(store.folder, world=store.world)
    if found.checkpoint is not None:
        return found.checkpoint
    damaged = store.world.broadcast_object(sorted(path.name for path in store.folder.glob(f"{DAMAGED}*")))
    if resume not in RESUME_MODES:
        return _find_at_path(Path(resume), store)
    if resume == "must" or damaged:
        raise CheckpointError(_nothing_valid(store.folder, resume, found.skipped, damaged))
    return None


def _find_at_path(path: Path, store: CheckpointStore) -> Checkpoint:
    folder = path / CHECKPOINTS if store.world.broadcast_object((path / CHECKPOINTS).is_dir()) else path
    if store.world.broadcast_object((folder / MANIFEST).exists() or not step_names(folder)):
        fault = loading.verify(folder, world=store.world)
        if fault is not None:
            raise CheckpointError(
                f"checkpoint.resume={path} is no valid checkpoint: {fault}; give the folder of one, such as "
                "runs/NAME/checkpoints/step-00001200, a run directory, or one of " + ", ".join(RESUME_MODES)
            )
        checkpoint = loading.read_checkpoint(folder, world=store.world)
    else:
        found = loading.find_latest(folder, world=store.world, read_only=True)
        if found.checkpoint is None:
            faults = "; ".join(found.skipped)
            raise CheckpointError(f"checkpoint.resume={path}: no valid checkpoint there: {faults}")
        checkpoint = found.checkpoint
    if store.world.is_main:
        logger.info("loading the state of %s", checkpoint.folder)
    return checkpoint


def _require_empty(store: CheckpointStore) -> None:
    names = store.world.broadcast_object(
        step_names(store.folder) or sorted(path.name for path in store.folder.glob("*step-*"))
    )
    if names:
        raise CheckpointError(
            f"checkpoint.resume=never, but {store.folder} holds {len(names)} checkpoints up to {names[-1]}; "
            "type run=PATH for a new run, checkpoint.resume=auto to resume, or remove the folder yourself"
        )


def _nothing_valid(folder: Path, resume: str, skipped: tuple[str, ...], damaged: list[str]) -> str:
    found = "; ".join(skipped) or (f"only {', '.join(damaged)}" if damaged else "it holds none")
    if not folder.is_dir():
        found = "there is no such folder"
    advice = (
        f"give checkpoint.resume=PATH of a checkpoint elsewhere, restore {folder} from a backup, or start over in "
        "another directory with run=PATH"
    )
    if resume == "must" and not damaged:
        advice = "check run=, or type checkpoint.resume=auto to start from scratch"
    return f"checkpoint.resume={resume}: no valid checkpoint in {folder} ({found}); {advice}"
