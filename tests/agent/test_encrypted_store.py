"""The encrypted record on disk: only this proxy, with its key, can load it."""

from __future__ import annotations

from uuid import UUID

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from agent.ads import encrypted_store
from agent.ads.config_record import AcceptedResource, ConfigRecord
from agent.ads.encrypted_store import EncryptedStore
from agent.config.state_dir import StateDir
from xds.translate.names import CLUSTER

PROXY = UUID(int=7)
SECRET = b"-----BEGIN PRIVATE KEY-----"


def a_key() -> str:
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(serialization.Encoding.PEM, form, plain).decode()


KEY = a_key()


@pytest.fixture
def folder(tmp_path):
    state = StateDir(tmp_path / "state")
    with state.locked():
        yield state


@pytest.fixture
def record():
    made = ConfigRecord()
    made.update(CLUSTER, {"a": AcceptedResource("v1", SECRET)})
    return made


@pytest.fixture
def file(folder, record):
    """The record's file, written by PROXY with KEY."""
    EncryptedStore(folder, KEY, PROXY).save(record.encode())
    return folder.path / "record.bin"


def load(folder, key=KEY, proxy=PROXY):
    with capture_logs() as logs:
        record = EncryptedStore(folder, key, proxy).load()
    return record.types, [(entry["event"], entry["log_level"]) for entry in logs]


UNREADABLE = ({}, [("record.unreadable", "warning")])


def test_saved_record_is_loaded(folder, file, record):
    assert load(folder) == (record.types, [])


def test_missing_file_is_empty_record_without_warning(folder):
    assert load(folder) == ({}, [])


def test_file_is_private_and_encrypted(file):
    assert file.stat().st_mode & 0o777 == 0o600
    raw = file.read_bytes()
    assert SECRET not in raw
    assert b"envoy" not in raw


def test_each_save_uses_a_new_nonce(folder, file, record):
    first = file.read_bytes()
    EncryptedStore(folder, KEY, PROXY).save(record.encode())

    assert file.read_bytes()[4:16] != first[4:16]


@pytest.mark.parametrize("at", [0, 3, 4, 15, 16, -1])
def test_modified_file_is_not_loaded(folder, file, at):
    raw = bytearray(file.read_bytes())
    raw[at] ^= 1
    file.write_bytes(raw)

    assert load(folder) == UNREADABLE


@pytest.mark.parametrize("length", [0, 4, 16, 20, -1])
def test_truncated_file_is_not_loaded(folder, file, length):
    file.write_bytes(file.read_bytes()[:length])

    assert load(folder) == UNREADABLE


def test_file_of_other_key_or_proxy_is_not_loaded(folder, file):
    assert load(folder, key=a_key()) == UNREADABLE
    assert load(folder, proxy=UUID(int=8)) == UNREADABLE


def test_oversized_file_is_not_loaded(folder, file, monkeypatch):
    monkeypatch.setattr(encrypted_store, "MAX_BYTES", file.stat().st_size - 1)

    assert load(folder) == UNREADABLE


def test_failed_save_is_logged_once(folder, file, record, monkeypatch):
    before = file.read_bytes()
    monkeypatch.setattr(encrypted_store, "_MAX_CONTENT_BYTES", 10)
    store = EncryptedStore(folder, KEY, PROXY)
    with capture_logs() as logs:
        store.save(record.encode())
        store.save(record.encode())

    assert [entry["event"] for entry in logs] == ["record.not_written"]
    assert file.read_bytes() == before


def test_removed_record_is_not_loaded(folder, file):
    EncryptedStore(folder, KEY, PROXY).remove()
    EncryptedStore(folder, KEY, PROXY).remove()

    assert load(folder) == ({}, [])
