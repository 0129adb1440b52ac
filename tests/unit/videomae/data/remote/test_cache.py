"""The node's cache of remote shards: bounded, and what is needed last goes first."""

import fcntl
import hashlib
import json
import os
import socket
from pathlib import Path

import pytest

from videomae.core.files import file_lock
from videomae.data.errors import RemoteError, ShardError
from videomae.data.remote.cache import CacheConfig, ShardCache
from videomae.data.remote.fetch import RemoteFolder, as_url
from videomae.data.shards.manifest import Shard


class Remote(RemoteFolder):
    """Makes files up instead of fetching them, and counts."""

    def __init__(self, url: str = "http://example.org/train") -> None:
        super().__init__(url)
        self.fetched: list[str] = []

    def download(self, name: str, target: Path, *, size: int, sha256: str) -> None:
        self.fetched.append(name)
        target.write_bytes(bytes(size))


def fetch(cache: ShardCache, *numbers: int) -> None:
    for number in numbers:
        cache.fetch(f"{number}.tar", size=1000, sha256="")
        for age, path in enumerate(sorted(cache.folder.glob("*.tar"), key=lambda path: -path.stat().st_mtime)):
            os.utime(path, (1e9 - age, 1e9 - age))  # clocks are too coarse for a test


def announce(cache: ShardCache, *numbers: int) -> None:
    """Say that the shards are needed ten batches after each other."""
    cache.plan().publish_plan({f"{number}.tar": 10 * place for place, number in enumerate(numbers)})


def cached(cache: ShardCache) -> set[int]:
    return {int(path.stem) for path in cache.folder.glob("*.tar")}


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    """Room for three shards."""
    return ShardCache(Remote(), CacheConfig(folder=tmp_path, gigabytes=3.5e-6))


def test_what_is_there_is_not_fetched_again(cache: ShardCache) -> None:
    fetch(cache, 1, 2, 1, 2)
    assert isinstance(cache._remote, Remote)
    assert cache._remote.fetched == ["1.tar", "2.tar"]


def test_what_is_needed_last_goes_first(cache: ShardCache) -> None:
    fetch(cache, 1, 2, 3)
    announce(cache, 4, 1, 3, 2)
    fetch(cache, 4)
    assert cached(cache) == {1, 3, 4}


def test_what_nobody_announced_goes_before_that_the_longest_unused_first(cache: ShardCache) -> None:
    fetch(cache, 1, 2, 3)
    announce(cache, 4, 1)
    fetch(cache, 4)
    assert cached(cache) == {1, 3, 4}


def test_the_plans_of_all_processes_count_but_not_of_dead_ones(cache: ShardCache, tmp_path: Path) -> None:
    fetch(cache, 1, 2, 3)
    announce(cache, 1, 2, 3)
    name = cache.folder.name
    plans, host = tmp_path / "plans", socket.gethostname()
    (plans / f"1-x@{host}.json").write_text(json.dumps({f"{name}/3.tar": 0}))  # the first process of a machine lives
    (plans / f"999999999-x@{host}.json").write_text(json.dumps({f"{name}/2.tar": 0}))
    (plans / "999999999-x@elsewhere.json").write_text("[]")
    fetch(cache, 4)
    assert cached(cache) == {1, 3, 4}
    assert not (plans / f"999999999-x@{host}.json").exists()
    assert (plans / "999999999-x@elsewhere.json").exists()  # whether it lives cannot be seen from here


def test_the_cache_lies_on_a_disk_of_the_node_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("VIDEOMAE_CACHE", raising=False)
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "job"))
    assert CacheConfig().folder == tmp_path / "job" / f"videomae-{os.getuid()}" / "shards"
    monkeypatch.setenv("VIDEOMAE_CACHE", str(tmp_path / "told"))
    assert CacheConfig().folder == tmp_path / "told"


def test_two_data_sets_share_the_room(tmp_path: Path) -> None:
    config = CacheConfig(folder=tmp_path, gigabytes=3.5e-6)
    one, two = ShardCache(Remote("http://a/b"), config), ShardCache(Remote("http://a/c"), config)
    fetch(one, 1, 2)
    fetch(two, 1, 2)
    assert len(list(tmp_path.glob("*/*.tar"))) == 3


def test_a_shard_larger_than_the_cache_is_an_error(cache: ShardCache) -> None:
    with pytest.raises(RemoteError, match="VIDEOMAE_CACHE_GB"):
        cache.fetch("1.tar", size=10_000, sha256="")


def test_a_lock_ends_though_a_forked_process_still_has_its_file_open(tmp_path: Path) -> None:
    with file_lock(tmp_path / "x.lock"):
        held = [int(link.name) for link in Path("/proc/self/fd").iterdir() if _leads_to(link, tmp_path / "x.lock")]
        inherited = os.dup(held[0])  # shares the open file as a fork's does
    with (tmp_path / "x.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(inherited)


def _leads_to(link: Path, path: Path) -> bool:
    return link.exists() and link.resolve() == path.resolve()


@pytest.mark.parametrize("name", ["../../etc/passwd.tar", "/etc/x.tar", ".hidden.tar", "a/b.tar", "x.txt"])
def test_a_manifest_cannot_name_files_elsewhere(name: str) -> None:
    with pytest.raises(ShardError, match="plain file name"):
        Shard(name=name, samples=1, bytes=1, sha256="", index_sha256=hashlib.sha256(b"").hexdigest())


@pytest.mark.parametrize(
    ("place", "url"),
    [
        ("http://host/a/", "http://host/a"),
        (Path("s3://bucket/a"), "s3://bucket/a"),
        (Path("https://host") / "train", "https://host/train"),
        ("/data/http/x", None),
        ("pipe:curl x", None),
        ("file:///etc", None),
    ],
)
def test_only_known_schemes_are_remote(place: str | Path, url: str | None) -> None:
    assert as_url(place) == url
