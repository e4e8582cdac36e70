"""Sealed secrets: in the database, in backups, and under keys that change."""

from __future__ import annotations

import os

import pytest

from model import key_file
from model.encryption import (
    KEY_BYTES,
    MARKER,
    Keyring,
    MissingEncryptionKey,
    SecretUnreadable,
    from_text,
    id_in,
    key_id,
    to_text,
)
from model.key_file import BadKeyFile
from model.settings import Settings

KEY, OTHER = bytes(range(KEY_BYTES)), os.urandom(KEY_BYTES)


class TestKeyring:
    @pytest.mark.parametrize("value", [b"", b"secret", bytes(range(256)) * 10])
    def test_sealed_value_opens_for_its_purpose(self, value):
        sealed = Keyring([KEY]).seal(value, "exit.parent_password")
        assert value == b"" or value not in sealed
        assert Keyring([KEY]).open(sealed, "exit.parent_password") == value
        assert from_text(to_text(sealed)) == sealed

    def test_sealed_value_does_not_open_for_another_purpose(self):
        keyring = Keyring([KEY])
        with pytest.raises(SecretUnreadable, match=r"authority\.key"):
            keyring.open(keyring.seal(b"secret", "exit.parent_password"), "authority.key")

    def test_every_changed_byte_after_the_marker_is_found(self):
        keyring = Keyring([KEY])
        sealed = keyring.seal(b"secret", "a")
        for at in range(len(MARKER), len(sealed)):
            with pytest.raises((SecretUnreadable, MissingEncryptionKey)):
                keyring.open(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :], "a")
            with pytest.raises((SecretUnreadable, MissingEncryptionKey)):
                keyring.open(sealed[:at], "a")

    def test_equal_values_look_different(self):
        keyring = Keyring([KEY])
        assert keyring.seal(b"secret", "a") != keyring.seal(b"secret", "a")

    def test_first_key_seals_and_every_key_opens(self):
        old = Keyring([KEY]).seal(b"secret", "a")
        both = Keyring([OTHER, KEY])
        assert both.open(old, "a") == b"secret"
        assert id_in(both.seal(b"secret", "a")) == key_id(OTHER).hex()

    def test_missing_key_is_named_with_a_hint(self):
        sealed = Keyring([KEY]).seal(b"secret", "a")
        with pytest.raises(MissingEncryptionKey, match=key_id(KEY).hex()) as caught:
            Keyring([OTHER]).open(sealed, "a")
        assert "EXITPLANE_ENCRYPTION_KEY_FILE" in (caught.value.hint or "")

    def test_value_from_before_sealing_is_returned_as_it_is(self):
        assert Keyring([KEY]).open(b"-----BEGIN PRIVATE KEY-----", "authority.key") == b"-----BEGIN PRIVATE KEY-----"
        assert from_text("pässword") == "pässword".encode()

    def test_values_of_many_data_keys_open(self, monkeypatch):
        monkeypatch.setattr("model.encryption._VALUES_PER_DATA_KEY", 1)
        monkeypatch.setattr("model.encryption._OPENED_MAX", 2)
        keyring = Keyring([KEY])
        sealed = [keyring.seal(bytes([number]), "a") for number in range(5)]
        assert [keyring.open(each, "a") for each in sealed * 2] == [bytes([number]) for number in range(5)] * 2


class TestKeyFile:
    @pytest.fixture
    def settings(self, tmp_path):
        return Settings(state_dir=tmp_path, encryption_key=None, encryption_key_file=None)

    def test_created_file_is_for_its_owner_alone_and_stays(self, settings):
        path = key_file.path_of(settings)
        assert key_file.create(path)
        content = path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600
        assert not key_file.create(path)
        assert path.read_bytes() == content
        assert [each.name for each in path.parent.iterdir()] == [path.name]
        assert len(key_file.read_keyring(settings).ids) == 1

    def test_running_process_uses_the_new_key_of_the_file(self, settings):
        path = key_file.path_of(settings)
        key_file.create(path)
        running = key_file.read_keyring(settings)
        before = running.seal(b"secret", "a")
        key_file.prepend(path)
        after = running.seal(b"secret", "a")
        assert id_in(after) == key_file.read_keyring(settings).ids[0] != id_in(before)
        assert running.open(before, "a") == running.open(after, "a") == b"secret"
        key_file.keep_first(path)
        with pytest.raises(MissingEncryptionKey):
            key_file.read_keyring(settings).open(before, "a")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "has no key"),
            ("# a comment\n\n", "has no key"),
            ("c2hvcnQ=\n", "key 1 of .* is not 32 bytes in base64"),
            (f"{'A' * 43}=\nnot base64!\n", "key 2 of"),
        ],
    )
    def test_malformed_file_is_refused_without_its_content(self, settings, content, message):
        path = key_file.path_of(settings)
        path.write_text(content)
        path.chmod(0o600)
        with pytest.raises(BadKeyFile, match=message) as caught:
            key_file.read_keyring(settings)
        assert "c2hvcnQ" not in str(caught.value)

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
    def test_file_that_others_can_read_is_refused(self, settings, mode):
        path = key_file.path_of(settings)
        key_file.create(path)
        path.chmod(mode)
        with pytest.raises(BadKeyFile, match="others can read") as caught:
            key_file.read_keyring(settings)
        assert caught.value.hint == f"chmod 600 {path}"

    def test_missing_file_is_refused_with_a_hint(self, settings):
        with pytest.raises(MissingEncryptionKey, match="does not exist") as caught:
            key_file.read_keyring(settings)
        assert "exitplane encryption create" in (caught.value.hint or "")

    def test_keys_of_the_environment_come_before_the_file(self, tmp_path):
        keys = f"{'A' * 43}=, {'B' * 42}A="
        settings = Settings(state_dir=tmp_path, encryption_key=keys, encryption_key_file=None)
        assert len(key_file.read_keyring(settings).ids) == 2
