"""A model of Envoy's side of an aggregated stream, for both variants; its rules were seen on Envoy 1.40.

- A new or changed cluster warms until its endpoints arrive, even if it holds them already, and then until its health checks
  have answered. Until then an earlier cluster of this name stays in use.
- While a cluster warms Envoy sends no CDS request, neither an ACK nor the first request of a new stream.
- Endpoints are subscribed to for each cluster, routes for each listener. In delta a changed cluster asks for nothing new.
- On a new stream delta states the version of everything that was accepted, also of warming clusters; names without a version
  are only subscribed to. State of the world states the version of the newest response of each type that was accepted.
- A removal of endpoints or routes that are still subscribed to leaves them in use, but their version is no longer stated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.protocol.stream_client import SOTW, ParsedResponse, version_of
from xds.protocol.messages import Variant
from xds.translate.names import CLUSTER, ENDPOINT, LISTENER, ROUTE
from xds.wire.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest

TYPES = (CLUSTER, ENDPOINT, LISTENER, ROUTE)
"""In the order in which Envoy first asked for them, which is that of every new stream."""
CHECKED = "checked"
"""The word in a cluster's content that says that it has health checks."""
Request = DeltaDiscoveryRequest | DiscoveryRequest


@dataclass
class EnvoyType:
    """One type: what Envoy accepted and subscribes to, and its state on the present stream."""

    contents: dict[str, str] = field(default_factory=dict)
    """Contents whose versions Envoy states."""
    version: str = ""
    """State of the world: the version accepted last."""
    names: set[str] = field(default_factory=set)
    """Names subscribed to; always empty for the types with a wildcard."""
    opened: bool = False
    """True once the stream has requested this type."""
    nonce: str = ""
    unanswered: list[str] = field(default_factory=list)
    """Nonces of responses whose ACKs are held back."""


