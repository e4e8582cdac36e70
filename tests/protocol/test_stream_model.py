"""The protocol core against a reference model, with random actions of network, client and operator.

Requests and responses are in two queues, so that they cross. The model checks each response when the server emits it, and
knows which requests the server has read. For every type it keeps what the client certainly holds, what it may hold, and what
it rejected. Clusters have endpoints, routes refer to clusters, listeners to routes; every view is closed, but for endpoints that
may lack. As Envoy does, a client that reconnects while a cluster warms asks for clusters once it has its endpoints.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.protocol.stream_client import (
    DELTA,
    IDENTITY,
    NO_ENDPOINTS,
    SOTW,
    ParsedResponse,
    differences,
    parse,
    version_of,
    view_of,
)
from tests.scale import scaled
from xds.protocol.messages import Variant
from xds.protocol.stream import Answered, Close, Send, XdsStream
from xds.snapshot.order import WARMING_S
from xds.translate.names import CLUSTER, ENDPOINT, LISTENER, ROUTE
from xds.wire.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest

TYPES = (CLUSTER, ENDPOINT, LISTENER, ROUTE)
FULL = (CLUSTER, LISTENER)
"""Types with a legacy wildcard, and with full states in the state of the world."""
C0, C1, C2 = (f"pool/00000000-0000-0000-0000-00000000000{number}" for number in range(3))
NAMES = {CLUSTER: (C0, C1, C2), ENDPOINT: (C0, C1, C2), LISTENER: ("l0", "l1"), ROUTE: ("r0", "r1")}
REFERS_TO = {ROUTE: CLUSTER, LISTENER: ROUTE, CLUSTER: ENDPOINT}


def refers(type_url: str, name: str, content: str) -> set[str]:
    """Return the names that a resource with this content refers to."""
    return {name} if type_url == CLUSTER else set(content.split()[1:])


@st.composite
def worlds(draw):
    """Draw contents by type and name. All references exist, but for endpoints of some clusters; there are few versions, so that they recur."""
    salts = st.sampled_from(["one", "two", "three"])
    clusters = draw(st.sets(st.sampled_from(NAMES[CLUSTER])))
    tables = {CLUSTER: {name: draw(salts) for name in clusters}}
    tables[ENDPOINT] = {name: draw(salts) for name in clusters if draw(st.integers(0, 3))}
    targets = st.sets(st.sampled_from(sorted(clusters))) if clusters else st.just(set())
    tables[ROUTE] = {
        name: " ".join([draw(salts), *sorted(draw(targets))]) for name in NAMES[ROUTE] if draw(st.booleans())
    }
    listeners = [name for name in NAMES[LISTENER] if tables[ROUTE] and draw(st.booleans())]
    tables[LISTENER] = {name: f"{draw(salts)} {draw(st.sampled_from(sorted(tables[ROUTE])))}" for name in listeners}
    return tables


def subscribable(type_url: str):
    """Draw names to subscribe to."""
    return st.lists(st.sampled_from([*NAMES[type_url], "*"]), unique=True)


typed = st.sampled_from(TYPES).flatmap(lambda type_url: st.tuples(st.just(type_url), subscribable(type_url)))


@dataclass
class ClientTypeState:
    """The client's side of one type."""

    names: set[str] = field(default_factory=set)
    wildcard: bool = False
    contents: dict[str, str] = field(default_factory=dict)
    opened: bool = False
    """True once this stream has requested the type."""
    explicit: bool = False
    nonce: str = ""
    old_nonces: list[str] = field(default_factory=list)
    version: str = ""
    """State of the world: the version accepted last. For full states it is empty once it does not cover what is held."""

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names


