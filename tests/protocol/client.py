"""A client that speaks real bytes with a Stream, and keeps what a real one keeps: names, nonces, what it accepted."""

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

SOTW, DELTA = Variant.SOTW, Variant.DELTA
IDENTITY = Identity(UUID(int=1), Role.GATEWAY, UUID(int=2))
Tables = Mapping[str, Mapping[str, str]]
"""What there is: contents by type URL and name."""


def resource_of(type_url: str, name: str, content: str) -> Resource:
    """A resource whose body tells its name, as the bodies of real ones do."""
    return make_resource(type_url, name, f"{name}\n{content}".encode())


def version_of(name: str, content: str) -> str:
    """The version that the resource of this name has with this content."""
    return resource_of("", name, content).version


@dataclass(frozen=True)
class AnyScope:
    """Stands in for a scope, of which the protocol knows nothing but that a view has some."""

    key: str = "group"
    types: frozenset[str] = frozenset()


def view_of(tables: Tables, revision: int = 1) -> ProxyView:
    """The view of these contents."""
    resources = {
        type_url: {name: resource_of(type_url, name, content) for name, content in contents.items()}
        for type_url, contents in tables.items()
    }
    return ProxyView([Snapshot(AnyScope(), revision, resources)])


def differences(old: Tables, new: Tables) -> dict[str, set[str]]:
    """The names by type URL that differ between two states of things."""
    return {
        type_url: {
            name
            for name in {*old.get(type_url, ()), *new.get(type_url, ())}
            if old.get(type_url, {}).get(name) != new.get(type_url, {}).get(name)
        }
        for type_url in {*old, *new}
    }


@dataclass(frozen=True)
class Response:
    """A response of either variant. Parsing it asserts that no name is in it twice (rule 7)."""

    type_url: str
    nonce: str
    contents: dict[str, str]
    """By name."""
    removed: list[str]
    version: str
    """State of the world: of the whole. Delta: the revision."""
    bytes_: int


def parse(variant: Variant, action: Send) -> Response:
    """The response in an action."""
    message = (DeltaDiscoveryResponse if variant is DELTA else DiscoveryResponse).FromString(action.data)
    assert (message.type_url, message.nonce) == (action.type_url, action.nonce)
    bodies = [item.resource if variant is DELTA else item for item in message.resources]
    assert {body.type_url for body in bodies} <= {message.type_url}
    pairs = [body.value.decode().split("\n", 1) for body in bodies]
    removed = list(message.removed_resources) if variant is DELTA else []
    names = [*(name for name, _ in pairs), *removed]
    assert len(names) == len(set(names)), "a name stands twice in one response"
    if variant is DELTA:
        assert [item.name for item in message.resources] == [name for name, _ in pairs]
        assert [item.version for item in message.resources] == [version_of(*pair) for pair in pairs]
    version = message.system_version_info if variant is DELTA else message.version_info
    return Response(message.type_url, message.nonce, dict(pairs), removed, version, len(action.data))


@dataclass
class Client:
    """One stream, both of its ends. What it is sent is returned by whatever made the server send it."""

    variant: Variant
    tables: Tables = field(default_factory=dict)
    only: str | None = None
    grace_s: float = 0
    stream: XdsStream = field(init=False)
    now: float = 0
    revision: int = 1
    names: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Subscribed to, by type URL."""
    nonces: dict[str, str] = field(default_factory=dict)
    """Of the newest response, by type URL."""
    versions: dict[str, str] = field(default_factory=dict)
    """State of the world: accepted last, by type URL."""
    held: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    """Accepted contents by type URL and name."""
    answers: list[Answered] = field(default_factory=list)
    """What the server understood of the client's ACKs and NACKs."""
    closed: Close | None = None
    _asked: set[str] = field(default_factory=set)
    """Types of which this stream has seen a request."""

    def __post_init__(self) -> None:
        self.stream = self._open()

    def _open(self) -> XdsStream:
        view = view_of(self.tables, self.revision)
        return XdsStream(self.variant, IDENTITY, view, only=self.only, removal_grace_s=self.grace_s)

    # -- what a client does --

    def subscribe(self, type_url: str, *names: str) -> list[Response]:
        """Ask for more names."""
        self.names[type_url] += [name for name in names if name not in self.names[type_url]]
        return self.request(type_url, resource_names_subscribe=names)

    def unsubscribe(self, type_url: str, *names: str) -> list[Response]:
        """Give names up, and forget what was held of them."""
        self.names[type_url] = [name for name in self.names[type_url] if name not in names]
        for name in names:
            self.held[type_url].pop(name, None)
        return self.request(type_url, resource_names_unsubscribe=names)

    def ack(self, *responses: Response) -> list[Response]:
        """Accept responses, the last of them last."""
        sent: list[Response] = []
        for response in responses:
            self._take(response)
            sent += self.request(response.type_url, nonce=response.nonce)
        return sent

    def nack(self, response: Response, detail: str = "no") -> list[Response]:
        """Reject a response, and keep what was held before."""
        return self.request(response.type_url, nonce=response.nonce, error_detail=Status(code=3, message=detail))

    def reconnect(self) -> Client:
        """The same client on a new stream: it holds what it held, and has asked for nothing yet."""
        fresh = Client(self.variant, self.tables, self.only, self.grace_s, now=self.now, revision=self.revision)
        fresh.held, fresh.versions = self.held, self.versions
        return fresh

    # -- what happens to it --

    def publish(self, tables: Tables, *, known: bool = True) -> list[Response]:
        """The server has a new view; `known`: and is told which names differ."""
        changed = differences(self.tables, tables) if known else None
        self.tables, self.revision = tables, self.revision + 1
        return self._took(self.stream.publish(view_of(tables, self.revision), changed, self.now))

    def wait(self, seconds: float) -> list[Response]:
        """Time goes by, and the server is woken if that is what it asked for."""
        self.now += seconds
        if self.stream.wake_at is None or self.stream.wake_at > self.now:
            return []
        return self._took(self.stream.wake(self.now))

    def removes(self, response: Response, name: str) -> bool:
        """Whether a response says that there is no such resource: a full state does so by leaving it out (rule 14)."""
        if self.variant is DELTA:
            return name in response.removed
        return response.type_url in (CLUSTER, LISTENER) and name not in response.contents

    def settle(self, responses: Iterable[Response]) -> list[Response]:
        """Accept all there is, and all that comes of it, until there is silence; says what that was."""
        said = [*responses]
        for response in said:  # grows while it is read
            said += self.ack(response)
        return said

    # -- bytes --

    def request(self, type_url: str, *, nonce: str | None = None, **fields: object) -> list[Response]:
        """A request as it goes over the wire.

        The first one of a type says what the client holds of it. Without a `nonce` it is a request of the client's own
        accord, which in the state of the world has the nonce of the newest response all the same.
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

    def receive(self, raw: bytes) -> list[Response]:
        """Let the server read these bytes."""
        return self._took(self.stream.receive(raw, self.now))

    def _took(self, actions: Sequence[Action]) -> list[Response]:
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

    def _take(self, response: Response) -> None:
        held = self.held[response.type_url]
        if self.variant is SOTW and response.type_url in (CLUSTER, LISTENER):
            held.clear()  # rule 14
        held.update(response.contents)
        for name in response.removed:
            held.pop(name, None)
        self.versions[response.type_url] = response.version
