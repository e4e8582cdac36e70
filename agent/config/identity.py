"""The identity that a proxy has from the control plane."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from model.endpoint import Endpoint
from model.world import Role


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a proxy was given: its id, its certificate and the authority's (PEM), and where to go with them.

    `id` is the exit's id for an exit. Heartbeats are sent every `interval_s` seconds until a reply says otherwise.
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