@dataclass
class ExpectedTypeState:
    """The reference: the state of one type that the server can know from the requests that it has read."""

    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    certain: dict[str, str] = field(default_factory=dict)
    """Contents that the client accepted or resumed with."""
    possible: dict[str, set[str]] = field(default_factory=dict)
    """Contents that the client may hold."""
    accepted: dict[str, str] = field(default_factory=dict)
    """Contents accepted last, which a full state repeats after a NACK."""
    refused: dict[str, set[str]] = field(default_factory=dict)
    doubt: set[str] = field(default_factory=set)
    """Names whose last answer was a NACK."""
    again: set[str] = field(default_factory=set)
    """Names that may be sent although the client holds them."""
    given_up: set[str] = field(default_factory=set)
    """Names unsubscribed since the last response."""
    told: set[str] = field(default_factory=set)
    """Names of which the client was told something since it subscribed, if only that they do not exist."""
    outstanding: dict[str, ParsedResponse] = field(default_factory=dict)
    changed: bool = True
    """True if the subscription changed since the last response."""

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def subscribe(self, names: Iterable[str]) -> None:
        for name in names:
            self.names.add(name)
            self.again.add(name)
            self.refused.pop(name, None)

    def keep_what_is_wanted(self) -> None:
        self.told = {name for name in self.told if self.wants(name)}
        tables = (self.certain, self.possible, self.accepted, self.refused)
        for name in {*self.doubt, *self.again, *(name for table in tables for name in table)}:
            if name and not self.wants(name):
                for table in tables:
                    table.pop(name, None)
                self.doubt.discard(name)
                self.again.discard(name)
                self.given_up.add(name)

    def accept(self, response: ParsedResponse, *, full: bool) -> None:
        for name, content in response.contents.items():
            if self.wants(name) and name not in self.given_up:
                self.certain[name] = self.accepted[name] = content
                self.possible[name] = {content}
                self.doubt.discard(name)
            elif self.wants(name):
                self.possible.setdefault(name, set()).add(content)  # unsubscribed and subscribed again meanwhile
        for name in self._gone(response, full=full):
            for table in (self.certain, self.possible, self.accepted):
                table.pop(name, None)
            self.doubt.discard(name)
        self.doubt.discard("")

    def reject(self, given: Iterable[str], response: ParsedResponse, error: str, *, full: bool) -> None:
        named = {name for name in given if name in error.split()} or set(given)
        for name in given:
            if not self.wants(name):
                continue
            self.certain.pop(name, None)
            self.possible.setdefault(name, set()).add(response.contents[name])
            self.doubt.add(name)
            if name in named and name not in self.given_up:
                self.refused.setdefault(name, set()).add(response.contents[name])
            else:
                self.again.add(name)
        self.doubt.update(
            () if given else response.removed or [""]
        )  # a full state may have left out what the client holds
        for name in self._gone(response, full=full):
            self.certain.pop(name, None)
            self.again.add(name)

    def _gone(self, response: ParsedResponse, *, full: bool) -> list[str]:
        return [name for name in self.accepted if name not in response.contents] if full else response.removed


