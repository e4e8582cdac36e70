"""Real Envoys on the ADS stream of a control plane without a database: the protocol core over gRPC."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import grpc

from agent.envoy.bootstrap import Bootstrap, render
from model.endpoint import Endpoint
from model.entities import Accepted, Proxy, ResourceKey, Role
from model.identity import Identity
from model.world import Change, World, put
from tests.envoy.envoy_process import ADMIN, EnvoyUnderTest, envoy_process
from xds.protocol.messages import Variant
from xds.protocol.stream import Answered, Send, XdsStream
from xds.snapshot.order import ADDITIONS, ROLLED_OUT
from xds.snapshot.rollout import build
from xds.snapshot.snapshot import ProxyView
from xds.translate import names
from xds.translate.scopes import Scope, scopes_of

AGENT_SOCKET = "agent.sock"
"""The path of an agent's socket in Envoy's folder."""
SERVICE = "/envoy.service.discovery.v3.AggregatedDiscoveryService"
METHODS = {
    f"{SERVICE}/DeltaAggregatedResources": Variant.DELTA,
    f"{SERVICE}/StreamAggregatedResources": Variant.SOTW,
}


class WorldServer(grpc.GenericRpcHandler):
    """An ADS server for one proxy. It translates a World, holds back what a canary would try, and runs the protocol core."""

    def __init__(self, world: World, proxy: Proxy, variant: Variant = Variant.DELTA) -> None:
        self.world = world
        self.proxy = proxy
        self.scopes: Callable[[Proxy, World], Iterable[Scope]] = scopes_of
        self.variant = variant
        self.collector_port: int | None = None
        """The port of loopback to which the proxy sends its spans."""
        self.answers: list[Answered] = []
        self.sent: list[str] = []
        """Type URLs of the responses."""
        self.subscribed: set[str] = set()
        """Type URLs that the newest stream subscribes to."""
        self.cut_before: str | None = None
        """The type URL of a response instead of which the stream ends; once."""
        self._queues: list[queue.Queue] = []
        """The events of the open streams: requests, changes, and None for the end."""
        self._view = self._build_view()

    def service(self, details):
        variant = METHODS.get(details.method)
        if variant is None:
            return None
        return grpc.stream_stream_rpc_method_handler(lambda requests, context: self._serve(variant, requests, context))

    def _build_view(self) -> ProxyView:
        return ProxyView([build(scope, self.world).stable for scope in self.scopes(self.proxy, self.world)])

    def change(self, *changes: Change, world: World | None = None) -> None:
        """Change the World, or an earlier one, and publish it. Without changes it publishes what `scopes` gives now."""
        before = self._view
        self.world = (world or self.world).changed(self.world.revision + 1, changes)
        self._view, changed = self._build_view(), {}
        for type_url in ADDITIONS:
            versions = [
                {name: view.get(type_url, name).version for name in view.names(type_url)}
                for view in (before, self._view)
            ]
            differing = {
                name for name in {*versions[0], *versions[1]} if versions[0].get(name) != versions[1].get(name)
            }
            if differing:
                changed[type_url] = differing
        self._tell((self._view, changed))

    def accept(self) -> None:
        """Store all resources of the proxy's scopes as accepted, so that from now on a canary has to try changes first."""
        accepted = [
            Accepted(ResourceKey(snapshot.scope.key, type_url, name), resource.version, resource.body)
            for snapshot in self._view.snapshots
            for type_url in ROLLED_OUT & snapshot.resources.keys()
            for name, resource in snapshot.resources[type_url].items()
        ]
        self.world = self.world.changed(self.world.revision + 1, map(put, accepted))

    def cut(self) -> None:
        """End all streams."""
        self._tell(None)

    def _tell(self, event: object) -> None:
        for events in [*self._queues]:
            events.put(event)

    def _serve(self, variant: Variant, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        events: queue.Queue = queue.Queue()
        self._queues.append(events)
        context.add_callback(lambda: events.put(None))
        threading.Thread(target=_read, args=(requests, events), daemon=True).start()
        identity = Identity(self.proxy.fleet_id, self.proxy.role, self.proxy.id)
        stream = XdsStream(variant, identity, self._view)
        try:
            while (event := _next(events, stream.wake_at)) is not None:
                now = time.monotonic()
                if event is _DUE:
                    actions = stream.wake(now)
                else:
                    actions = stream.receive(event, now) if isinstance(event, bytes) else stream.publish(*event, now)
                self.subscribed = {*stream.subscriptions}
                for action in actions:
                    if isinstance(action, Send):
                        if action.type_url == self.cut_before:
                            self.cut_before = None
                            return
                        self.sent.append(action.type_url)
                        yield action.data
                    elif isinstance(action, Answered):
                        self.answers.append(action)
        finally:
            self._queues.remove(events)


_DUE = object()
"""The event of a stream that is to be woken."""


def _next(events: queue.Queue, wake_at: float | None) -> object:
    try:
        return events.get(timeout=None if wake_at is None else max(0.0, wake_at - time.monotonic()))
    except queue.Empty:
        return _DUE


def _read(requests: Iterable[bytes], events: queue.Queue) -> None:
    try:
        for request in requests:
            events.put(request)
    except grpc.RpcError:
        pass


def collector(port: int) -> dict:
    """Return the cluster of a collector that agents have in their bootstraps."""
    rendered = render(Bootstrap(Role.GATEWAY, UUID(int=1), UUID(int=1), (), Endpoint("127.0.0.1", port)))
    (found,) = [each for each in rendered["static_resources"]["clusters"] if each["name"] == names.COLLECTOR]
    return found


def bootstrap(port: int, variant: Variant = Variant.DELTA, collector_port: int | None = None) -> dict:
    """Return the bootstrap of an Envoy whose control plane, and collector of spans, are on these ports of loopback."""
    source = {"resource_api_version": "V3", "ads": {}, "initial_fetch_timeout": "0s"}
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    http2 = {"@type": f"type.googleapis.com/{options}", "explicit_http_config": {"http2_protocol_options": {}}}

    def cluster(name: str, address: dict) -> dict:
        return {
            "name": name,
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
            },
            "typed_extension_protocol_options": {options: http2},
        }

    spans = {"tracing.opentelemetry.min_flush_spans": 1}
    ads = cluster("ads", {"socket_address": {"address": "127.0.0.1", "port_value": port}})
    agent = cluster(names.AGENT, {"pipe": {"path": AGENT_SOCKET}})
    grpc_services = [{"envoy_grpc": {"cluster_name": "ads"}}]
    return {
        "node": {"id": "gw", "cluster": "test"},
        "admin": ADMIN,
        "layered_runtime": {"layers": [{"name": "static", "static_layer": spans}]},
        "static_resources": {"clusters": [ads, agent, *([collector(collector_port)] if collector_port else [])]},
        "dynamic_resources": {
            "lds_config": source,
            "cds_config": source,
            "ads_config": {
                "api_type": "DELTA_GRPC" if variant is Variant.DELTA else "GRPC",
                "transport_api_version": "V3",
                "grpc_services": grpc_services,
                "set_node_on_first_message_only": True,
            },
        },
    }


@dataclass
class RunningEnvoy:
    """A running Envoy, and the ports of its listeners by name."""

    process: EnvoyUnderTest
    ports: dict[str, int]

    def admin(self, path: str) -> str:
        return self.process.admin(path)[1]

    def stat(self, name: str) -> int:
        return self.process.stat(name)


@contextmanager
def envoy_of(world_server: WorldServer, folder: Path) -> Iterator[RunningEnvoy]:
    """Run the Envoy of a server's proxy, in a folder with its secrets."""
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((world_server,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        rendered = bootstrap(port, world_server.variant, world_server.collector_port)
        with envoy_process(rendered, folder) as process:
            yield RunningEnvoy(process, process.ports())
    finally:
        server.stop(None).wait()
