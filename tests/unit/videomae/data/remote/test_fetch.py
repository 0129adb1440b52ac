"""A bad line is tried again, whichever client's error tells of it."""

import importlib
import importlib.util

import pytest

from videomae.data.errors import RemoteError
from videomae.data.remote.fetch import RemoteConfig, RemoteFolder

CASES = [
    ("s3", "s3fs", "aiohttp", "ServerDisconnectedError"),
    ("gs", "gcsfs", "aiohttp", "ClientPayloadError"),
    ("gs", "gcsfs", "google.auth.exceptions", "TransportError"),
    ("http", "aiohttp", "aiohttp", "ClientPayloadError"),
]


@pytest.mark.parametrize(
    ("scheme", "module", "name"),
    [
        pytest.param(
            scheme, module, name,
            marks=pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"needs {package}"),
        )
        for scheme, package, module, name in CASES
    ],
)  # fmt: skip
def test_the_errors_of_every_client_are_tried_again(scheme: str, module: str, name: str) -> None:
    kind = getattr(importlib.import_module(module), name)
    place = RemoteFolder(f"{scheme}://bucket/train", RemoteConfig(attempts=3, first_wait=0.001))
    failures = [kind("lost"), kind("lost")]

    def action() -> str:
        if failures:
            raise failures.pop()
        return "here"

    assert place._patiently("x.tar", action) == "here"
    failures = [kind("lost")] * 3
    with pytest.raises(RemoteError, match="gave up after 3 attempts"):
        place._patiently("x.tar", action)
