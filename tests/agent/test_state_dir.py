"""The state folder: atomic writes, drafts and permissions."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.config.state_dir import StateDir, StateDirUnusable

BOUND_S = 60


@pytest.fixture
def folder(tmp_path):
    state = StateDir(tmp_path / "state")
    with state.locked():
        yield state


def files_in(folder: StateDir) -> set[str]:
    return {str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file()} - {"agent.lock"}


def test_concurrent_writes_leave_one_version_and_no_draft(folder, monkeypatch):
    """Both writers finish their drafts before either replaces the file."""
    both, fsync = threading.Barrier(2, timeout=BOUND_S), os.fsync

    def meet(descriptor: int) -> None:
        fsync(descriptor)
        both.wait()

    monkeypatch.setattr("agent.config.state_dir.os.fsync", meet)
    contents = [b"a" * 100_000, b"b" * 50_000]
    with ThreadPoolExecutor(2) as threads:
        for writing in [threads.submit(folder.write, "record.bin", content) for content in contents]:
            writing.result(BOUND_S)

    assert (folder.path / "record.bin").read_bytes() in contents
    assert files_in(folder) == {"record.bin"}


def test_write_is_synced_before_file_is_replaced(folder, monkeypatch):
    folder.write("key.pem", "old")
    synced = []

    def note(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_size, folder.read("key.pem")))

    monkeypatch.setattr("agent.config.state_dir.os.fsync", note)
    folder.write("key.pem", "newer")
    assert synced == [(len("newer"), "old")]
    assert folder.read("key.pem") == "newer"


def test_files_are_private_to_owner(folder):
    old = os.umask(0)
    try:
        folder.write("secrets/identity.yaml", "secret")
    finally:
        os.umask(old)
    assert (folder.path / "secrets/identity.yaml").stat().st_mode & 0o777 == 0o600
    assert (folder.path / "secrets").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("failing", ["os.fsync", "Path.replace"])
def test_failed_write_keeps_file_and_leaves_no_draft(folder, monkeypatch, failing):
    folder.write("record.bin", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"agent.config.state_dir.{failing}", full)
    with pytest.raises(StateDirUnusable, match=r"record\.bin cannot be written \(No space left on device\)"):
        folder.write("record.bin", b"new")
    assert folder.read_bytes("record.bin", 10) == b"old"
    assert files_in(folder) == {"record.bin"}


def test_drafts_of_killed_agent_are_removed_at_start(folder):
    state = StateDir(folder.path.parent / "another")
    kept, left = {"key.pem", "secrets/identity.yaml"}, {".record.bin.new", ".key.pem.x1y2.new", "secrets/.a.yaml.q.new"}
    (state.path / "secrets").mkdir(parents=True)
    for name in kept | left:
        (state.path / name).touch()
    with state.locked():
        assert files_in(state) == kept


def test_drafts_of_another_agent_are_kept(folder):
    (folder.path / ".record.bin.x.new").touch()
    with pytest.raises(StateDirUnusable, match="another agent uses"), StateDir(folder.path).locked():
        pass
    assert files_in(folder) == {".record.bin.x.new"}


def test_draft_that_cannot_be_removed_is_reported(tmp_path):
    (tmp_path / ".x.new").mkdir()
    with (
        pytest.raises(StateDirUnusable, match=r"a draft in .* cannot be removed \(Is a directory\)"),
        StateDir(tmp_path).locked(),
    ):
        pass
