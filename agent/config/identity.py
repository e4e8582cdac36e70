"""The identity that a proxy has from the control plane."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from model.endpoint import Endpoint
from model.entities import Role


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The API's reply to an enrolment: the proxy's id, its certificate and the authority's (PEM), and the xDS server.

    `id` is the exit's id for an exit. Heartbeats are sent every `interval_s` seconds, until a reply gives another interval.
    """

    role: Role
    name: str
    id: UUID
    fleet_id: UUID
    key_pem: str
    certificate_pem: str
    authority_pem: str
    xds: Endpoint
    interval_s: float
    authority_version: str = ""
    """The version of the authority that came with the certificate; empty: a control plane of 0.1.0 signed it."""
