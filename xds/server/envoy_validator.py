"""Validation of change-sets with `envoy --mode validate`: once for each content, off the path of the streams."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import structlog
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    ApiConfigSource,
    ApiConfigSourceApiType,
    ApiVersion,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    Node,
    SocketAddress,
)
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router

from model.authority import CertificateAuthority, issue_server
from model.current_authority import CurrentAuthority
from model.entities import VALIDATOR, Rejection, ResourceKey
from xds.server.publisher import Publisher
from xds.snapshot.resource import Resource
from xds.snapshot.rollout import ChangeSet
from xds.translate import names
from xds.translate.encoding import encode, pack
from xds.wire import bootstrap_pb2 as wire

_VALIDATE: Final = ("--mode", "validate", "--log-level", "error", "--log-format", "%v", "-c")
_TIMEOUT_S: Final = 60.0
_MAX_RESULTS: Final = 500_000
"""More than one change-set can hold; with fewer it would be validated again and again."""
_MAX_MESSAGE_CHARS: Final = 2_000
_VALIDATED: Final = frozenset({names.LISTENER, names.ROUTE, names.CLUSTER})
_SKIP_CLUSTER_CHECK: Final = b"\x3a\x00"
"""RouteConfiguration.validate_clusters: false. The rollout itself checks that referenced clusters exist."""
log = structlog.get_logger()


class EnvoyValidator:
    """Validates the listeners, routes and clusters of change-sets with Envoy; `run` is its task.

    Rejections go to the publisher, and each result wakes the rollout controller. An Envoy that cannot be run rejects
    nothing: the proxies validate anyway.
    """

    def __init__(self, envoy: Path, authority: CurrentAuthority, publisher: Publisher) -> None:
        self._envoy = envoy
        self._authority = authority
        self._publisher = publisher
        self._results: OrderedDict[tuple[str, str], str] = OrderedDict()
        """Error messages by type URL and version; empty for a valid resource."""
        self._waiting: dict[ResourceKey, Resource] = {}
        self._event = asyncio.Event()

    def is_valid(self, group: str, change_set: ChangeSet) -> bool:
        """Return whether Envoy validated all of a change-set and rejected none of it; queue what it has not seen yet."""
        valid = True
        for each in change_set.wanted.values():
            if each is None or not _can_validate(each):
                continue
            key, message = ResourceKey(group, each.type_url, each.name), self._result(each)
            if message is None:
                self._waiting[key] = each
                self._event.set()
            elif message:  # rejected in another group
                self._publisher.add_rejections([Rejection(key, each.version, VALIDATOR, message)])
            valid = valid and message == ""
        return valid

    def _result(self, resource: Resource) -> str | None:
        return self._results.get((resource.type_url, resource.version))

    async def run(self) -> None:
        """Validate queued resources until cancelled."""
        with tempfile.TemporaryDirectory(prefix="exitplane-check-") as folder:
            write_secrets(Path(folder), self._authority.value)
            while True:
                await self._event.wait()
                self._event.clear()
                waiting, self._waiting = self._waiting, {}
                unseen = [(key, each) for key, each in waiting.items() if self._result(each) is None]
                await self._validate(unseen, Path(folder))
                self._publisher.rollout_due.set()

    async def _validate(self, resources: Sequence[tuple[ResourceKey, Resource]], folder: Path) -> None:
        """Validate resources together. If Envoy rejects them, validate each half, down to the single resources at fault."""
        if not resources:
            return
        message = await self._run_envoy([each for _, each in resources], folder)
        if message and len(resources) > 1:
            middle = len(resources) // 2
            await self._validate(resources[:middle], folder)
            await self._validate(resources[middle:], folder)
            return
        for _, each in resources:
            self._results[each.type_url, each.version] = message
        while len(self._results) > _MAX_RESULTS:
            self._results.popitem(last=False)
        if message:
            ((key, each),) = resources
            log.warning(
                "xds.validation_failed", type=key.type_url, resource=key.name, version=each.version, detail=message
            )
            self._publisher.add_rejections([Rejection(key, each.version, VALIDATOR, message)])

    async def _run_envoy(self, resources: Iterable[Resource], folder: Path) -> str:
        """Return Envoy's error message, empty if it accepts all. An Envoy that dies of a signal is run a second time."""
        bootstrap = folder / "bootstrap.pb"
        bootstrap.write_bytes(static_bootstrap(resources))
        command: Sequence[str | Path] = [self._envoy, *_VALIDATE, bootstrap.name]
        status, output = await _run(command, folder)
        if status is not None and status < 0:
            log.warning("xds.validator_crashed", signal=-status, detail=output)
            status, output = await _run(command, folder)
        if status is None:
            log.warning("xds.validator_unavailable", reason=output)
        return (output or f"envoy --mode validate ended with {status}") if status else ""