@dataclass
class EnvoyModel:
    """An Envoy. Methods that yield requests have to be run to their end."""

    variant: Variant
    types: dict[str, EnvoyType] = field(default_factory=lambda: {type_url: EnvoyType() for type_url in TYPES})
    clusters: dict[str, str] = field(default_factory=dict)
    """Contents of the clusters in use."""
    warming: dict[str, str] = field(default_factory=dict)
    checking: set[str] = field(default_factory=set)
    """Warming clusters that have their endpoints and wait for health checks."""
    endpoints: dict[str, str] = field(default_factory=dict)
    routes: dict[str, str] = field(default_factory=dict)
    listeners: dict[str, str] = field(default_factory=dict)
    """Contents of the listeners in use."""
    warming_listeners: dict[str, str] = field(default_factory=dict)
    initialised: bool = False
    """True once the first clusters are warm. Only then are listeners requested, and CDS requests held back."""

    # -- invariants

    def dangling(self) -> set[str]:
        """Return the names of clusters that a route in use names and that are not in use."""
        used = {route_of(content) for content in self.listeners.values()} & self.routes.keys()
        return {name for route in used for name in self.routes[route].split()[1:]} - self.clusters.keys()

    def problems(self, tables) -> list[str]:
        """Compare a quiet Envoy with the desired contents by type and name."""
        used = {name: self.endpoints.get(name) for name in self.clusters}
        wanted_routes = {route_of(content) for content in tables[LISTENER].values()}
        pairs = {
            "clusters": (self.clusters, tables[CLUSTER]),
            "endpoints": (used, tables[ENDPOINT]),
            "listeners": (self.listeners, tables[LISTENER]),
            "routes": (self.routes, {name: tables[ROUTE][name] for name in wanted_routes}),
        }
        found = [f"{what}: has {held}, not {wanted}" for what, (held, wanted) in pairs.items() if held != wanted]
        stuck = {**self.warming, **self.warming_listeners}
        return [*found, f"{sorted(stuck)} warm without end"] if stuck else found

    # -- events

    def connect(self) -> Iterator[Request]:
        """Open a new stream."""
        for state in self.types.values():
            state.opened, state.nonce = False, ""
            state.unanswered.clear()
        for type_url in TYPES:
            if self._wants(type_url):
                yield from self._request(type_url)

    def receive(self, response: ParsedResponse) -> Iterator[Request]:
        """Accept a response."""
        state = self.types[response.type_url]
        full = self.variant is SOTW and response.type_url in (CLUSTER, LISTENER)
        gone = (state.contents.keys() - response.contents.keys()) if full else {*response.removed}
        for name in gone:
            state.contents.pop(name, None)
        state.contents.update(response.contents)
        state.version, state.nonce = response.version, response.nonce
        apply = {
            CLUSTER: self._apply_clusters,
            ENDPOINT: self._apply_endpoints,
            LISTENER: self._apply_listeners,
            ROUTE: self._apply_routes,
        }
        yield from apply[response.type_url](response.contents, gone)
        state.unanswered.append(response.nonce)
        yield from self._request(response.type_url)

    def finish_check(self, name: str) -> Iterator[Request]:
        """Let the health checks of a warming cluster answer."""
        self.checking.discard(name)
        self.clusters[name] = self.warming.pop(name)
        if not self.warming:
            yield from self._request(CLUSTER)
            yield from self._initialise()

    # -- types

    def _apply_clusters(self, contents: dict[str, str], gone: set[str]) -> Iterator[Request]:
        changed = {
            name: content
            for name, content in contents.items()
            if content != self.warming.get(name, self.clusters.get(name))
        }
        self.warming.update(changed)
        self.checking -= changed.keys() | gone
        for name in gone:
            self.clusters.pop(name, None)
            self.warming.pop(name, None)
            self.endpoints.pop(name, None)
        yield from self._subscribe(ENDPOINT, {*self.clusters, *self.warming}, asks_again=bool(changed))
        yield from self._initialise()

    def _apply_endpoints(self, contents: dict[str, str], _: set[str]) -> Iterator[Request]:
        self.endpoints.update(contents)
        for name in contents.keys() & self.warming.keys():
            self.checking.add(name)
            if CHECKED not in self.warming[name]:
                yield from self.finish_check(name)

    def _apply_listeners(self, contents: dict[str, str], gone: set[str]) -> Iterator[Request]:
        for name in gone:
            self.listeners.pop(name, None)
            self.warming_listeners.pop(name, None)
        for name, content in contents.items():
            if content != self.warming_listeners.get(name, self.listeners.get(name)):
                self.warming_listeners[name] = content
        self._warm_listeners()
        named = {route_of(content) for content in [*self.listeners.values(), *self.warming_listeners.values()]}
        yield from self._subscribe(ROUTE, named)

    def _apply_routes(self, contents: dict[str, str], _: set[str]) -> Iterator[Request]:
        self.routes.update(contents)
        self._warm_listeners()
        named = {route_of(content) for content in [*self.listeners.values(), *self.warming_listeners.values()]}
        yield from self._subscribe(ROUTE, named)

    def _warm_listeners(self) -> None:
        """Take the listeners into use whose routes are there."""
        ready = [name for name, content in self.warming_listeners.items() if route_of(content) in self.routes]
        self.listeners.update({name: self.warming_listeners.pop(name) for name in ready})

    def _initialise(self) -> Iterator[Request]:
        if not self.warming and not self.initialised:
            self.initialised = True
            yield from self._request(LISTENER)

    # -- requests

    def _wants(self, type_url: str) -> bool:
        """Return whether a new stream requests a type now."""
        if type_url == LISTENER:
            return self.initialised
        return type_url == CLUSTER or bool(self.types[type_url].names)

    def _subscribe(self, type_url: str, names: set[str], *, asks_again: bool = False) -> Iterator[Request]:
        state = self.types[type_url]
        before, state.names = state.names, {*names}
        for name in before - names:
            state.contents.pop(name, None)
            (self.endpoints if type_url == ENDPOINT else self.routes).pop(name, None)
        if before != names or (asks_again and self.variant is SOTW):
            yield from self._request(type_url, before)

    def _request(self, type_url: str, before: set[str] | None = None) -> Iterator[Request]:
        """Send the ACKs of a type that are due, or without any a change of names from `before`."""
        if type_url == CLUSTER and self.warming and self.initialised:
            return
        state = self.types[type_url]
        first, state.opened = not state.opened, True
        nonces, state.unanswered = state.unanswered, []
        if self.variant is SOTW:
            if first or nonces or before is not None:
                yield DiscoveryRequest(
                    type_url=type_url,
                    version_info=state.version,
                    response_nonce=state.nonce,
                    resource_names=sorted(state.names),
                )
        elif first:
            versions = {name: version_of(name, content) for name, content in state.contents.items()}
            yield DeltaDiscoveryRequest(
                type_url=type_url, resource_names_subscribe=sorted(state.names), initial_resource_versions=versions
            )
        else:
            if before is not None:
                yield DeltaDiscoveryRequest(
                    type_url=type_url,
                    resource_names_subscribe=sorted(state.names - before),
                    resource_names_unsubscribe=sorted(before - state.names),
                )
            for nonce in nonces:
                yield DeltaDiscoveryRequest(type_url=type_url, response_nonce=nonce)


def route_of(listener: str) -> str:
    """Return the name of the route configuration that a listener's content names."""
    return listener.split()[1]
