"""Fetches the remote shards that a rank will need soon, in a thread, and tells the node's cache about them.

Nothing is fetched for which the cache would have to give up what anybody needs sooner: it is tried again as the run
goes on.
"""

from __future__ import annotations

import logging
import threading
from collections import deque

from videomae.data.errors import RemoteError, ShardError
from videomae.data.order.mixture import MixedReader, Mixture
from videomae.data.order.order import Order
from videomae.data.remote.cache import ShardCache
from videomae.data.shards.manifest import Manifest
from videomae.data.shards.reader import ShardReader

HORIZON = 64  # batches
_log = logging.getLogger(__name__)


class Prefetcher:
    """Follows one rank's slice [start, stop) of the global batches. Its thread starts with the first `advance`."""

    def __init__(self, cache: ShardCache, manifest: Manifest, order: Order, *, start: int, stop: int) -> None:
        self._cache, self._manifest, self._order = cache, manifest, order
        self._start, self._stop = start, stop
        self._plan = cache.plan()
        self._uses: dict[int, deque[int]] = {}  # shard -> the batches within the horizon that need it
        self._seen = -1
        self._wake, self._closed = threading.Event(), False
        self._wanted: list[int] = []
        self._complete = False  # whether all that is wanted is there
        self._spoilt: set[int] = set()  # shards that are not what the manifest says
        self._thread: threading.Thread | None = None

    def advance(self, number: int) -> None:
        """Global batches from `number` on are still to be used: look on from there."""
        for batch in range(max(number, self._seen + 1), number + HORIZON):
            for place in self._order.slots(batch, self._start, self._stop):
                shard, _ = self._manifest.locate(place.sample)
                uses = self._uses.setdefault(shard, deque())
                if not uses or uses[-1] != batch:
                    uses.append(batch)
            self._seen = batch
        for shard, uses in list(self._uses.items()):
            while uses and uses[0] < number:
                uses.popleft()
            if not uses:
                del self._uses[shard]
        wanted = sorted(self._uses, key=lambda shard: self._uses[shard][0])
        self._announce({shard: self._uses[shard][0] - number for shard in wanted})
        if wanted != self._wanted or not self._complete:
            self._wanted = wanted
            self._wake.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="shard lookahead", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Fetch nothing further; a download under way goes on to its end."""
        self._closed = True
        self._wake.set()
        self._plan.withdraw()

    def _announce(self, soon: dict[int, int]) -> None:
        try:
            self._plan.publish_plan({self._manifest.shards[shard].name: batches for shard, batches in soon.items()})
        except OSError as error:
            _log.warning("cannot tell the cache what is needed next: %s", error)

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait()
            self._wake.clear()
            wanted = self._wanted
            self._complete = False
            self._complete = all(not self._closed and not self._wake.is_set() and self._has(shard) for shard in wanted)

    def _has(self, number: int) -> bool:
        """Fetch a shard unless it is there; False if it cannot be had now."""
        if number in self._spoilt:
            return True
        shard = self._manifest.shards[number]
        try:
            return self._cache.fetch_ahead(shard.name, size=shard.bytes, sha256=shard.sha256)
        except (RemoteError, ShardError, OSError) as error:  # the reader meets the fault itself, and says so
            _log.warning("cannot fetch %s ahead of its use: %s", shard.name, error)
            if isinstance(error, ShardError):
                self._spoilt.add(number)
            return number in self._spoilt


def follow(reader: ShardReader | MixedReader, order: Order | Mixture, *, start: int, stop: int) -> list[Prefetcher]:
    """One for every data set that lies afar, each following its part of the slice [start, stop) of the batches."""
    if isinstance(reader, MixedReader) and isinstance(order, Mixture):
        parts = zip(reader.readers, order.orders, order.shares(start, stop), strict=True)
    else:
        assert isinstance(reader, ShardReader)
        assert isinstance(order, Order)
        parts = [(reader, order, (start, stop))]
    return [
        Prefetcher(part.cache, part.manifest, its_order, start=first, stop=last)
        for part, its_order, (first, last) in parts
        if part.cache is not None and first < last
    ]
