"""Atomic writes, file locks and checksums."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
from pathlib import Path

import pytest

from videomae.core.files import atomic_folder, atomic_path, file_lock, file_sha256, write_atomic, write_json


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("content", ["new ü\n", b"\x00new"])
def test_a_write_replaces_the_whole_file(tmp_path: Path, content: str | bytes, sync: bool) -> None:
    path = tmp_path / "file"
    path.write_text("an older and longer content")
    write_atomic(path, content, sync=sync)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with atomic_path(path) as part:
            part.write_text("half")
            assert path.read_text() == "old"
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left") as raised:
        write_half()
    assert raised.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".file.part").write_text("half of an earlier write, longer than the next one")
    write_json(tmp_path / "file", {"a": [1]})
    assert json.loads((tmp_path / "file").read_text()) == {"a": [1]}
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def write(*, fail: bool) -> None:
        with atomic_folder(tmp_path / "folder") as part:
            (part / "a").write_text("a")
            assert not (tmp_path / "folder").exists()
            if fail:
                raise ValueError("broken off")

    with pytest.raises(ValueError, match="broken off"):
        write(fail=True)
    assert not list(tmp_path.iterdir())
    write(fail=False)
    assert (tmp_path / "folder" / "a").read_text() == "a"


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with file_lock(path), pytest.raises(BlockingIOError), file_lock(path, blocking=False):
        pass
    with file_lock(path, blocking=False):
        pass


def test_a_filesystem_without_locks_serves_where_none_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="No locks"), file_lock(tmp_path / "lock"):
        pass
    with pytest.raises(ValueError, match="within"), file_lock(tmp_path / "lock", required=False):
        raise ValueError("from within")


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert file_sha256(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()
