"""Tests of `exitplane ca`: print, rotate, and take an authority whose root stays offline."""

from __future__ import annotations

import base64
import functools
import json
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from model.authority import INTERMEDIATE_LIFETIME, CertificateAuthority, create_authority, issue_server, sign_request
from model.current_authority import CurrentAuthority, root_of
from model.database import Database
from model.encryption import KEY_BYTES
from model.entities import Role
from model.identity import Identity
from model.repositories import authorities, enrolment
from model.tables import FleetRow, ProxyRow
from model.unit_of_work import write
from tests.conftest import KEYRING

pytestmark = pytest.mark.slow

NOW = datetime.now(UTC)


@pytest.fixture
def ca(command, database_url):
    key = base64.b64encode(bytes(KEY_BYTES)).decode()
    return functools.partial(command, "ca", EXITPLANE_DATABASE_URL=database_url, EXITPLANE_ENCRYPTION_KEY=key)


class RenewingSite:
    """A database with an authority and a gateway that renews its certificate."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.key = ec.generate_private_key(ec.SECP256R1())

    async def load(self) -> CertificateAuthority:
        async with self.database.session() as session:
            found = await authorities.load(session)
        assert found is not None
        return found

    async def add_gateway(self) -> None:
        async with self.database.session() as session:
            fleet = FleetRow(name="home", created_at=NOW)
            session.add(fleet)
            await session.flush()
            self.proxy = ProxyRow(fleet_id=fleet.id, name="gateway-1", role=Role.GATEWAY, created_at=NOW)
            session.add(self.proxy)

    async def renew(self) -> str:
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(self.key, hashes.SHA256())
        csr = request.public_bytes(serialization.Encoding.PEM).decode()
        authority, now = await self.load(), datetime.now(UTC)
        identity = Identity(self.proxy.fleet_id, Role.GATEWAY, self.proxy.id)
        signed = sign_request(authority, csr, identity, now)
        async with write(self.database) as unit:
            await enrolment.record_certificate(unit, self.proxy.id, signed, authority, now)
        return signed


@pytest.fixture
async def site(database_url):
    database = Database(database_url, keyring=KEYRING, pool_size=1)
    async with database.session() as session:
        await authorities.ensure(session, lambda: create_authority(NOW))
    found = RenewingSite(database)
    await found.add_gateway()
    yield found
    await database.close()


async def test_certificate_of_the_authority_is_printed_and_its_key_is_not(ca, database_url, tmp_path):
    done = await ca()
    assert (done.status, done.out) == (1, "")
    assert "there is no authority yet; start `exitplane serve`" in done.err

    authority = create_authority(datetime.now(UTC))
    database = Database(database_url, keyring=KEYRING, pool_size=1)
    async with database.session() as session:
        await authorities.ensure(session, lambda: authority)
    await database.close()
    done = await ca()
    assert (done.status, done.out) == (0, authority.certificate_pem)
    assert (await ca("--output", str(tmp_path / "ca.pem"))).out == ""
    assert (tmp_path / "ca.pem").read_text() == authority.certificate_pem
    assert "cannot be written" in (await ca("--output", str(tmp_path))).err


async def test_intermediate_is_replaced_at_once_below_the_same_root(ca, site):
    before = await site.load()
    assert (await ca("rotate")).status == 0
    after = await site.load()
    assert after.certificate_pem == before.certificate_pem
    assert after.issuer_id != before.issuer_id
    assert after.version != before.version
    after.issuer.verify_directly_issued_by(after.roots[0])
    replica = CurrentAuthority(before)
    await replica.catch_up(site.database)
    assert replica.value == after
    await replica.renew_intermediate(site.database, NOW + INTERMEDIATE_LIFETIME * 0.6)
    assert replica.value == after
    await replica.renew_intermediate(site.database, NOW + INTERMEDIATE_LIFETIME * 0.7)
    assert replica.value == await site.load() != after


async def test_root_is_replaced_in_steps_that_wait_for_all_proxies(ca, site):
    old = await site.load()
    await site.renew()
    assert (await ca("rotate", "--root")).status == 0
    both = await site.load()
    assert (len(both.roots), both.issuer_id) == (2, old.issuer_id)
    assert "under way" in (await ca("rotate", "--root")).err

    refused = await ca("activate")
    assert (refused.status, refused.out) == (1, "")
    assert "1 proxies do not trust the new root yet: gateway gateway-1" in refused.err
    await site.renew()
    assert "run `exitplane ca activate`" in json.loads((await ca("status", "--json")).out)["next"]
    assert (await ca("activate")).status == 0
    new = await site.load()
    assert (len(new.roots), new.issuer_id == old.issuer_id) == (2, False)

    assert "no certificate of the present authority yet" in (await ca("retire")).err
    await site.renew()
    assert (await ca("retire")).out == "1 former root trusted no more\n"
    last = await site.load()
    assert last.certificate_pem == root_of(new) == (await ca()).out
    assert "there is no authority to activate" in (await ca("activate")).err


async def test_root_may_stay_offline_with_a_passphrase(ca, site, tmp_path):
    key, root, csr, chain = (tmp_path / name for name in ("root.key", "root.pem", "intermediate.csr", "chain.pem"))
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("correct horse\n")
    passphrase.chmod(0o600)
    files = ("--key", str(key), "--certificate", str(root), "--passphrase-file", str(passphrase))
    assert (await ca("create-root", *files)).status == 0
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert "cannot be written" in (await ca("create-root", *files)).err  # it replaces no key

    assert (await ca("request", "--output", str(csr))).status == 0
    assert (await ca("sign", str(csr), *files, "--output", str(chain))).status == 0
    assert "needs a passphrase" in (await ca("sign", str(csr), *files[:4])).err
    assert (await ca("import", str(chain))).status == 0
    assert (await ca("activate")).status == 0
    issuing = await site.load()
    assert root_of(issuing) == root.read_text()
    assert issuing.root_key_pem is None
    assert "not here" in (await ca("rotate")).err

    assert (await ca("request", "--output", str(csr))).status == 0
    assert (await ca("sign", str(csr), *files, "--output", str(chain))).status == 0
    assert "issues from now on" in (await ca("import", str(chain))).out  # below the same root at once
    assert (await site.load()).issuer_id != issuing.issuer_id


async def test_bad_authorities_are_refused_and_nothing_is_stored(ca, site, tmp_path):
    external = create_authority(NOW)
    key, chain = tmp_path / "issuer.key", tmp_path / "chain.pem"

    async def refusal(text: str, key_pem: str = external.key_pem, mode: int = 0o600) -> str:
        chain.write_text(text)
        key.unlink(missing_ok=True)
        key.write_text(key_pem)
        key.chmod(mode)
        done = await ca("import", str(chain), "--key", str(key))
        assert (done.status, done.out) == (1, "")
        return done.err

    good = external.chain_pem + external.certificate_pem
    assert "the wrong order" in await refusal(external.certificate_pem + external.chain_pem)
    assert "has no root" in await refusal(external.chain_pem)
    assert "not PEM" in await refusal("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert "others can read" in await refusal(good, mode=0o640)
    assert "is not for the issuer's key" in await refusal(good, create_authority(NOW).key_pem)
    assert "not the certificate of an authority" in await refusal(
        issue_server(external, NOW).certificate_pem + external.certificate_pem
    )
    assert "no request to import" in (await ca("import", str(chain))).err
    assert [row["id"] for row in await site.database.fetch("SELECT id FROM authority")] == [1]
    assert len(await site.database.fetch("SELECT id FROM trusted_authority")) == 1


async def test_revocation_list_has_removed_proxies(ca, site, tmp_path):
    first, second = await site.renew(), await site.renew()
    authority = await site.load()
    crl = x509.load_pem_x509_crl((await ca("crl")).out.encode())
    assert crl.is_signature_valid(authority.issuer.public_key())
    assert len(crl) == 0
    async with site.database.session() as session:
        await session.delete(await session.get_one(ProxyRow, site.proxy.id))
    file = tmp_path / "crl.pem"
    assert (await ca("crl", "--output", str(file))).status == 0
    crl = x509.load_pem_x509_crl(file.read_bytes())
    serials = {x509.load_pem_x509_certificate(each.encode()).serial_number for each in (first, second)}
    assert {each.serial_number for each in crl} == serials