def _can_validate(resource: Resource) -> bool:
    """Return whether Envoy can validate a resource in a static bootstrap.

    It cannot if a cluster's filters take a secret from the ADS stream, as those of an exit's parent do: Envoy 1.40 crashes
    (SIGSEGV) on such a static cluster, because there is no stream yet. Sent by a control plane they work.
    """
    return resource.type_url in _VALIDATED and names.PARENT_SECRET.encode() not in resource.body


async def _run(command: Sequence[str | Path], folder: Path) -> tuple[int | None, str]:
    """Run a program. Return its exit status and stderr; None and the reason if it did not start or end in time."""
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdin=nothing, stdout=nothing, stderr=pipe)
    except OSError as error:
        return None, str(error)
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            _, stderr = await process.communicate()
    except TimeoutError:
        return None, f"it did not end within {_TIMEOUT_S:g} s"
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return process.returncode, stderr.decode(errors="replace").strip()[-_MAX_MESSAGE_CHARS:]


def static_bootstrap(resources: Iterable[Resource]) -> bytes:
    """Encode a Bootstrap with these resources unchanged; each route configuration is put into a listener of its own."""
    static = wire.StaticResources()
    for each in resources:
        if each.type_url == names.CLUSTER:
            static.clusters.append(each.body)
        elif each.type_url == names.LISTENER:
            static.listeners.append(each.body)
        elif each.type_url == names.ROUTE:
            static.listeners.append(_route_listener(each))
    node, ads, clusters = _static_parts()
    static.clusters.extend(clusters)
    dynamic = wire.DynamicResources(ads_config=ads)
    return wire.Bootstrap(node=node, static_resources=static, dynamic_resources=dynamic).SerializeToString()


def _route_listener(route: Resource) -> bytes:
    router = wire.Filter(name="envoy.filters.http.router")
    router.typed_config.ParseFromString(encode(pack(Router())))
    manager = wire.HttpConnectionManager(
        stat_prefix=route.name, route_config=route.body + _SKIP_CLUSTER_CHECK, http_filters=[router]
    )
    holder = wire.Filter(name="envoy.filters.network.http_connection_manager")
    holder.typed_config.type_url = (
        "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    )
    holder.typed_config.value = manager.SerializeToString()
    address = Address(socket_address=SocketAddress(address="127.0.0.1", port_value=1))
    listener = wire.Listener(
        name=f"of {route.name}", address=encode(address), filter_chains=[wire.FilterChain(filters=[holder])]
    )
    return listener.SerializeToString()


@cache
def _static_parts() -> tuple[bytes, bytes, tuple[bytes, ...]]:
    """Encode the node, the ADS source that resources refer to, its cluster and the agent's. Validation connects to nothing."""
    ads = ApiConfigSource(
        api_type=ApiConfigSourceApiType.DELTA_GRPC,
        transport_api_version=ApiVersion.V3,
        grpc_services=[GrpcService(envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name="exitplane-check"))],
    )
    node = Node(id="check", cluster="check")
    return encode(node), encode(ads), tuple(encode(Cluster(name=name)) for name in ("exitplane-check", names.AGENT))


def write_secrets(folder: Path, authority: CertificateAuthority) -> None:
    """Write secrets to the paths at which proxies have theirs (docs/decisions/0002-secrets-by-relative-path.md)."""
    pair = issue_server(authority, datetime.now(UTC))
    chain, key = {"inline_string": pair.certificate_pem}, {"inline_string": pair.key_pem}
    secrets: dict[str, dict[str, Any]] = {
        names.IDENTITY_PATH: {
            "name": names.IDENTITY_SECRET,
            "tls_certificate": {"certificate_chain": chain, "private_key": key},
        },
        names.AUTHORITY_PATH: {
            "name": names.AUTHORITY_SECRET,
            "validation_context": {"trusted_ca": {"inline_string": authority.certificate_pem}},
        },
    }
    for path, secret in secrets.items():
        file = folder / path
        file.parent.mkdir(exist_ok=True, mode=0o700)
        file.write_text(json.dumps({"resources": [{"@type": names.SECRET, **secret}]}))
