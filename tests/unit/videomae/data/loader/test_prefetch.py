"""With a cache of a few shards, each shard is fetched once a pass: nothing is fetched ahead at the cost of others."""

import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.splits import write_split
from videomae.data.errors import ChangedError
from videomae.data.loader.prefetch import HORIZON, Prefetcher
from videomae.data.order.order import Order, OrderConfig
from videomae.data.remote.cache import CacheConfig, ShardCache
from videomae.data.remote.fetch import RemoteFolder
from videomae.data.shards.reader import ShardReader, read_manifest

SHARDS, EACH = 16, 8


class Copies(RemoteFolder):
    """Copies from a folder, and counts."""

    def __init__(self, source: Path, *, changed: str = "") -> None:
        super().__init__("http://example.org/train")
        self.source, self.changed = source, changed
        self.fetched: Counter[str] = Counter()

    def download(self, name: str, target: Path, *, size: int, sha256: str) -> None:
        self.fetched[name] += 1
        if name == self.changed:
            raise ChangedError(f"{name}: its SHA-256 is not the manifest's")
        time.sleep(0.002)
        draft = target.with_name(target.name + ".partial")
        draft.write_bytes((self.source / name).read_bytes())
        draft.replace(target)

    def read(self, name: str, *, most: int = 1 << 28) -> bytes:
        return (self.source / name).read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    places = [range(first, first + EACH) for first in range(0, SHARDS * EACH, EACH)]
    write_split(tmp_path / "train", *({f"{number:03d}": b"%03d" % number for number in place} for place in places))
    return tmp_path / "train"


def config(folder: Path, shards: float) -> CacheConfig:
    size = max(shard.bytes for shard in read_manifest(folder).shards)
    return CacheConfig(folder=folder.parent / "cache", gigabytes=shards * size / 1e9)


def read_in_step(folder: Path, order: Order, *, ranks: int, holds: float, batches: int) -> Counter[str]:
    """Let as many ranks read their slices of the batches, as in training; gives how often each shard was fetched."""
    manifest, share = read_manifest(folder), order.batch // ranks
    remotes = [Copies(folder) for _ in range(ranks)]
    together, errors = threading.Barrier(ranks), []

    def run(rank: int) -> None:
        reader = ShardReader(manifest)
        reader.cache = ShardCache(remotes[rank], config(folder, holds))
        start, stop = share * rank, share * (rank + 1)
        ahead = Prefetcher(reader.cache, manifest, order, start=start, stop=stop)
        try:
            for batch in range(batches):
                for place in order.slots(batch, start, stop):
                    assert reader.read(place.sample).video == b"%03d" % place.sample
                together.wait(300)
                ahead.advance(batch + 1)
                time.sleep(0.005)
        except BaseException as error:
            errors.append(error)
            together.abort()
        finally:
            ahead.close()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert not errors
    assert not any(thread.is_alive() for thread in threads)
    assert not list((folder.parent / "cache" / "plans").iterdir())
    return sum((remote.fetched for remote in remotes), Counter[str]())


@pytest.mark.parametrize("holds", [2, 3])
def test_a_rank_with_a_cache_of_few_shards_fetches_each_once_a_pass(folder: Path, holds: int) -> None:
    order = Order.of(read_manifest(folder), 2, OrderConfig(lanes=1, block=EACH))
    fetched = read_in_step(folder, order, ranks=1, holds=holds + 0.2, batches=order.batches)
    assert len(fetched) == SHARDS
    # And what the next pass begins with; one more when the thread is late and the reader has to make room itself.
    assert fetched.total() <= SHARDS + holds + 1
    again = {name for name, count in fetched.items() if count > 1}
    places = [place for number in range(HORIZON) for place in order.slots(order.batches + number)]
    coming = dict.fromkeys(read_manifest(folder).locate(place.sample)[0] for place in places)
    assert len(again - {f"{shard:06d}.tar" for shard in list(coming)[:holds]}) <= 1


def test_ranks_that_share_a_small_cache_fetch_each_shard_once_a_pass(folder: Path) -> None:
    """Four ranks in step, each in a lane of its own; the cache holds one shard for each, and two to come."""
    order = Order.of(read_manifest(folder), 8, OrderConfig(lanes=4, block=EACH))
    fetched = read_in_step(folder, order, ranks=4, holds=6.2, batches=6 * order.batches)
    assert len(fetched) == SHARDS
    # What the next pass begins with comes besides; and before the first batch nobody has said what it needs. A thread
    # that a busy machine holds up lets a reader make room for itself, which costs another fetch.
    assert fetched.total() <= 1.25 * 6 * SHARDS + 6 + 4


def test_a_shard_that_is_not_as_built_is_asked_for_once(folder: Path) -> None:
    manifest, remote = read_manifest(folder), Copies(folder, changed="000003.tar")
    reader = ShardReader(manifest)
    reader.cache = ShardCache(remote, config(folder, SHARDS + 1))
    for number in range(3 * EACH, 4 * EACH):
        with pytest.raises(ChangedError, match="SHA-256"):
            reader.read(number)
    assert remote.fetched["000003.tar"] == 1
    ahead = Prefetcher(reader.cache, manifest, Order.of(manifest, 8, OrderConfig()), start=0, stop=8)
    for batch in range(5):
        ahead.advance(batch)
        time.sleep(0.05)
    deadline = time.monotonic() + 300
    while len(remote.fetched) < SHARDS and time.monotonic() < deadline:
        time.sleep(0.01)
    ahead.close()
    assert remote.fetched == {shard.name: 1 for shard in manifest.shards}  # the others came all the same


def test_a_plan_that_cannot_be_written_does_not_end_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manifest, remote = read_manifest(folder), Copies(folder)
    (folder.parent / "cache").mkdir()
    (folder.parent / "cache" / "plans").write_text("a file where the folder should be")
    ahead = Prefetcher(
        ShardCache(remote, config(folder, 20)), manifest, Order.of(manifest, 8, OrderConfig()), start=0, stop=8
    )
    ahead.advance(0)
    assert "cannot publish the prefetch plan" in caplog.text
