"""Fetches the remote shards that a rank will need soon, in a thread, and tells the node's cache about them."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict

from videomae.shards.cache import ShardCache
from videomae.shards.manifest import Manifest, ShardError
from videomae.shards.mixture import MixedReader, Mixture
from videomae.shards.order import Order
from videomae.shards.reader import ShardReader
from videomae.shards.remote import RemoteError

HORIZON = 64  # batches
_log = logging.getLogger(__name__)


class Lookahead:
    """Follows one rank's slice [start, stop) of the global batches. Its thread starts with the first `advance`."""

    def __init__(self, cache: ShardCache, manifest: Manifest, order: Order, *, start: int, stop: int) -> None:
        self._cache, self._manifest, self._order = cache, manifest, order
        self._start, self._stop = start, stop
        self._last_use: OrderedDict[int, int] = OrderedDict()  # shard -> the latest batch known to need it, in order
        self._seen = -1
        self._wake, self._closed = threading.Event(), False
        self._wanted: list[int] = []
        self._thread: threading.Thread | None = None

    def advance(self, number: int) -> None:
        """Global batch `number` is being used: look on from there."""
        for batch in range(max(number, self._seen + 1), number + HORIZON):
            for place in self._order.places(batch, self._start, self._stop):
                shard, _ = self._manifest.locate(place.sample)
                self._last_use[shard] = batch
            self._seen = batch
        for shard in [shard for shard, batch in self._last_use.items() if batch < number]:
            del self._last_use[shard]
        wanted = list(self._last_use)
        if wanted != self._wanted:
            self._wanted = wanted
            self._cache.announce([self._manifest.shards[shard].name for shard in wanted])
            self._wake.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="shard lookahead", daemon=True)
            self._thread.start()

    def close(self) -> None:
        self._closed = True
        self._wake.set()

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait()
            self._wake.clear()
            for number in list(self._wanted):
                if self._closed or self._wake.is_set():
                    break
                shard = self._manifest.shards[number]
                try:
                    self._cache.fetch(shard.name, size=shard.bytes, sha256=shard.sha256)
                except (RemoteError, ShardError, OSError) as error:
                    _log.warning("cannot fetch %s ahead of its use: %s", shard.name, error)
                    break  # the reader meets the fault itself, and says so


def follow(reader: ShardReader | MixedReader, order: Order | Mixture, *, start: int, stop: int) -> list[Lookahead]:
    """One for every data set that lies afar, each following its part of the slice [start, stop) of the batches."""
    if isinstance(reader, MixedReader) and isinstance(order, Mixture):
        parts = zip(reader.readers, order.orders, order.shares(start, stop), strict=True)
    else:
        assert isinstance(reader, ShardReader)
        assert isinstance(order, Order)
        parts = [(reader, order, (start, stop))]
    return [
        Lookahead(part.cache, part.manifest, its_order, start=first, stop=last)
        for part, its_order, (first, last) in parts
        if part.cache is not None and first < last
    ]
