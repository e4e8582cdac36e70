"""A second opinion on what is rolled out: `envoy --mode validate`, once for each content, beside the streams."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
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
from model.entities import Rejection, ResourceKey
from xds.snapshot.resource import Resource
from xds.snapshot.rollout import ChangeSet
from xds.translate import names
from xds.translate.encoding import encode, pack
from xds.wire import bootstrap_pb2 as wire

_VALIDATE: Final = ("--mode", "validate", "--log-level", "error", "--log-format", "%v", "-c")
_TIMEOUT_S: Final = 60.0
_MOST_VERDICTS: Final = 500_000
"""More than one change-set can hold: else it would be looked at for ever."""
_MOST_WORDS: Final = 2_000
_CHECKED: Final = frozenset({names.LISTENER, names.ROUTE, names.CLUSTER})
_NO_CLUSTERS_ASKED_FOR: Final = b"\x3a\x00"
"""RouteConfiguration.validate_clusters: false. That what is named exists is seen to by the rollout itself."""
log = structlog.get_logger()


class EnvoyValidator:
    """Has Envoy look at the listeners, routes and clusters of change-sets; `run` is its task.

    `refuse` is called with what Envoy refused, `poke` when something was looked at. An Envoy that cannot be run refuses
    nothing: proxies have the last word anyway.
    """

    def __init__(
        self,
        envoy: Path,
        authority: CertificateAuthority,
        refuse: Callable[[Sequence[Rejection]], None],
        poke: Callable[[], None],
    ) -> None:
        self._envoy = envoy
        self._authority = authority
        self._refuse = refuse
        self._poke = poke
        self._verdicts: OrderedDict[tuple[str, str], str] = OrderedDict()
        """What Envoy said of a version of a type, empty for nothing."""
        self._waiting: dict[ResourceKey, Resource] = {}
        self._event = asyncio.Event()

    def passed(self, group: str, change_set: ChangeSet) -> bool:
        """Whether Envoy looked at all of a change-set and refused none of it; what it did not see yet is shown to it."""
        passed = True
        for each in change_set.wanted.values():
            if each is None or not _can_be_checked(each):
                continue
            key, words = ResourceKey(group, each.type_url, each.name), self._verdict(each)
            if words is None:
                self._waiting[key] = each
                self._event.set()
            elif words:  # seen in another group
                self._refuse([Rejection(key, each.version, None, words)])
            passed = passed and words == ""
        return passed

    def _verdict(self, resource: Resource) -> str | None:
        return self._verdicts.get((resource.type_url, resource.version))

    async def run(self) -> None:
        """Look at what waits, until cancelled."""
        with tempfile.TemporaryDirectory(prefix="exitplane-check-") as folder:
            write_secrets(Path(folder), self._authority)
            while True:
                await self._event.wait()
                self._event.clear()
                waiting, self._waiting = self._waiting, {}
                unseen = [(key, each) for key, each in waiting.items() if self._verdict(each) is None]
                await self._look_at(unseen, Path(folder))
                self._poke()

    async def _look_at(self, resources: Sequence[tuple[ResourceKey, Resource]], folder: Path) -> None:
        """Judge some: if Envoy refuses them together, the halves of them, down to those that it refuses alone."""
        if not resources:
            return
        words = await self._run_envoy([each for _, each in resources], folder)
        if words and len(resources) > 1:
            middle = len(resources) // 2
            await self._look_at(resources[:middle], folder)
            await self._look_at(resources[middle:], folder)
            return
        for _, each in resources:
            self._verdicts[each.type_url, each.version] = words
        while len(self._verdicts) > _MOST_VERDICTS:
            self._verdicts.popitem(last=False)
        if words:
            ((key, each),) = resources
            log.warning("xds.check_refused", type=key.type_url, resource=key.name, version=each.version, detail=words)
            self._refuse([Rejection(key, each.version, None, words)])

    async def _run_envoy(self, resources: Iterable[Resource], folder: Path) -> str:
        """What Envoy says against these; empty for nothing. One that dies of a signal is asked a second time."""
        bootstrap = folder / "bootstrap.pb"
        bootstrap.write_bytes(static_bootstrap(resources))
        command: Sequence[str | Path] = [self._envoy, *_VALIDATE, bootstrap.name]
        status, said = await _run(command, folder)
        if status is not None and status < 0:
            log.warning("xds.check_died", signal=-status, detail=said)
            status, said = await _run(command, folder)
        if status is None:
            log.warning("xds.check_impossible", reason=said)
        return (said or f"envoy --mode validate ended with {status}") if status else ""


def _can_be_checked(resource: Resource) -> bool:
    """Not a cluster whose filters take a secret from the stream, like that of an exit's parent.

    Envoy 1.40 dies (SIGSEGV) of one that is static: there is no stream yet. It takes them well from a control plane.
    """
    return resource.type_url in _CHECKED and names.PARENT_SECRET.encode() not in resource.body


async def _run(command: Sequence[str | Path], folder: Path) -> tuple[int | None, str]:
    """A program's exit status and what it said; None, and why, when it did not come to one."""
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
    return process.returncode, stderr.decode(errors="replace").strip()[-_MOST_WORDS:]


def static_bootstrap(resources: Iterable[Resource]) -> bytes:
    """A Bootstrap that holds these as they are: clusters and listeners as such, each route in a listener of its own."""
    static = wire.StaticResources()
    for each in resources:
        if each.type_url == names.CLUSTER:
            static.clusters.append(each.body)
        elif each.type_url == names.LISTENER:
            static.listeners.append(each.body)
        elif each.type_url == names.ROUTE:
            static.listeners.append(_listener_of(each))
    node, ads, cluster = _surroundings()
    static.clusters.append(cluster)
    dynamic = wire.DynamicResources(ads_config=ads)
    return wire.Bootstrap(node=node, static_resources=static, dynamic_resources=dynamic).SerializeToString()


def _listener_of(route: Resource) -> bytes:
    router = wire.Filter(name="envoy.filters.http.router")
    router.typed_config.ParseFromString(encode(pack(Router())))
    manager = wire.HttpConnectionManager(
        stat_prefix=route.name, route_config=route.body + _NO_CLUSTERS_ASKED_FOR, http_filters=[router]
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
def _surroundings() -> tuple[bytes, bytes, bytes]:
    """The node, the source that clusters and listeners refer to, and the cluster which that is: nobody is dialled."""
    ads = ApiConfigSource(
        api_type=ApiConfigSourceApiType.DELTA_GRPC,
        transport_api_version=ApiVersion.V3,
        grpc_services=[GrpcService(envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name="exitplane-check"))],
    )
    node = Node(id="check", cluster="check")
    return encode(node), encode(ads), encode(Cluster(name="exitplane-check"))


def write_secrets(folder: Path, authority: CertificateAuthority) -> None:
    """Secrets of the usual form where proxies have theirs (docs/decisions/0002-secrets-by-relative-path.md)."""
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
