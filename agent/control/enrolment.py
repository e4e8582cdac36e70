"""Enrolment: exchanges a join token and a signing request for a certificate, once for each state folder."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.config import state_dir as files
from agent.config.identity import Enrolment
from agent.config.settings import AgentSettings, ParentProxy, read_token
from agent.config.state_dir import StateDir, StateDirUnusable
from agent.control.api_client import ApiClient, ApiUnavailable, RefusedByApi
from agent.net.backoff import Backoff
from model import request_signature
from model.endpoint import Endpoint
from model.entities import Role
from model.errors import ExitplaneError
from model.request_signature import public_key_of
from model.version import exitplane_version

log = structlog.get_logger()

PATHS: Final[Mapping[Role, str]] = {Role.EXIT: "/api/v1/exits", Role.GATEWAY: "/api/v1/proxies"}
RETRY_BASE_S: Final = 0.5
RETRY_LIMIT_S: Final = 15.0
_RETRY_AFTER_MAX_S: Final = 60.0


class BadEnrolment(ExitplaneError):
    """The API's answer, or the file in the state folder, is not a valid enrolment."""

    code = "bad_enrolment"


async def ensure_enrolled(settings: AgentSettings, folder: StateDir, api: ApiClient) -> Enrolment:
    """Load the enrolment from the state folder, or enrol if there is none.

    Raises BadSetting, BadEnrolment, StateDirUnusable and RefusedByApi.
    """
    api_host = settings.api.host or ""
    known = load(folder, api_host)
    if known is not None:
        if (known.role, known.name) != (settings.role, settings.name):
            raise StateDirUnusable(
                f"{folder.path} belongs to the {known.role} {known.name!r}, not to the {settings.role} {settings.name!r}",
                hint="name another folder with --state, or remove this one to enrol anew",
            )
        return known
    key_pem = _ensure_key(folder)
    reply = await _register(settings, api, key_pem)
    fields = {**reply, "role": settings.role, "name": settings.name, "api_host": api_host}
    enrolment = _parse(fields, key_pem, api_host)
    folder.write(files.ENROLMENT, json.dumps(fields, indent=2))
    log.info("agent.enrolled", role=enrolment.role, id=str(enrolment.id), fleet=str(enrolment.fleet_id))
    return enrolment


def load(folder: StateDir, api_host: str | None = None) -> Enrolment | None:
    """Load the enrolment from a state folder; None if there is none. Raises BadEnrolment.

    `api_host` replaces the API's host of the enrolment, unless it is None.
    """
    key_pem, text = folder.read(files.KEY), folder.read(files.ENROLMENT)
    if key_pem is None or text is None:
        return None
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise BadEnrolment(f"{folder.path / files.ENROLMENT} is not JSON", hint="remove it to enrol anew") from error
    return _parse(fields, key_pem, api_host)


def _ensure_key(folder: StateDir) -> str:
    """Read the private key from the folder, or create it. A repeated enrolment sends the same key again."""
    known = folder.read(files.KEY)
    if known is not None:
        return known
    key = ec.generate_private_key(ec.SECP256R1())
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key_pem = key.private_bytes(serialization.Encoding.PEM, form, plain).decode()
    folder.write(files.KEY, key_pem)
    return key_pem


def build_csr(key_pem: str) -> str:
    """Build a CSR without names, because the control plane assigns the identity."""
    try:
        key = serialization.load_pem_private_key(key_pem.encode(), password=None)
    except ValueError as error:
        raise BadEnrolment(f"{files.KEY} contains no private key", hint="remove it to make a new one") from error
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


