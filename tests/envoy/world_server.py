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

import grpc

from model.entities import Proxy
from model.identity import Identity
from model.world import Change, World
from tests.envoy.envoy_process import ADMIN, EnvoyUnderTest, envoy_process
from xds.protocol.messages import Variant
from xds.protocol.stream import Answered, Send, XdsStream
from xds.snapshot.snapshot import ProxyView, build
from xds.translate import names
from xds.translate.scopes import Scope, scopes_of

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"


class WorldServer(grpc.GenericRpcHandler):
    """An ADS server for one proxy. It translates a World and runs the protocol core."""

    def __init__(self, world: World, proxy: Proxy) -> None:
        self.world = world
        self.proxy = proxy
        self.scopes: Callable[[Proxy, World], Iterable[Scope]] = scopes_of
        self.answers: list[Answered] = []
        self.sent: list[str] = []
        """Type URLs of the responses."""
        self.subscribed: set[str] = set()
        self._events: queue.Queue = queue.Queue()
        self._view = self._build_view()

    def service(self, details):
        if details.method != METHOD:
            return None
        return grpc.stream_stream_rpc_method_handler(self._serve)

    def _build_view(self) -> ProxyView:
        return ProxyView([build(scope, self.world) for scope in self.scopes(self.proxy, self.world)])

    def change(self, *changes: Change) -> None:
        """Change the World and publish it. Without changes it publishes what `scopes` gives now."""
        before = self._view
        self.world = self.world.changed(self.world.revision + 1, changes)
        self._view, changed = self._build_view(), {}
        for type_url in (names.CLUSTER, names.ENDPOINT, names.LISTENER, names.ROUTE, names.EXTENSION, names.SECRET):
            versions = [
                {name: view.get(type_url, name).version for name in view.names(type_url)}
                for view in (before, self._view)
            ]
            differing = {
                name for name in {*versions[0], *versions[1]} if versions[0].get(name) != versions[1].get(name)
            }
            if differing:
                changed[type_url] = differing
        self._events.put((self._view, changed))

    def _serve(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(lambda: self._events.put(None))
        threading.Thread(target=self._read, args=(requests,), daemon=True).start()
        identity = Identity(self.proxy.fleet_id, self.proxy.role, self.proxy.id)
        stream = XdsStream(Variant.DELTA, identity, self._view)
        while (event := self._events.get()) is not None:
            now = time.monotonic()
            actions = stream.receive(event, now) if isinstance(event, bytes) else stream.publish(*event, now)
            self.subscribed = {*stream.subscriptions}
            for action in actions:
                if isinstance(action, Send):
                    self.sent.append(action.type_url)
                    yield action.data
                elif isinstance(action, Answered):
                    self.answers.append(action)

    def _read(self, requests: Iterable[bytes]) -> None:
        try:
            for request in requests:
                self._events.put(request)
        except grpc.RpcError:
            pass


def bootstrap(port: int) -> dict:
    """Return the bootstrap of an Envoy whose control plane is on this port of loopback."""
    source = {"resource_api_version": "V3", "ads": {}, "initial_fetch_timeout": "0s"}
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    http2 = {"@type": f"type.googleapis.com/{options}", "explicit_http_config": {"http2_protocol_options": {}}}
    host = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
    ads = {
        "name": "ads",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "ads", "endpoints": [{"lb_endpoints": [host]}]},
        "typed_extension_protocol_options": {options: http2},
    }
    grpc_services = [{"envoy_grpc": {"cluster_name": "ads"}}]
    return {
        "node": {"id": "gw", "cluster": "test"},
        "admin": ADMIN,
        "static_resources": {"clusters": [ads]},
        "dynamic_resources": {
            "lds_config": source,
            "cds_config": source,
            "ads_config": {
                "api_type": "DELTA_GRPC",
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
        with envoy_process(bootstrap(port), folder) as process:
            yield RunningEnvoy(process, process.ports())
    finally:
        server.stop(None).wait()
