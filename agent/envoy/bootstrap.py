"""The bootstrap of an Envoy: `envoy/bootstrap.yaml` with its placeholders replaced by typed values."""

from __future__ import annotations

import socket
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files as resources
from typing import Any, Final
from uuid import UUID

import yaml

from agent.config import state_dir as files
from agent.envoy import secrets
from model.endpoint import Endpoint
from model.entities import Role
from model.errors import ExitplaneError
from model.identity import XDS_SERVER_NAME
from model.version import exitplane_version

FORMAT_VERSION: Final = 2
"""The version of the template. A proxy states it in its metadata, so that the control plane knows which features it has."""
CONNECTIONS_MAX: Final = 50_000
"""The default limit of downstream connections."""
UNUSED_COLLECTOR: Final = Endpoint("127.0.0.1", 4317)
DIRECT_S: Final = 120
"""The maximum duration of a stream that bypasses the agent, so that Envoy returns to an agent that was restarted."""

_DNS_PORT: Final = 53
_LOCAL_CLUSTERS: Final = ("agent", "metrics")
"""Clusters on Unix sockets in the state folder."""
_MARKED_CLUSTERS: Final = ("xds", "otel-collector")
_TEMPLATE: Final = resources("xds") / "envoy" / "bootstrap.yaml"
_METRICS_TEMPLATE: Final = resources("xds") / "envoy" / "metrics.yaml"


class BadTemplate(ExitplaneError):
    code = "bad_template"


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """The values that differ between the bootstraps of two Envoys.

    `xds` are the control planes, which Envoy tries in turn. `otlp` is the collector of traces (OTLP over gRPC). With `relayed` Envoy
    tries the agent before the control planes (docs/decisions/0009-the-agent-relays.md). `resolvers` (IP addresses) replace those of
    /etc/resolv.conf. `mark` is the SO_MARK of packets to control plane and collector, for a kill switch that lets out no others.

    Connections of clusters that xDS brings are bound to `interface` (SO_BINDTODEVICE) and carry `client_mark` (SO_MARK). They fail
    while the interface is missing. At `metrics` (an IP address) Envoy answers GET /stats/prometheus and nothing else.
    """

    role: Role
    node_id: UUID
    fleet_id: UUID
    xds: tuple[Endpoint, ...]
    otlp: Endpoint = UNUSED_COLLECTOR
    max_downstream_connections: int = CONNECTIONS_MAX
    relayed: bool = True
    resolvers: tuple[str, ...] = ()
    mark: int | None = None
    interface: str | None = None
    client_mark: int | None = None
    metrics: Endpoint | None = None