async def _register(settings: AgentSettings, api: ApiClient, key_pem: str) -> Mapping[str, Any]:
    """Register, and retry while the API is unavailable. Raises RefusedByApi.

    The request is signed, so that a repetition after a lost reply is known to come from the owner of the name's key.
    """
    path = f"{PATHS[settings.role]}/register"
    request = {
        "join_token": read_token(settings.token_file),
        "csr": build_csr(key_pem),
        "name": settings.name,
        "version": exitplane_version(),
        "renews": True,
        **_build_placement(settings),
    }
    body = json.dumps(request).encode()
    backoff, clock_offset = Backoff(RETRY_BASE_S, RETRY_LIMIT_S), timedelta(0)
    while True:
        now = datetime.now(UTC)
        try:
            signature = request_signature.sign(key_pem, "", path, body, now + clock_offset)
            return await api.post(path, body, authorization=f"Bearer {signature}")
        except ApiUnavailable as error:
            wait_s = max(backoff.next_s(), min(error.retry_after_s or 0, _RETRY_AFTER_MAX_S))
            log.warning("agent.not_enrolled_yet", reason=error.message, retry_in_s=round(wait_s, 1))
            await asyncio.sleep(wait_s)
        except RefusedByApi as error:
            # a signature of another time proves nothing: sign once more, by the control plane's clock
            if clock_offset or error.answered_at is None or abs(error.answered_at - now) < request_signature.LEEWAY:
                raise
            clock_offset = error.answered_at - now


def _build_placement(settings: AgentSettings) -> dict[str, Any]:
    """Return locality, pool, addresses and parent; unset fields are left out, and the API chooses."""
    values: dict[str, Any] = {"locality": settings.locality and str(settings.locality)}
    if settings.exit is not None:
        fields = ("pool", "address", "port", "bind_address", "egress_address")
        values |= {name: getattr(settings.exit, name) for name in fields}
        values["parent"] = settings.exit.parent and _build_parent(settings.exit.parent)
    return {name: value for name, value in values.items() if value is not None}


def _build_parent(parent: ParentProxy) -> dict[str, Any]:
    credentials = parent.credentials
    login = {"username": credentials.username, "password": credentials.password} if credentials else {}
    return {"address": parent.endpoint.host, "port": parent.endpoint.port, **login}


def _parse(fields: Mapping[str, Any], key_pem: str, api_host: str | None) -> Enrolment:
    """Parse the API's answer, to which role, name and the API's host were added. Raises BadEnrolment."""
    try:
        xds = fields["xds"]
        enrolment = Enrolment(
            role=Role(fields["role"]),
            name=str(fields["name"]),
            id=UUID(fields["id"]),
            fleet_id=UUID(fields["fleet_id"]),
            key_pem=key_pem,
            certificate_pem=str(fields["certificate"]),
            authority_pem=str(fields["authority"]),
            # without an address the xDS server has the host of the API
            xds=Endpoint(str(xds["address"] or api_host or fields["api_host"]), int(xds["port"])),
            interval_s=float(fields["heartbeat"]["interval_s"]),
            authority_version=str(fields.get("authority_version", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _invalid(error) from error
    _check(enrolment)
    return enrolment


def store_renewal(folder: StateDir, enrolment: Enrolment, reply: Mapping[str, Any]) -> Enrolment:
    """Write the API's answer to a renewal into the state folder, and return the new enrolment.

    Raises BadEnrolment and StateDirUnusable. Then the folder is as it was.
    """
    try:
        renewed = {name: str(reply[name]) for name in ("certificate", "authority", "authority_version")}
        fields = {**json.loads(folder.read(files.ENROLMENT) or ""), **renewed}
    except (KeyError, ValueError) as error:
        raise _invalid(error) from error
    changed = replace(
        enrolment,
        certificate_pem=renewed["certificate"],
        authority_pem=renewed["authority"],
        authority_version=renewed["authority_version"],
    )
    _check(changed)
    folder.write(files.ENROLMENT, json.dumps(fields, indent=2))
    return changed


def _check(enrolment: Enrolment) -> None:
    """Check that the certificate is for the agent's key, and the authority is one. Raises BadEnrolment."""
    try:
        x509.load_pem_x509_certificates(enrolment.authority_pem.encode())
        own_key = serialization.load_pem_private_key(enrolment.key_pem.encode(), password=None).public_key()
        key_form = serialization.PublicFormat.SubjectPublicKeyInfo
        own = own_key.public_bytes(serialization.Encoding.PEM, key_form).decode()
        matches = public_key_of(enrolment.certificate_pem) == own
    except (TypeError, ValueError, AttributeError) as error:
        raise _invalid(error) from error
    if not matches:
        raise BadEnrolment("the certificate is for another key", hint="remove the state folder to enrol anew")


def _invalid(error: Exception) -> BadEnrolment:
    return BadEnrolment(f"the enrolment is invalid ({type(error).__name__}: {error})", hint="check --api")
