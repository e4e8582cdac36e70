"""The tables: declared state, rollout state, heartbeats, operators, audit. All queries are in `model.repositories`."""

from __future__ import annotations

from sqlmodel import SQLModel

from model.tables.change_rows import AuditHeadRow, AuditRow, ChangeRow, RevisionRow
from model.tables.container_rows import ContainerCommandRow, ContainerEngineRow, ContainerPoolRow, ContainerRow
from model.tables.enrolment_rows import (
    AuthorityRow,
    CertificateRow,
    JoinTokenRow,
    RevokedCertificateRow,
    TrustedAuthorityRow,
)
from model.tables.fleet_rows import (
    FleetAuthorityRow,
    FleetRow,
    ListenerRow,
    PlanRow,
    PoolRow,
    RoutePoolRow,
    RouteRow,
    ServerCertificateRow,
    UserRow,
)
from model.tables.operator_rows import ApiKeyRow, IdempotencyRow, OperatorRow, SessionRow, SigningKeyRow, ThrottleRow
from model.tables.proxy_rows import (
    ExitHistoryRow,
    ExitOrderRow,
    ExitRow,
    HeartbeatRow,
    IngestWatermarkRow,
    KeepaliveRow,
    ProxyRow,
    RemovedProxyRow,
)
from model.tables.rollout_rows import (
    AcceptedRow,
    ApprovalRow,
    CanaryRow,
    ConfigRequestRow,
    FormerRejectionRow,
    RejectionRow,
    ReplicaRow,
    RolloutOverrideRow,
    RolloutRow,
    SyncRow,
)

__all__ = [
    "AcceptedRow",
    "ApiKeyRow",
    "ApprovalRow",
    "AuditHeadRow",
    "AuditRow",
    "AuthorityRow",
    "CanaryRow",
    "CertificateRow",
    "ChangeRow",
    "ConfigRequestRow",
    "ContainerCommandRow",
    "ContainerEngineRow",
    "ContainerPoolRow",
    "ContainerRow",
    "ExitHistoryRow",
    "ExitOrderRow",
    "ExitRow",
    "FleetAuthorityRow",
    "FleetRow",
    "FormerRejectionRow",
    "HeartbeatRow",
    "IdempotencyRow",
    "IngestWatermarkRow",
    "JoinTokenRow",
    "KeepaliveRow",
    "ListenerRow",
    "OperatorRow",
    "PlanRow",
    "PoolRow",
    "ProxyRow",
    "RejectionRow",
    "RemovedProxyRow",
    "ReplicaRow",
    "RevisionRow",
    "RevokedCertificateRow",
    "RolloutOverrideRow",
    "RolloutRow",
    "RoutePoolRow",
    "RouteRow",
    "SQLModel",
    "ServerCertificateRow",
    "SessionRow",
    "SigningKeyRow",
    "SyncRow",
    "ThrottleRow",
    "TrustedAuthorityRow",
    "UserRow",
]
