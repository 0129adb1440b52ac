"""Download the remote shards that a rank will need soon, in a thread, and publish that plan to the node's cache.

A shard is not downloaded if the cache would have to evict one that any process needs sooner; the thread tries it again
as training proceeds.
"""

from __future__ import annotations

import logging
import threading
from collections import deque

from videomae.data.errors import RemoteError, ShardError
from videomae.data.order.mixture import MixedReader, Mixture, Reader
from videomae.data.order.order import Order
from videomae.data.remote.cache import ShardCache
from videomae.data.shards.manifest import Manifest
from videomae.data.shards.reader import ShardReader

HORIZON = 64  # batches
_log = logging.getLogger(__name__)


class Prefetcher:
    """Prefetches for one rank's slice [start, stop) of the global batches. The first `advance` starts its thread."""

    def __init__(self, cache: ShardCache, manifest: Manifest, order: Order, *, start: int, stop: int) -> None:
        self._cache, self._manifest, self._order = cache, manifest, order
        self._start, self._stop = start, stop
        self._plan = cache.plan()
        self._uses: dict[int, deque[int]] = {}  # shard -> the batches within the horizon that need it
        self._last_planned = -1
        self._wake, self._closed = threading.Event(), False
        self._wanted: list[int] = []
        self._complete = False  # whether all wanted shards are in the cache
        self._changed: set[int] = set()  # shards whose content differs from the manifest
        self._thread: threading.Thread | None = None

    def advance(self, number: int) -> None:
        """Plan for the global batches from `number` on; earlier ones have been used."""
        for batch in range(max(number, self._last_planned + 1), number + HORIZON):
            for slot in self._order.slots(batch, self._start, self._stop):
                shard, _ = self._manifest.locate(slot.sample)
                uses = self._uses.setdefault(shard, deque())
                if not uses or uses[-1] != batch:
                    uses.append(batch)
            self._last_planned = batch
        for shard, uses in list(self._uses.items()):
            while uses and uses[0] < number:
                uses.popleft()
            if not uses:
                del self._uses[shard]
        wanted = sorted(self._uses, key=lambda shard: self._uses[shard][0])
        self._publish({shard: self._uses[shard][0] - number for shard in wanted})
        if wanted != self._wanted or not self._complete:
            self._wanted = wanted
            self._wake.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="shard prefetch", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Start no further download; one that is running completes."""
        self._closed = True
        self._wake.set()
        self._plan.withdraw()

    def _publish(self, next_use: dict[int, int]) -> None:
        try:
            self._plan.publish_plan({self._manifest.shards[shard].name: batches for shard, batches in next_use.items()})
        except OSError as error:
            _log.warning("cannot publish the prefetch plan to the cache: %s", error)

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait()
            self._wake.clear()
            wanted = self._wanted
            self._complete = False
            self._complete = all(
                not self._closed and not self._wake.is_set() and self._fetch(shard) for shard in wanted
            )

    def _fetch(self, number: int) -> bool:
        """Download a shard unless it is cached; False if that is not possible now."""
        if number in self._changed:
            return True
        shard = self._manifest.shards[number]
        try:
            return self._cache.fetch_ahead(shard.name, size=shard.bytes, sha256=shard.sha256)
        except (RemoteError, ShardError, OSError) as error:  # the reader will raise the same error where it counts
            _log.warning("cannot prefetch %s: %s", shard.name, error)
            if isinstance(error, ShardError):
                self._changed.add(number)
            return number in self._changed


def make_prefetchers(reader: Reader, order: Order | Mixture, *, start: int, stop: int) -> list[Prefetcher]:
    """One prefetcher for each remote data set, for its part of the slice [start, stop) of the global batches."""
    if isinstance(reader, MixedReader) and isinstance(order, Mixture):
        parts = zip(reader.readers, order.orders, order.shares(start, stop), strict=True)
    else:
        assert not isinstance(reader, MixedReader)
        assert isinstance(order, Order)
        parts = [(reader, order, (start, stop))]
    return [
        Prefetcher(part.cache, part.manifest, part_order, start=first, stop=last)
        for part, part_order, (first, last) in parts
        if isinstance(part, ShardReader) and part.cache is not None and first < last
    ]
