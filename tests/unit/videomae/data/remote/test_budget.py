"""Downloads of a node together stay within the cache, whoever dies meanwhile."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from videomae.data.remote.cache import CacheConfig, ShardCache
from videomae.data.remote.fetch import RemoteFolder

SIZE = 1000


class SlowRemote(RemoteFolder):
    """Writes a file bit by bit, as a line does, and notes what the whole cache then takes of the disk."""

    def __init__(self, root: Path, *, seconds: float = 0.02, hang: bool = False) -> None:
        super().__init__("http://example.org/train")
        self.root, self.seconds, self.hang = root, seconds, hang
        self.most, self.fetched = 0, list[str]()

    def download(self, name: str, target: Path, *, size: int, sha256: str) -> None:
        self.fetched.append(name)
        partial = target.with_name(target.name + ".partial")
        with partial.open("ab") as file:
            while file.tell() < size:
                file.write(bytes(min(250, size - file.tell())))
                file.flush()
                self.most = max(self.most, on_disk(self.root))
                time.sleep(1e6 if self.hang else self.seconds)
        partial.replace(target)


def on_disk(root: Path) -> int:
    total = 0
    for path in (*root.glob("*/*.tar"), *root.glob("*/*.tar.partial")):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def cache_of(root: Path, remote: RemoteFolder, *, shards: float) -> ShardCache:
    return ShardCache(remote, CacheConfig(folder=root, gigabytes=shards * SIZE / 1e9))


def test_downloads_at_once_stay_within_the_limit_and_all_come_to_an_end(tmp_path: Path) -> None:
    remote = SlowRemote(tmp_path)
    errors = []

    def read(first: int) -> None:
        cache = cache_of(tmp_path, remote, shards=2.5)
        try:
            for number in range(first, first + 3):
                file = cache.open(f"{number}.tar", size=SIZE, sha256="")
                assert len(os.pread(file, 2 * SIZE, 0)) == SIZE  # never taken away before it is open
                os.close(file)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read, args=(10 * number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert not errors
    assert not any(thread.is_alive() for thread in threads)
    assert sorted(remote.fetched) == sorted(f"{10 * rank + number}.tar" for rank in range(6) for number in range(3))
    assert remote.most <= 2.5 * SIZE
    assert not list(tmp_path.glob("*/*.reserved"))


def hang_in_a_download(root: Path) -> None:
    cache_of(root, SlowRemote(root, hang=True), shards=2.5).fetch("0.tar", size=SIZE, sha256="")


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A cache in which a process has died in the middle of a download."""
    process = multiprocessing.get_context("fork").Process(target=hang_in_a_download, args=(tmp_path,))
    process.start()
    deadline = time.monotonic() + 300
    while on_disk(tmp_path) < 250 and time.monotonic() < deadline:
        time.sleep(0.01)
    others = cache_of(tmp_path, SlowRemote(tmp_path, seconds=0), shards=2.5)
    others.fetch("1.tar", size=SIZE, sha256="")
    others.plan().publish_plan({"2.tar": 1})
    assert not others.fetch_ahead("2.tar", size=2 * SIZE, sha256="")  # what the other has still to write counts
    assert (others.folder / "1.tar").exists()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert on_disk(tmp_path) == 250 + SIZE
    return tmp_path


def test_what_a_dead_download_left_is_gone_on_with(killed: Path) -> None:
    remote = SlowRemote(killed, seconds=0)
    cache = cache_of(killed, remote, shards=2.5)
    cache.fetch("2.tar", size=SIZE, sha256="")
    assert (cache.folder / "0.tar.partial").exists()  # there was room beside it: it had reserved more
    assert cache.fetch("0.tar", size=SIZE, sha256="").stat().st_size == SIZE
    assert remote.most <= 2.5 * SIZE


def test_what_a_dead_download_left_goes_before_any_whole_file(killed: Path) -> None:
    cache = cache_of(killed, SlowRemote(killed, seconds=0), shards=2.5)
    cache.fetch("2.tar", size=SIZE + 300, sha256="")
    assert sorted(path.name for path in cache.folder.glob("*.tar*") if path.suffix != ".lock") == ["1.tar", "2.tar"]


def test_halves_that_others_wait_to_go_on_with_block_nobody(tmp_path: Path) -> None:
    remote = SlowRemote(tmp_path)
    caches = [cache_of(tmp_path, remote, shards=1.2) for _ in range(2)]
    caches[0].folder.mkdir()
    for number in range(2):
        (caches[0].folder / f"{number}.tar.partial").write_bytes(bytes(600))
    threads = [
        threading.Thread(target=cache.fetch, args=(f"{number}.tar",), kwargs={"size": SIZE, "sha256": ""})
        for number, cache in enumerate(caches)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert not any(thread.is_alive() for thread in threads)
    assert remote.most <= 1.2 * SIZE


@pytest.mark.parametrize(("ahead_of", "granted"), [(4, False), (5, False), (8, False), (9, True), (20, True)])
def test_what_is_fetched_ahead_takes_no_room_from_what_is_needed_sooner(
    tmp_path: Path, ahead_of: int, granted: bool
) -> None:
    cache = cache_of(tmp_path, SlowRemote(tmp_path, seconds=0), shards=2.5)
    for number in range(2):
        cache.fetch(f"{number}.tar", size=SIZE, sha256="")
    cache.plan().publish_plan({"0.tar": 1, "2.tar": 6})
    other_rank = cache.plan()
    other_rank.publish_plan({"1.tar": ahead_of, "0.tar": 50})
    assert cache.fetch_ahead("2.tar", size=SIZE, sha256="") == granted
    assert sorted(path.stem for path in cache.folder.glob("*.tar")) == (["0", "2"] if granted else ["0", "1"])
    other_rank.withdraw()
    assert cache.fetch_ahead("2.tar", size=SIZE, sha256="")
    assert not cache.fetch_ahead("3.tar", size=SIZE, sha256="")  # nobody needs it
