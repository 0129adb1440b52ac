"""Shards behind a real nginx that fails as networks do: nothing lost, nothing invented, every fault named."""

import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from launch.cli import main
from launch.job import free_port
from tests.splits import write_split
from videomae.core.files import file_sha256
from videomae.data.batch import AllocClip
from videomae.data.errors import ChangedError, RemoteError
from videomae.data.loader.loader import train_stream
from videomae.data.loader.micro_batches import Pipeline, RankSlice
from videomae.data.loader.prefetch import make_prefetchers
from videomae.data.loader.workers import LoaderConfig
from videomae.data.order.mixture import MixedReader, Mixture
from videomae.data.order.order import Order, OrderConfig
from videomae.data.remote import cache
from videomae.data.remote import fetch as remote
from videomae.data.remote.fetch import RemoteConfig, RemoteFolder
from videomae.data.shards.manifest import Manifest
from videomae.data.shards.reader import Sample, ShardReader, read_manifest

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx: apt-get install nginx-light")
FAST = RemoteConfig(chunk_bytes=4096, attempts=12, first_wait=0.01, longest_wait=0.05, timeout=5)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of ten samples, each of some kilobytes of noise."""
    folder, noise = tmp_path_factory.mktemp("published") / "train", np.random.default_rng(0)
    places = [range(first, first + 10) for first in (0, 10, 20)]
    write_split(folder, *({f"{sample:03d}": noise.bytes(3000 + sample) for sample in place} for place in places))
    return folder


class CuttingHandler(BaseHTTPRequestHandler):
    """Promises a range and, half of the time, closes the line in the middle of it."""

    folder: Path
    rng = random.Random(3)

    def do_GET(self) -> None:
        content = (self.folder / self.path.rpartition("/")[2]).read_bytes()
        asked = self.headers.get("Range")
        first, last = 0, len(content) - 1
        if asked:
            first, last = (int(text) for text in asked.removeprefix("bytes=").split("-"))
            last = min(last, len(content) - 1)
        body = content[first : last + 1]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.rng.random() < 0.5 else body)
        self.close_connection = True

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str((self.folder / self.path.rpartition("/")[2]).stat().st_size))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an nginx with one path for every way of failing."""
    CuttingHandler.folder = published
    cutter = ThreadingHTTPServer(("127.0.0.1", 0), CuttingHandler)
    threading.Thread(target=cutter.serve_forever, daemon=True).start()
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    folder.chmod(0o755)
    for parent in (published, *published.parents[:3]):
        parent.chmod(0o755)
    (folder / "nginx.conf").write_text(f"""
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log; user root;
events {{ worker_connections 64; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  split_clients $request_id $busy {{ 50% 1; * 0; }}
  split_clients $request_id $gone {{ 50% 1; * 0; }}
  server {{
    listen 127.0.0.1:{port};
    location /good/ {{ alias {published}/; }}
    location /busy/ {{ if ($busy) {{ return 503; }} alias {published}/; }}
    location /reset/ {{ if ($gone) {{ return 444; }} alias {published}/; }}
    location /slow/ {{ alias {published}/; limit_rate 40k; }}
    location /crawl/ {{ alias {published}/; limit_rate 12k; }}
    location /cut/ {{ proxy_pass http://127.0.0.1:{cutter.server_port}/; proxy_buffering off; }}
    location /down/ {{ return 503; }}
    location /hang/ {{ alias {published}/; limit_rate 1; }}
  }}
}}""")
    process = subprocess.Popen(["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)])
    while not listens(port):
        assert process.poll() is None, "nginx has ended"
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(10)
    cutter.shutdown()
    cutter.server_close()


@pytest.fixture(autouse=True)
def quick_and_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache for every test, and little patience."""
    monkeypatch.setattr(cache, "CacheConfig", lambda: CONFIG(folder=tmp_path / "cache"))
    monkeypatch.setattr(remote, "RemoteConfig", lambda: FAST)


CONFIG = cache.CacheConfig


@pytest.mark.parametrize("way", ["good", "busy", "reset", "cut", "slow"])
def test_every_sample_comes_through_whole(server: str, published: Path, way: str) -> None:
    reader = ShardReader(read_manifest(f"{server}/{way}"))
    local = ShardReader(read_manifest(published))
    assert [reader.read(number) for number in range(30)] == [local.read(number) for number in range(30)]


def test_a_broken_download_goes_on_where_it_stopped(
    server: str, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = read_manifest(published).shards[0]
    content = (published / shard.name).read_bytes()
    (tmp_path / "0.tar.partial").write_bytes(content[:9000])
    folder = RemoteFolder(f"{server}/good", FAST)
    asked: list[int] = []
    fetch = folder._chunk
    monkeypatch.setattr(folder, "_chunk", lambda name, start, end: (asked.append(start), fetch(name, start, end))[1])
    folder.download(shard.name, tmp_path / "0.tar", size=shard.bytes, sha256=shard.sha256)
    assert asked[0] == 9000
    assert (tmp_path / "0.tar").read_bytes() == content


def test_a_line_too_slow_for_its_chunks_gets_smaller_ones(server: str, published: Path, tmp_path: Path) -> None:
    shard = read_manifest(published).shards[0]
    impatient = RemoteConfig(chunk_bytes=1 << 20, attempts=12, first_wait=0.01, longest_wait=0.02, timeout=1)
    start = time.monotonic()
    place = RemoteFolder(f"{server}/crawl", impatient)
    place.download(shard.name, tmp_path / "0.tar", size=shard.bytes, sha256=shard.sha256)
    assert (tmp_path / "0.tar").read_bytes() == (published / shard.name).read_bytes()
    assert time.monotonic() - start > shard.bytes / 24_000  # the server did hold it up: whole, it would never end


def test_a_wrong_beginning_is_thrown_away_once(server: str, published: Path, tmp_path: Path) -> None:
    shard = read_manifest(published).shards[0]
    (tmp_path / "0.tar.partial").write_bytes(b"#" * 9000)
    RemoteFolder(f"{server}/good", FAST).download(shard.name, tmp_path / "0.tar", size=shard.bytes, sha256=shard.sha256)
    assert file_sha256(tmp_path / "0.tar") == shard.sha256
    with pytest.raises(ChangedError, match="publish the shards again"):
        RemoteFolder(f"{server}/good", FAST).download(shard.name, tmp_path / "1.tar", size=shard.bytes, sha256="0" * 64)
    assert sorted(path.name for path in tmp_path.glob("*.tar*")) == ["0.tar"]


@pytest.mark.parametrize(
    ("way", "said"), [("down", "gave up after 12 attempts.*503"), ("nowhere", "check the address"), ("hang", "gave up")]
)
def test_a_place_that_never_answers_is_an_error_that_says_so(server: str, way: str, said: str) -> None:
    impatient = RemoteConfig(attempts=12 if way == "down" else 2, first_wait=0.01, longest_wait=0.02, timeout=0.5)
    with pytest.raises(RemoteError, match=said):
        RemoteFolder(f"{server}/{way}", impatient).read("manifest.json")


def test_an_address_without_a_server_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="gave up after 12 attempts"):
        read_manifest(f"http://127.0.0.1:{free_port()}/train")


def look(sample: Sample, rngs: tuple[np.random.Generator, ...], alloc: AllocClip | None) -> list[tuple[str, int]]:
    return [(sample.key, len(sample.video))]


def as_list(items: list[tuple[str, int]], alloc: AllocClip | None) -> list[tuple[str, int]]:
    return items


@pytest.mark.parametrize(("start_method", "way"), [("fork", "busy"), ("spawn", "good")])
def test_workers_stream_from_afar_as_from_disk(
    server: str, published: Path, tmp_path: Path, start_method: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDEOMAE_CACHE", str(tmp_path / "cache"))  # spawned workers make their own config

    def batches(place: str, workers: int) -> list[list[tuple[str, int]]]:
        reader = ShardReader(read_manifest(place))
        stream = train_stream(
            reader,
            Order.of(reader.manifest, 6, OrderConfig()),
            Pipeline(look, as_list),
            RankSlice(micro_batch=3),
            config=LoaderConfig(workers=workers, start_method=start_method),  # pyright: ignore[reportArgumentType]
            quarantine=tmp_path / "quarantine.jsonl",
        )
        return list(itertools.islice(stream, 25))

    assert batches(f"{server}/{way}", 2) == batches(str(published), 0)
    assert not (tmp_path / "quarantine.jsonl").exists()


def fetch_all(url: str, folder: Path) -> None:
    place = RemoteFolder(url, FAST)
    manifest = Manifest.parse(place.read("manifest.json"), folder=folder, source=url, url=url)
    for shard in manifest.shards:
        path = cache.ShardCache(place, CONFIG(folder=folder)).fetch(shard.name, size=shard.bytes, sha256=shard.sha256)
        assert file_sha256(path) == shard.sha256


def test_processes_of_a_node_download_a_shard_once(server: str, tmp_path: Path, published: Path) -> None:
    log = Path(
        subprocess.run(
            ["find", str(published.parents[1]), "-name", "access.log"], capture_output=True, text=True, check=True
        ).stdout.split()[0]
    )
    before = len(log.read_text().splitlines())
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=fetch_all, args=(f"{server}/slow", tmp_path / "c")) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    asked = [line for line in log.read_text().splitlines()[before:] if "000000.tar" in line]
    chunks = -(-(published / "000000.tar").stat().st_size // FAST.chunk_bytes)
    assert len(asked) == chunks  # three processes, the requests of one


def test_a_downloader_that_is_killed_leaves_the_lock_and_its_bytes_to_the_next(
    server: str, tmp_path: Path, published: Path
) -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=fetch_all, args=(f"{server}/slow", tmp_path / "c"))
    process.start()
    deadline = time.monotonic() + 300
    while not list((tmp_path / "c").rglob("*.tar.partial")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    fetch_all(f"{server}/good", tmp_path / "c")
    shard = read_manifest(published).shards[0]
    fetch_all(f"{server}/slow", tmp_path / "c")
    assert {file_sha256(path) for path in (tmp_path / "c").rglob("000000.tar")} == {shard.sha256}


def test_verify_and_show_work_from_afar(
    server: str, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = server + "/good"
    assert main(["shards", "verify", address]) == 0
    assert "30 samples in 3 shard(s): every byte is as built" in capsys.readouterr().out
    cached = next((tmp_path / "cache").rglob("000001.tar"))
    with cached.open("r+b") as file:
        file.seek(ShardReader(read_manifest(published)).entry(12).offset)
        file.write(b"####")
    assert main(["shards", "verify", address, "--json"]) == 1
    (faults,) = json.loads(capsys.readouterr().out)["faults"].values()
    assert {(fault["shard"], fault["key"]) for fault in faults} == {("000001.tar", ""), ("000001.tar", "012")}
    assert main(["shards", "verify", f"{server}/nowhere"]) == 2
    assert "check the address" in capsys.readouterr().err


def test_a_mixture_of_remote_sets_is_fetched_ahead(server: str, published: Path, tmp_path: Path) -> None:
    manifests = [read_manifest(f"{server}/good"), read_manifest(published), read_manifest(f"{server}/slow")]
    mixture = Mixture(OrderConfig(), manifests, weights=[2, 1, 1], batch=8)
    prefetchers = make_prefetchers(MixedReader(manifests), mixture, start=0, stop=8)
    assert len(prefetchers) == 2  # the local set needs none
    for prefetcher in prefetchers:
        prefetcher.advance(0)
    deadline = time.monotonic() + 300
    while len(list((tmp_path / "cache").rglob("*.tar"))) < 6 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(list((tmp_path / "cache" / "plans").glob(f"{os.getpid()}-*.json"))) == 2
    for prefetcher in prefetchers:
        prefetcher.close()
    assert not list((tmp_path / "cache" / "plans").iterdir())
    assert len(list((tmp_path / "cache").rglob("*.tar"))) == 6
    remote = MixedReader(manifests)
    assert [remote.read(place.sample).key for place in mixture.slots(3)]
