"""A client that exchanges bytes with an XdsStream, and keeps the state of a real one: names, nonces, accepted contents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from model.entities import Role
from model.identity import Identity
from xds.protocol.messages import Variant
from xds.protocol.stream import Action, Answered, Close, Send, XdsStream
from xds.snapshot.resource import Resource, make_resource
from xds.snapshot.snapshot import ProxyView, Snapshot
from xds.translate.names import CLUSTER, LISTENER
from xds.wire.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    Status,
)
from xds.wire.endpoint_pb2 import ClusterLoadAssignment

SOTW, DELTA = Variant.SOTW, Variant.DELTA
IDENTITY = Identity(UUID(int=1), Role.GATEWAY, UUID(int=2))
NO_ENDPOINTS = "no endpoints"
"""The content of the endpoints that the server makes for a cluster whose endpoints do not exist."""
Tables = Mapping[str, Mapping[str, str]]
"""Contents by type URL and name."""


def resource_of(type_url: str, name: str, content: str) -> Resource:
    """Make a resource whose body contains its name, as real bodies do."""
    if content == NO_ENDPOINTS:
        return make_resource(type_url, name, ClusterLoadAssignment(cluster_name=name).SerializeToString())
    return make_resource(type_url, name, f"{name}\n{content}".encode())


def version_of(name: str, content: str) -> str:
    """Return the version of a resource with this name and content."""
    return resource_of("", name, content).version


@dataclass(frozen=True)
class StubScope:
    """A stand-in for a scope; the protocol reads nothing of it."""

    key: str = "group"
    types: frozenset[str] = frozenset()


def view_of(tables: Tables, revision: int = 1) -> ProxyView:
    """Make a view of these contents."""
    resources = {
        type_url: {name: resource_of(type_url, name, content) for name, content in contents.items()}
        for type_url, contents in tables.items()
    }
    return ProxyView([Snapshot(StubScope(), revision, resources)])


def differences(old: Tables, new: Tables) -> dict[str, set[str]]:
    """Return the names by type URL that differ between two tables."""
    return {
        type_url: {
            name
            for name in {*old.get(type_url, ()), *new.get(type_url, ())}
            if old.get(type_url, {}).get(name) != new.get(type_url, {}).get(name)
        }
        for type_url in {*old, *new}
    }


@dataclass(frozen=True)
class ParsedResponse:
    """A parsed response of either variant. `parse` asserts that no name is in it twice (rule 7)."""

    type_url: str
    nonce: str
    contents: dict[str, str]
    """Contents by name."""
    bodies: dict[str, bytes]
    removed: list[str]
    version: str
    """State of the world: the version of the response. Delta: the revision."""
    bytes_: int


def parse(variant: Variant, action: Send) -> ParsedResponse:
    """Parse the response in an action."""
    message = (DeltaDiscoveryResponse if variant is DELTA else DiscoveryResponse).FromString(action.data)
    assert (message.type_url, message.nonce) == (action.type_url, action.nonce)
    bodies = [item.resource if variant is DELTA else item for item in message.resources]
    assert {body.type_url for body in bodies} <= {message.type_url}
    pairs = [_content(body.value) for body in bodies]
    removed = list(message.removed_resources) if variant is DELTA else []
    names = [*(name for name, _ in pairs), *removed]
    assert len(names) == len(set(names)), "a name is in one response twice"
    if variant is DELTA:
        assert [item.name for item in message.resources] == [name for name, _ in pairs]
        versions = [make_resource("", "", body.value).version for body in bodies]
        assert [item.version for item in message.resources] == versions
    version = message.system_version_info if variant is DELTA else message.version_info
    raw = {name: body.value for (name, _), body in zip(pairs, bodies, strict=True)}
    return ParsedResponse(message.type_url, message.nonce, dict(pairs), raw, removed, version, len(action.data))


def _content(body: bytes) -> tuple[str, str]:
    """Return the name and content of a body: its content is NO_ENDPOINTS if the server made it."""
    name, _, content = body.decode().partition("\n")
    if body[:1] != b"\n":
        return name, content
    return ClusterLoadAssignment.FromString(body).cluster_name, NO_ENDPOINTS


@dataclass
class StreamClient:
    """One stream with both of its ends. Each method returns the responses that it made the server send."""

    variant: Variant
    tables: Tables = field(default_factory=dict)
    only: str | None = None
    grace_s: float = 0
    stream: XdsStream = field(init=False)
    now: float = 0
    revision: int = 1
    names: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Subscribed names by type URL."""
    nonces: dict[str, str] = field(default_factory=dict)
    """Nonces of the newest responses by type URL."""
    versions: dict[str, str] = field(default_factory=dict)
    """State of the world: versions accepted last, by type URL."""
    held: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    """Accepted contents by type URL and name."""
    answers: list[Answered] = field(default_factory=list)
    """The client's ACKs and NACKs as the server reported them."""
    closed: Close | None = None
    former: dict[str, str] = field(default_factory=dict)
    """Contents of the clusters that the server knows to have been removed, by name."""
    _asked: set[str] = field(default_factory=set)
    """Types that this stream has requested."""

    def __post_init__(self) -> None:
        self.stream = self._open()

    def _open(self) -> XdsStream:
        view = view_of(self.tables, self.revision)
        grace_s, former = self.grace_s, self._former_clusters
        return XdsStream(self.variant, IDENTITY, view, only=self.only, removal_grace_s=grace_s, former_clusters=former)

    def _former_clusters(self, view: ProxyView, _: str) -> list[Resource]:
        gone = self.former.keys() - view.names(CLUSTER)
        return [resource_of(CLUSTER, name, self.former[name]) for name in sorted(gone)]

    # -- actions of the client --

    def subscribe(self, type_url: str, *names: str) -> list[ParsedResponse]:
        """Subscribe to more names."""
        self.names[type_url] += [name for name in names if name not in self.names[type_url]]
        return self.request(type_url, resource_names_subscribe=names)

    def unsubscribe(self, type_url: str, *names: str) -> list[ParsedResponse]:
        """Unsubscribe from names, and drop their contents."""
        self.names[type_url] = [name for name in self.names[type_url] if name not in names]
        for name in names:
            self.held[type_url].pop(name, None)
        return self.request(type_url, resource_names_unsubscribe=names)

    def ack(self, *responses: ParsedResponse) -> list[ParsedResponse]:
        """Accept responses in their order."""
        sent: list[ParsedResponse] = []
        for response in responses:
            self._take(response)
            sent += self.request(response.type_url, nonce=response.nonce)
        return sent

    def nack(self, response: ParsedResponse, detail: str = "no") -> list[ParsedResponse]:
        """Reject a response, and keep the contents held before."""
        return self.request(
            response.type_url, nonce=response.nonce, error_detail=Status(code=3, message=detail.encode())
        )

    def reconnect(self) -> StreamClient:
        """Return this client on a new stream: it keeps its contents, and has requested nothing yet."""
        fresh = StreamClient(self.variant, self.tables, self.only, self.grace_s, now=self.now, revision=self.revision)
        fresh.held, fresh.versions = self.held, self.versions
        return fresh

    # -- events of the server --

    def publish(self, tables: Tables, *, known: bool = True) -> list[ParsedResponse]:
        """Give the server a new view; with `known` it is told which names differ."""
        changed = differences(self.tables, tables) if known else None
        self.tables, self.revision = tables, self.revision + 1
        return self._took(self.stream.publish(view_of(tables, self.revision), changed, self.now))

    def accepted_elsewhere(self, answer: Answered) -> list[ParsedResponse]:
        """Tell the server's side of an answer on another stream of the same client."""
        return self._took(self.stream.accepted_elsewhere(answer.type_url, answer.resources, self.now))

    def wait(self, seconds: float) -> list[ParsedResponse]:
        """Let time pass, and wake the stream if it is due."""
        self.now += seconds
        if self.stream.wake_at is None or self.stream.wake_at > self.now:
            return []
        return self._took(self.stream.wake(self.now))

    def removes(self, response: ParsedResponse, name: str) -> bool:
        """Return whether a response removes a resource; a full state does so by leaving it out (rule 14)."""
        if self.variant is DELTA:
            return name in response.removed
        return response.type_url in (CLUSTER, LISTENER) and name not in response.contents

    def settle(self, responses: Iterable[ParsedResponse]) -> list[ParsedResponse]:
        """Accept responses, and those that follow from that, until none is left. Return all of them."""
        received = [*responses]
        for response in received:  # grows during the iteration
            received += self.ack(response)
        return received

    # -- bytes --

    def request(self, type_url: str, *, nonce: str | None = None, **fields: object) -> list[ParsedResponse]:
        """Send a request as bytes.

        The first request of a type states what the client holds of it. Without a `nonce` the request is spontaneous; in
        state of the world it then has the nonce of the newest response.
        """
        first = type_url not in self._asked
        self._asked.add(type_url)
        if self.variant is DELTA:
            held = self.held[type_url].items() if first else ()
            versions = {name: version_of(name, content) for name, content in held}
            fields = {"initial_resource_versions": versions, **fields}
            message = DeltaDiscoveryRequest(type_url=type_url, response_nonce=nonce or "", **fields)
        else:
            names = {"resource_names": self.names[type_url], "version_info": self.versions.get(type_url, "")}
            fields = {name: value for name, value in fields.items() if not name.startswith("resource_names_")}
            nonce = self.nonces.get(type_url, "") if nonce is None else nonce
            message = DiscoveryRequest(type_url=type_url, response_nonce=nonce, **{**names, **fields})
        return self.receive(message.SerializeToString())

    def receive(self, raw: bytes) -> list[ParsedResponse]:
        """Pass bytes to the server."""
        return self._took(self.stream.receive(raw, self.now))

    def _took(self, actions: Sequence[Action]) -> list[ParsedResponse]:
        responses = []
        for action in actions:
            match action:
                case Send():
                    response = parse(self.variant, action)
                    self.nonces[response.type_url] = response.nonce
                    responses.append(response)
                case Answered():
                    self.answers.append(action)
                case Close():
                    self.closed = action
        return responses

    def _take(self, response: ParsedResponse) -> None:
        held = self.held[response.type_url]
        if self.variant is SOTW and response.type_url in (CLUSTER, LISTENER):
            held.clear()  # rule 14
        held.update(response.contents)
        for name in response.removed:
            held.pop(name, None)
        self.versions[response.type_url] = response.version
