"""Packs sources in parallel and hands the results out in the sources' order, whatever the workers do or die of."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from videomae.data.shards.manifest import SkippedSource
from videomae.data.build.packing import Packed, pack
from videomae.data.build.sources import Source
from videomae.data.video import EncodingConfig

_AHEAD = 4  # results kept waiting for each worker


def pack_all(
    sources: Sequence[Source], encoding: EncodingConfig, frames_fps: float, *, workers: int
) -> Iterator[Packed | SkippedSource]:
    """One result a source, in order; `workers=1` packs in this process.

    A source on which a worker process dies is tried once more alone; if it dies again, the source is left out.
    """
    if workers <= 1:
        yield from (pack(source, encoding, frames_fps) for source in sources)
        return
    done = 0
    while done < len(sources):
        try:
            for result in _in_pool(sources[done:], encoding, frames_fps, workers):
                done += 1
                yield result
        except BrokenProcessPool:
            for result in _one_by_one(sources[done : done + _AHEAD * workers], encoding, frames_fps):
                done += 1
                yield result


def _in_pool(
    sources: Sequence[Source], encoding: EncodingConfig, frames_fps: float, workers: int
) -> Iterator[Packed | SkippedSource]:
    waiting: deque[Future[Packed | SkippedSource]] = deque()
    with _pool(workers) as pool:
        try:
            for source in sources:
                waiting.append(pool.submit(pack, source, encoding, frames_fps))
                if len(waiting) >= _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _one_by_one(sources: Sequence[Source], encoding: EncodingConfig, frames_fps: float) -> Iterator[Packed | SkippedSource]:
    """With never more than one source in a process, it is plain which one kills it."""
    pool = _pool(1)
    for source in sources:
        try:
            yield pool.submit(pack, source, encoding, frames_fps).result()
        except BrokenProcessPool:
            yield SkippedSource(
                source=source.name, reason="the process that decoded it died: it is damaged, or memory ran out"
            )
            pool = _pool(1)
    pool.shutdown()


def _pool(workers: int) -> ProcessPoolExecutor:
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(
        workers, mp_context=spawn, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    )