def limit_connections(descriptors: int) -> int:
    """Return the limit of downstream connections for an Envoy that may open this many descriptors.

    A tunnel takes a connection on either side, and a gateway keeps up to half as many ready. The rest is left for logs and the
    control plane.
    """
    return min(CONNECTIONS_MAX, descriptors * 3 // 8)


def render(bootstrap: Bootstrap) -> dict[str, Any]:
    """Render the bootstrap as JSON-like data (envoy.config.bootstrap.v3.Bootstrap)."""
    values = {
        "node_id": str(bootstrap.node_id),
        "fleet_id": str(bootstrap.fleet_id),
        "role": str(bootstrap.role),
        "format_version": FORMAT_VERSION,
        "exitplane_version": exitplane_version(),
        "admin_path": files.ADMIN_SOCKET,
        "max_downstream_connections": bootstrap.max_downstream_connections,
        "xds_endpoints": _build_endpoints(*bootstrap.xds),
        "xds_server_name": XDS_SERVER_NAME,
        "identity_name": secrets.IDENTITY,
        "identity_path": secrets.IDENTITY_PATH,
        "authority_name": secrets.AUTHORITY,
        "authority_path": secrets.AUTHORITY_PATH,
        "secrets_folder": secrets.FOLDER,
        "agent_path": files.SOCKET,
        "sources": ["agent", "xds"] if bootstrap.relayed else ["xds"],
        "direct_duration": f"{DIRECT_S}s" if bootstrap.relayed else "0s",
        "otlp_endpoints": _build_endpoints(bootstrap.otlp),
    }
    rendered: dict[str, Any] = fill(yaml.safe_load(_TEMPLATE.read_text()), values)
    if bootstrap.resolvers:
        rendered["typed_dns_resolver_config"] = _build_resolver_config(bootstrap.resolvers)
    if bootstrap.metrics is not None:
        _add_metrics(rendered["static_resources"], bootstrap.metrics)
    _add_socket_options(rendered, bootstrap)
    return rendered


def _add_metrics(static: dict[str, Any], metrics: Endpoint) -> None:
    """Add the listener for metrics, and its cluster, to the static resources (envoy.config.bootstrap.v3.Bootstrap)."""
    values = {"metrics_address": metrics.host, "metrics_port": metrics.port, "admin_path": files.ADMIN_SOCKET}
    filled = fill(yaml.safe_load(_METRICS_TEMPLATE.read_text()), values)
    static["listeners"] = [filled["listener"]]
    static["clusters"].append(filled["cluster"])


def _add_socket_options(rendered: dict[str, Any], bootstrap: Bootstrap) -> None:
    """Add options for the sockets of all clusters, and others for those of the bootstrap's own clusters.

    A cluster's own options replace the manager's (envoy.config.bootstrap.v3.ClusterManager), a source address alone does not.
    """
    interface, mark, client_mark = bootstrap.interface, bootstrap.mark, bootstrap.client_mark
    to_targets = [] if client_mark is None else [_build_option(socket.SO_MARK, int_value=client_mark)]
    if interface is not None:
        to_targets.append(_build_device_option(interface))
    if to_targets:
        rendered["cluster_manager"] = {"upstream_bind_config": {"socket_options": to_targets}}
    to_control = None if mark is None else _build_option(socket.SO_MARK, int_value=mark)
    for cluster in rendered["static_resources"]["clusters"]:
        if to_control is not None and cluster["name"] in _MARKED_CLUSTERS:
            cluster["upstream_bind_config"] = {"socket_options": [to_control]}
        elif to_targets and cluster["name"] in (*_MARKED_CLUSTERS, *_LOCAL_CLUSTERS):
            cluster["upstream_bind_config"] = {"socket_options": [_build_device_option("")]}


def _build_device_option(interface: str) -> dict[str, Any]:
    """Build the option that binds a socket to an interface; the empty name leaves it unbound, and needs no rights."""
    return _build_option(socket.SO_BINDTODEVICE, buf_value=b64encode(interface.encode()).decode())


def _build_option(name: int, **value: Any) -> dict[str, Any]:
    return {"level": socket.SOL_SOCKET, "name": name, **value, "state": "STATE_PREBIND"}


def _build_resolver_config(addresses: tuple[str, ...]) -> dict[str, Any]:
    """Build the config for these resolvers, without search domains, because those would be the host's."""
    return {
        "name": "envoy.network.dns_resolver.cares",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            "resolvers": [{"socket_address": {"address": each, "port_value": _DNS_PORT}} for each in addresses],
            "use_resolvers_as_fallback": False,
            "dns_resolver_options": {"no_default_search_domain": True},
        },
    }


def fill(template: Any, values: Mapping[str, Any]) -> Any:
    """Replace each value of a template that is exactly `${name}`; keys and longer texts stay unchanged.

    Raises BadTemplate for a name without a value.
    """
    if isinstance(template, dict):
        return {key: fill(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [fill(item, values) for item in template]
    if isinstance(template, str) and template.startswith("${") and template.endswith("}"):
        name = template[2:-1]
        if name not in values:
            raise BadTemplate(f"the bootstrap template contains {name!r}, which has no value")
        return values[name]
    return template


def _build_endpoints(*endpoints: Endpoint) -> list[dict[str, Any]]:
    return [
        {"endpoint": {"address": {"socket_address": {"address": endpoint.host, "port_value": endpoint.port}}}}
        for endpoint in endpoints
    ]
