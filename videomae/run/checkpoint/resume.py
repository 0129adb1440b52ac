"""What a run starts from: `checkpoint.resume`.

auto    the run's newest whole checkpoint; from scratch if there has never been one. If there are only damaged ones the
        run does not start: weeks of work are not thrown away in silence.
must    the run's newest whole checkpoint, or an error that says what was looked at; never from scratch.
never   from scratch, and only in a directory without checkpoints: nothing is overwritten, an error says what to type.
PATH    a checkpoint's folder, or a run's directory, whose newest whole one is taken: the run goes on from there, step
        and place in the data included, and saves into its own directory. Once it has checkpoints of its own it goes on
        from those, so that the same command can be started again. The PATH is only read.
"""

from __future__ import annotations

from pathlib import Path

from videomae.core.progress import logger
from videomae.run.checkpoint import loading
from videomae.run.checkpoint.config import MODES
from videomae.run.checkpoint.loading import CheckpointError
from videomae.run.checkpoint.manifest import MANIFEST
from videomae.run.checkpoint.store import DAMAGED, Checkpoint, CheckpointStore, step_names

CHECKPOINTS = "checkpoints"


def starting_point(store: CheckpointStore, resume: str) -> Checkpoint | None:
    """The checkpoint to start from, the same on every rank, or None to start from scratch.

    Raises:
        CheckpointError: `resume` asks for what is not there, or would lose what is.
    """
    loading.require_shared(store.folder, world=store.world)
    store.mend()
    if resume == "never":
        _refuse_to_lose(store)
        return None
    found = loading.newest(store.folder, world=store.world)
    if found.checkpoint is not None:
        return found.checkpoint
    damaged = store.world.broadcast_object(sorted(path.name for path in store.folder.glob(f"{DAMAGED}*")))
    if resume not in MODES:
        return _from_elsewhere(Path(resume), store)
    if resume == "must" or damaged:
        raise CheckpointError(_nothing_whole(store.folder, resume, found.passed_over, damaged))
    return None


def _from_elsewhere(path: Path, store: CheckpointStore) -> Checkpoint:
    folder = path / CHECKPOINTS if store.world.broadcast_object((path / CHECKPOINTS).is_dir()) else path
    if store.world.broadcast_object((folder / MANIFEST).exists() or not step_names(folder)):
        fault = loading.verify(folder, world=store.world)
        if fault is not None:
            raise CheckpointError(
                f"checkpoint.resume={path} is no whole checkpoint: {fault}; give the folder of one, such as "
                "runs/NAME/checkpoints/step-00001200, the directory of a run, or one of " + ", ".join(MODES)
            )
        checkpoint = loading.read_checkpoint(folder, world=store.world)
    else:
        found = loading.newest(folder, world=store.world, keep_damaged=True)
        if found.checkpoint is None:
            faults = "; ".join(found.passed_over)
            raise CheckpointError(f"checkpoint.resume={path}: no whole checkpoint there: {faults}")
        checkpoint = found.checkpoint
    if store.world.is_main:
        logger.info("the state is taken from %s", checkpoint.folder)
    return checkpoint


def _refuse_to_lose(store: CheckpointStore) -> None:
    names = store.world.broadcast_object(
        step_names(store.folder) or sorted(path.name for path in store.folder.glob("*step-*"))
    )
    if names:
        raise CheckpointError(
            f"checkpoint.resume=never, but {store.folder} holds {len(names)} checkpoints up to {names[-1]}; "
            "type run=PATH for a new run, checkpoint.resume=auto to go on, or remove the folder yourself"
        )


def _nothing_whole(folder: Path, resume: str, passed_over: tuple[str, ...], damaged: list[str]) -> str:
    looked = "; ".join(passed_over) or (f"only {', '.join(damaged)}" if damaged else "it holds none")
    if not folder.is_dir():
        looked = "there is no such folder"
    advice = (
        f"give checkpoint.resume=PATH of a checkpoint elsewhere, restore {folder} from a copy, or start anew in a "
        "directory of its own with run=PATH"
    )
    if resume == "must" and not damaged:
        advice = "check run=, or type checkpoint.resume=auto to start from scratch"
    return f"checkpoint.resume={resume}: no whole checkpoint in {folder} ({looked}); {advice}"