class XdsStreamMachine(RuleBasedStateMachine):
    """A client, a server and two queues between them. Subclasses set the variant."""

    variant: Variant

    @initialize(world=worlds(), grace_s=st.sampled_from([0.0, 5.0]), as_envoy=st.booleans())
    def start(self, world, grace_s, as_envoy):
        self.world, self.revision, self.now, self.grace_s = world, 1, 0.0, grace_s
        self.held = {type_url: ClientTypeState() for type_url in TYPES}
        self.client_warms: set[str] = set()
        """Clusters that the client took and whose endpoints it has not been sent since."""
        self._open_stream()
        if as_envoy:
            for type_url in TYPES:
                self.subscribe(typed=(type_url, [] if type_url in FULL else [*NAMES[type_url]]))
            self.settle()

    def _open_stream(self):
        self.stream = XdsStream(
            self.variant, IDENTITY, view_of(self.world, self.revision), removal_grace_s=self.grace_s
        )
        self.known: dict[str, ExpectedTypeState] = {}
        self.requests: deque[dict] = deque()
        self.responses: deque[ParsedResponse] = deque()
        self.began_at: float | None = None
        self.stated = False
        """True once the server has read that the client holds something from an earlier stream."""
        self.owed: set[str] = set()
        """Endpoints that must be sent after their cluster."""
        self.warming: set[str] = set()
        """Clusters that were sent and whose endpoints may not be subscribed yet."""
        self.changed: set[str] = set()
        """Those of them of which the client holds another version."""

    # -- the operator and the clock --

    @rule(world=worlds(), known=st.booleans())
    def publish(self, world, known):
        changed = differences(self.world, world) if known else None
        self.world, self.revision = world, self.revision + 1
        self._forget_what_cannot_be_removed()
        self._emit(self.stream.publish(view_of(world, self.revision), changed, self.now))

    @rule(seconds=st.sampled_from([1.0, 4.0, 10.0]))
    def let_time_go_by(self, seconds):
        self.now += seconds
        if self.stream.wake_at is not None and self.stream.wake_at <= self.now:
            self._emit(self.stream.wake(self.now))

    # -- the client --

    @rule(typed=typed)
    def subscribe(self, typed):
        type_url, requested = typed
        held = self.held[type_url]
        if type_url in FULL and not requested and not held.opened:
            held.wildcard = True
        if self.variant is SOTW and requested and not held.explicit:
            held.wildcard = False  # names end the legacy wildcard
        held.wildcard |= "*" in requested
        held.names |= set(requested) - {"*"}
        held.explicit |= bool(requested)
        self._forget_what_is_not_wanted(type_url)
        self._ask(type_url, subscribe=requested)

    @rule(typed=typed)
    def unsubscribe(self, typed):
        type_url, requested = typed
        held = self.held[type_url]
        if not held.opened or (self.variant is SOTW and not held.explicit):
            return  # leaving names out does not end the legacy wildcard
        held.names -= set(requested)
        held.wildcard &= "*" not in requested
        self._forget_what_is_not_wanted(type_url)
        self._ask(type_url, unsubscribe=requested)

    def _forget_what_is_not_wanted(self, type_url):
        held = self.held[type_url]
        for name in [*held.contents]:
            if not held.wants(name):
                del held.contents[name]
                held.version = "" if type_url in FULL else held.version  # by name, a client keeps it

    @rule(type_url=st.sampled_from(TYPES), error=st.sampled_from([None, f"{C0} r0", ""]), data=st.data())
    def talk_nonsense(self, type_url, error, data):
        """Send a stale nonce, or one of another type or stream, with or without an error."""
        held = self.held[type_url]
        if held.opened:
            nonce = data.draw(st.sampled_from(["foreign", "12345", *held.old_nonces]))
            self._ask(type_url, nonce=nonce, error=error)

    @rule()
    def reconnect(self):
        """Break the stream. The client reconnects with what it holds, and subscribes as before.

        While a cluster warms, it asks for clusters later, if it is one that asks for all listeners.
        """
        self._open_stream()
        for held in self.held.values():
            held.opened = held.explicit = False
            held.nonce, held.old_nonces = "", []
        for type_url in TYPES:
            if type_url != CLUSTER or not (self.held[LISTENER].wildcard and self._warms()):
                self._subscribe_again(type_url)

    def _subscribe_again(self, type_url):
        held = self.held[type_url]
        if not held.opened and (held.wildcard or held.names):
            legacy = held.wildcard and not held.names and type_url in FULL
            requested = [] if legacy else [*(["*"] if held.wildcard else []), *held.names]
            held.explicit = bool(requested)
            self._ask(type_url, subscribe=requested)

    def _warms(self):
        """Return the clusters that warm for want of endpoints that the client subscribes to."""
        return {
            name for name in self.client_warms & self.held[CLUSTER].contents.keys() if self.held[ENDPOINT].wants(name)
        }

    def _ask(self, type_url, *, subscribe=(), unsubscribe=(), nonce=None, error=None):
        """Put a request into the queue."""
        said = {"subscribe": subscribe, "unsubscribe": unsubscribe, "nonce": nonce, "error": error}
        message = self._message(type_url, **said)
        self._say(message, message.SerializeToString())

    def _message(self, type_url, *, subscribe=(), unsubscribe=(), nonce=None, error=None):
        held = self.held[type_url]
        fields = {"error_detail": {"message": error.encode()}} if error is not None else {}
        if self.variant is DELTA:
            resumed = {} if held.opened else held.contents
            return DeltaDiscoveryRequest(
                type_url=type_url,
                response_nonce=nonce or "",
                resource_names_subscribe=subscribe,
                resource_names_unsubscribe=unsubscribe,
                initial_resource_versions={name: version_of(name, content) for name, content in resumed.items()},
                **fields,
            )
        wildcard = ["*"] if held.wildcard and held.explicit else []
        return DiscoveryRequest(
            type_url=type_url,
            response_nonce=held.nonce if nonce is None else nonce,
            resource_names=[*wildcard, *held.names],
            version_info=held.version,
            **fields,
        )

    @rule(typed=typed, raw=st.none() | st.binary(max_size=40), data=st.data())
    def talk_gibberish(self, typed, raw, data):
        """Send random bytes, or a request with some bytes changed; the client then takes over what the bytes say."""
        if raw is None:
            type_url, requested = typed
            raw = bytearray(self._message(type_url, subscribe=requested, error=C0).SerializeToString())
            for _ in range(data.draw(st.integers(1, 3))):
                raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        try:
            message = (DeltaDiscoveryRequest if self.variant is DELTA else DiscoveryRequest).FromString(bytes(raw))
        except DecodeError:
            message = DiscoveryRequest()
        if message.type_url not in TYPES:
            self.requests.append({"bytes": bytes(raw), "statuses": [] if message.type_url else ["INVALID_ARGUMENT"]})
            return
        held, nonce = self.held[message.type_url], message.response_nonce
        if not nonce.isdecimal() or nonce in (
            held.nonce,
            *held.old_nonces,
        ):  # the client has not received other nonces yet
            self._say(message, bytes(raw))

    def _say(self, message, raw):
        """Put a request into the queue, and apply it to the client's own state."""
        held = self.held[message.type_url]
        first, held.opened = not held.opened, True
        if self.variant is DELTA:
            subscribe, unsubscribe = message.resource_names_subscribe, message.resource_names_unsubscribe
            held.wildcard |= "*" in subscribe or (first and not subscribe and message.type_url in FULL)
            held.wildcard &= "*" not in unsubscribe
            held.names = (held.names | {*subscribe} - {"*"}) - {*unsubscribe}
            versions = message.initial_resource_versions if first else {}
            if first:  # the client holds only what it states
                held.contents = {name: content for name, content in held.contents.items() if name in versions}
            resumed = {name: self._content(held, name, version) for name, version in versions.items()}
        else:
            subscribe, unsubscribe = message.resource_names, ()
            held.explicit |= bool(subscribe)
            held.wildcard = "*" in subscribe or (not held.explicit and message.type_url in FULL)
            held.names = {*subscribe} - {"*"}
            trusted = (
                first and held.wildcard and message.type_url in FULL and message.version_info == held.version != ""
            )
            resumed = dict(held.contents) if trusted else {}
        self._forget_what_is_not_wanted(message.type_url)
        self.requests.append(
            {
                "type_url": message.type_url,
                "first": first,
                "subscribe": [*subscribe],
                "unsubscribe": [*unsubscribe],
                "wildcard": held.wildcard,
                "names": set(held.names),
                "error": message.error_detail.message.decode(errors="replace")
                if message.HasField("error_detail")
                else None,
                "resumed": resumed,
                "stated": versions if self.variant is DELTA else message.version_info,
                "nonce": message.response_nonce,
                "bytes": raw,
            }
        )

    def _content(self, held, name, version):
        """Return the content of a version that the client states; `?` if it holds another one."""
        content = held.contents.get(name, "")
        return content if version == version_of(name, content) else "?"

    # -- the network --

    @rule()
    def deliver_request(self):
        if not self.requests:
            return
        request = self.requests.popleft()
        actions = self.stream.receive(request["bytes"], self.now)
        if "statuses" in request:
            assert [action.status for action in actions] == request["statuses"]
            if actions:
                self.reconnect()
            return
        answered = [action for action in actions if isinstance(action, Answered)]
        self._learn(request, answered)
        self._emit(actions)

    @rule(accepts=st.booleans(), data=st.data())
    def deliver_response(self, accepts, data):
        if not self.responses:
            return
        response = self.responses.popleft()
        held = self.held[response.type_url]
        if held.nonce:
            held.old_nonces.append(held.nonce)
        held.nonce = response.nonce
        wanted = {name: content for name, content in response.contents.items() if held.wants(name)}
        if accepts:
            if response.type_url == CLUSTER:
                self.client_warms |= {name for name in wanted if wanted[name] != held.contents.get(name)}
            if self.variant is SOTW and response.type_url in FULL:
                held.contents.clear()
            held.contents.update(wanted)
            for name in response.removed:
                held.contents.pop(name, None)
            held.version = response.version if wanted == response.contents or response.type_url not in FULL else ""
            self._ask(response.type_url, nonce=response.nonce)
            self._stop_warming(response)
            return
        named = data.draw(st.sets(st.sampled_from(sorted(wanted)))) if wanted else set()
        taken = data.draw(st.sets(st.sampled_from(sorted(wanted)))) - named if wanted else set()
        held.contents.update({name: wanted[name] for name in taken})
        held.version = "" if taken else held.version
        self._ask(response.type_url, nonce=response.nonce, error=" ".join(["rejected:", *sorted(named)]))
        self._stop_warming(response)

    def _stop_warming(self, response):
        if response.type_url == ENDPOINT:
            self.client_warms -= response.contents.keys()
            if not self._warms():
                self._subscribe_again(CLUSTER)

    # -- the server's knowledge after a request --

    def _learn(self, request, answered):
        type_url = request["type_url"]
        self.began_at = self.now if self.began_at is None else self.began_at
        self.stated |= request["first"] and bool(request["stated"])
        known = self.known.setdefault(type_url, ExpectedTypeState())
        response = known.outstanding.pop(request["nonce"], None)
        assert len(answered) == (response is not None)
        if response is not None:
            (answer,) = answered
            assert answer.error == request["error"]
            assert answer.resources.keys() <= response.contents.keys()
            full = self.variant is SOTW and type_url in FULL
            if request["error"] is None:
                known.accept(response, full=full)
            else:
                known.reject(answer.resources, response, request["error"], full=full)
        if self.variant is DELTA:
            self._learn_names_of_delta(known, request)
        else:
            known.changed |= (known.wildcard, known.names) != (request["wildcard"], request["names"])
            known.again |= request["names"] - known.names
            known.wildcard, known.names = request["wildcard"], request["names"]
        known.keep_what_is_wanted()
        known.told |= request["resumed"].keys()
        self._forget_what_cannot_be_removed()
        for name, content in request["resumed"].items():
            if known.wants(name):
                known.possible[name] = {content}
                known.accepted[name] = content
                if self.variant is DELTA:
                    known.certain[name] = content
                    known.again.discard(name)
        if type_url == ENDPOINT:
            self._note_what_follows()
            self.owed = {name for name in self.owed if known.wants(name) and name not in known.refused}

    def _learn_names_of_delta(self, known, request):
        names = set(request["subscribe"])
        known.subscribe(names - {"*"})
        known.wildcard |= "*" in names or (request["first"] and not names and request["type_url"] in FULL)
        given_up = known.names & set(request["unsubscribe"])
        known.names -= given_up
        known.wildcard &= "*" not in request["unsubscribe"]
        known.again |= {name for name in given_up if known.wants(name)}

    def _forget_what_cannot_be_removed(self):
        """Forget named resources that state of the world cannot remove."""
        for type_url in self.known.keys() - set(FULL if self.variant is SOTW else TYPES):
            for name in [*self.known[type_url].certain]:
                if name not in self.world[type_url]:
                    del self.known[type_url].certain[name]

    # -- checks of each response --

    def _emit(self, actions):
        for action in actions:
            assert not isinstance(action, Close)
            if isinstance(action, Send):
                response = parse(self.variant, action)  # asserts that no name is in it twice
                self._judge(response)
                self.responses.append(response)

    def _expected(self, type_url, name):
        """Return the content that the client should have; None if it should have none.

        Endpoints that do not exist are empty while the client may have their cluster, or may yet say that it does.
        """
        content = self.world[type_url].get(name)
        if content is None and type_url == ENDPOINT:
            clusters = self.known.get(CLUSTER)
            has_cluster = self._may_ask_for_clusters() if clusters is None else self._may_keep(clusters, name)
            return NO_ENDPOINTS if has_cluster or name in self.world[CLUSTER] else None
        return content

    def _may_keep(self, clusters, name):
        """Return whether the client may have a cluster whose removal was not sent."""
        sent = clusters.outstanding.values()
        removed = any(name in each.removed or (self.variant is SOTW and name not in each.contents) for each in sent)
        return name in clusters.possible and not removed

    def _may_ask_for_clusters(self):
        """Return whether the client may have reconnected while a cluster warms."""
        listeners = self.known.get(LISTENER)
        in_time = self.began_at is not None and self.now < self.began_at + WARMING_S
        return CLUSTER not in self.known and self.stated and listeners is not None and listeners.wildcard and in_time

    def _judge(self, response):
        type_url, known = response.type_url, self.known[response.type_url]
        there = {
            name: content
            for name in {*self.world[type_url], *response.contents, *response.removed}
            if (content := self._expected(type_url, name)) is not None
        }
        full = self.variant is SOTW and type_url in FULL
        assert not known.outstanding, "one response of a type at a time"
        new = {name: content for name, content in response.contents.items() if known.certain.get(name) != content}
        for name, content in response.contents.items():
            assert known.wants(name), "it is not subscribed"
            repeated = full and content == known.accepted.get(name)  # accepted before: leaving it out would delete it
            assert repeated or content not in known.refused.get(name, ()), "it was rejected before"
            assert repeated or content == there.get(name), "it is not the current content"
            owed = type_url == ENDPOINT and self._may_ask_for_clusters()
            assert full or name in new or name in known.again or owed, "the client holds it"
        if full and not known.changed and not known.doubt:
            assert response.contents != known.accepted, "the client holds all of it"
        removed = {name for name in known.accepted if known.wants(name)} - response.contents.keys() if full else set()
        removed |= set(response.removed)
        assert not [name for name in removed if not known.wants(name)], "it is not subscribed"
        assert not [name for name in removed if name in there and there[name] not in known.refused.get(name, ())], (
            "it exists"
        )
        if new:
            self._judge_additions(type_url, new)
        if type_url in FULL and not known.wildcard:
            untold = known.names if full else set(response.removed)
            self._judge_absences(type_url, untold - known.told - response.contents.keys())
        self._judge_removals(type_url, removed - known.again, resumed=full and not known.certain)
        if type_url == CLUSTER:
            self.warming |= response.contents.keys() if self.variant is DELTA else new.keys()
            self.changed |= {name for name in self.warming if response.contents.get(name) != known.accepted.get(name)}
            self._note_what_follows()
        if type_url == ENDPOINT:
            self.owed -= response.contents.keys()
        for name, content in response.contents.items():
            known.possible.setdefault(name, set()).add(content)
        known.again -= {*response.contents, *response.removed}
        known.told |= {*response.contents, *response.removed, *(known.names if full else ())}
        known.given_up.clear()
        known.changed = False
        known.outstanding[response.nonce] = response

    def _judge_additions(self, type_url, new):
        """Check make before break: new routes refer only to clusters that the client has accepted, if it takes clusters here."""
        if type_url != ROUTE:
            return
        clusters = self.known.get(CLUSTER)
        for name in {name for route, content in new.items() for name in refers(ROUTE, route, content)}:
            if clusters is None:
                assert not self._may_ask_for_clusters(), "the client may yet say which clusters it holds"
            elif clusters.wants(name) and self.world[CLUSTER][name] not in clusters.refused.get(name, ()):
                assert name in clusters.accepted, "a route to a cluster that was not accepted"

    def _judge_absences(self, type_url, absent):
        """Check that a client is told that names do not exist only once nothing that it may hold, or is sent, refers to them."""
        for referrer, referred in REFERS_TO.items():
            known = self.known.get(referrer)
            if referred == type_url and known is not None and absent:
                assert not known.outstanding, f"{absent} may not be missing in what is in flight"
                for name, contents in known.possible.items():
                    if self.variant is SOTW and name not in self.world[referrer]:
                        continue  # as in _judge_removals
                    assert not any(absent & refers(referrer, name, content) for content in contents)

    def _judge_removals(self, type_url, removed, *, resumed):
        """Check that nothing that the client may hold refers to a removed resource."""
        for referrer, referred in REFERS_TO.items():
            known = self.known.get(referrer)
            if referred != type_url or known is None or resumed:
                continue
            for name, contents in known.possible.items():
                if self.variant is SOTW and referrer == ROUTE and name not in self.world[ROUTE]:
                    continue  # state of the world cannot remove a route, and no listener names it
                for content in contents:
                    assert not removed & refers(referrer, name, content), f"{name} may still refer to it"

    def _note_what_follows(self):
        """Note the endpoints that must follow the clusters that were sent."""
        endpoints = self.known.get(ENDPOINT)
        if endpoints is not None:
            follow = {name for name in self.warming if endpoints.wants(name) and self._expected(ENDPOINT, name)}
            endpoints.again |= follow
            self.owed |= {name for name in follow & self.changed if name not in endpoints.refused}
            self.warming.clear()
            self.changed.clear()

    # -- the end --

    @rule()
    def settle(self):
        """Deliver and accept everything and let the grace pass; then check that the client holds what it should."""
        for _ in range(300):
            if self.requests:
                self.deliver_request()
            elif self.responses:
                self.deliver_response(accepts=True, data=None)
            elif self.stream.wake_at is not None:
                self.let_time_go_by(self.stream.wake_at - self.now)
            else:
                break
        else:
            raise AssertionError("the stream does not become quiet")
        doubt = any(known.doubt or self._keeps_another(type_url, known) for type_url, known in self.known.items())
        for type_url, known in self.known.items():
            held = self.held[type_url]
            assert (held.wildcard, held.names) == (known.wildcard, known.names)
            names = [name for name in {*self.world[type_url], *held.names, *held.contents} if held.wants(name)]
            there = {name: content for name in names if (content := self._expected(type_url, name)) is not None}
            for name, content in there.items():
                if content not in known.refused.get(name, ()):
                    assert held.contents.get(name) == content, f"{name} has another content"
            if self.variant is DELTA or type_url in FULL:
                assert doubt or held.contents.keys() <= there.keys(), "the client holds removed resources"
        assert not {name for name in self.owed if name in self.world[ENDPOINT]}, (
            "endpoints did not follow their cluster"
        )
        if ENDPOINT in self.known:
            assert self._warms() <= self.known[ENDPOINT].refused.keys(), "a cluster warms for want of its endpoints"

    def _keeps_another(self, type_url, known):
        """Return whether the current content was rejected, so that the client keeps another one and what that refers to."""
        there = self.world[type_url]
        return any(known.wants(name) and there.get(name) in contents for name, contents in known.refused.items())

    def teardown(self):
        if sys.exception() is None:
            self.settle()


class SotwStreamMachine(XdsStreamMachine):
    variant = SOTW


class DeltaStreamMachine(XdsStreamMachine):
    variant = DELTA


PROFILE = settings(
    max_examples=scaled(40),
    stateful_step_count=40,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestStateOfTheWorld = SotwStreamMachine.TestCase
TestStateOfTheWorld.settings = PROFILE
TestDelta = DeltaStreamMachine.TestCase
TestDelta.settings = PROFILE
