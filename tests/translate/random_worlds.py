"""Random fleets and requests from a small vocabulary, so that requests often match routes."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from uuid import UUID

from model.entities import Allow, Deny, Fleet, Listener, Match, Pool, Route, ToPools, User, Window
from model.world import World, put
from xds.translate import names
from xds.translate.client_intent import RequestedLocation
from xds.translate.explain import ExplainRequest, Explanation

FLEET = UUID(int=1)
LISTENERS = (UUID(int=2), UUID(int=3), UUID(int=4))
UNKNOWN_POOL = UUID(int=999)
COUNTRIES = ("de", "us", "fr")
CITIES = ("berlin", "munich", "newyork")
GROUPS = {"alice": "staff", "bob": "staff", "carol": "guests", "dave": None}
SESSIONS = ("s1", "s2", "batch-1", "batch-22")
HOSTS = (
    *("www.example.com", "example.com", "EXAMPLE.com.", "notexample.com", "a.b.example.org", "com", "x..example.com"),
    *("10.1.2.3", "10.2.0.1", "192.0.2.7", "2001:db8::1", "::1", "999.1.1.1", "010.1.2.3"),
)
NETWORKS = ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "0.0.0.0/0", "2001:db8::/32", "::/0")
DOMAINS = ("com", "example.com", "www.example.com", "example.org", "b.example.org")
PORTS = ((443, 443), (80, 80), (1, 1023), (80, 90), (8000, 8999), (1, 65535), (444, 65535))
ASKED_PORTS = (25, 80, 81, 443, 8080, 65535)
MINUTE = 60
CONDITIONS = ("countries", "cities", "pools", "sessions", "users", "groups", "domains", "networks", "ports", "times")


@dataclass(frozen=True)
class Now:
    """The time of a test. Windows begin and end hours away, so that no test runs across an edge."""

    day: int
    minute: int

    def window(self, random: Random) -> Window:
        start = random.choice((-3, -2, 2, 3)) * MINUTE
        end = start + random.choice((1, 4, 20, 24)) * MINUTE
        began = self.day * 24 * MINUTE + self.minute + start
        days = {began // (24 * MINUTE) % 7}
        if random.random() < 0.3:
            days.add(random.randrange(7))
        return Window(frozenset(days), began % (24 * MINUTE), (began + end - start) % (24 * MINUTE) or 24 * MINUTE)


def make_world(random: Random, now: Now) -> World:
    pools = make_pools(random)
    users = [User(UUID(int=50 + number), FLEET, name, group) for number, (name, group) in enumerate(GROUPS.items(), 1)]
    kinds = tuple(
        random.sample(CONDITIONS, random.choice((1, 2, 3, len(CONDITIONS))))
    )  # few kinds, so that routes share look-ups
    routes = [make_route(random, number, pools, now, kinds) for number in range(random.choice((0, 1, 3, 8, 20)))]
    listeners = [
        Listener(LISTENERS[0], FLEET, "127.0.0.1", 8080),
        Listener(LISTENERS[1], FLEET, "127.0.0.1", 8081, "second", country=random.choice(COUNTRIES)),
        Listener(LISTENERS[2], FLEET, "127.0.0.1", 8082, "third", pool_id=random.choice(pools).id if pools else None),
    ]
    return World().changed(1, map(put, [Fleet(FLEET, "demo"), *listeners, *pools, *users, *routes]))


def make_pools(random: Random) -> list[Pool]:
    found = {}
    for number in range(random.choice((0, 1, 3, 6, 9))):
        by_name = random.random() < 0.2
        pool = Pool(
            UUID(int=100 + number),
            FLEET,
            f"pool-{number}",
            random.choice(COUNTRIES),
            random.choice(("", "", *CITIES)),
            by_name,
        )
        found[(pool.country, pool.city) if not by_name else number] = pool
    return [*found.values()]


def some(random: Random, choices, most: int = 2) -> frozenset:
    return frozenset(random.sample([*choices], min(len(choices), random.randint(1, most))))


def make_match(random: Random, now: Now, kinds: tuple[str, ...]) -> Match:
    conditions = {
        "countries": lambda: some(random, COUNTRIES),
        "cities": lambda: some(random, CITIES),
        "pools": lambda: some(random, [f"pool-{number}" for number in range(4)]),
        "sessions": lambda: some(random, (*SESSIONS, "batch-*", "s*", "*", "batch-2*")),
        "users": lambda: some(random, GROUPS),
        "groups": lambda: some(random, ("staff", "guests", "nobody")),
        "domains": lambda: some(random, DOMAINS),
        "networks": lambda: some(random, NETWORKS),
        "ports": lambda: some(random, PORTS),
        "times": lambda: frozenset({now.window(random)}),
    }
    how_many = min(len(kinds), random.choice((0, 1, 1, 1, 1, 2, 2, 3)))
    return Match(**{name: conditions[name]() for name in random.sample(kinds, how_many)})


def make_route(random: Random, number: int, pools: list[Pool], now: Now, kinds: tuple[str, ...]) -> Route:
    ids = [*(pool.id for pool in pools), UNKNOWN_POOL]
    match random.randrange(4):
        case 0:
            action = Allow()
        case 1:
            action = Deny(random.choice((403, 451)), f"denied by {number}")
        case _:
            chosen = random.sample(ids, min(len(ids), random.choice((1, 1, 2, 3))))
            weighted = tuple((pool_id, random.randint(1, 5)) for pool_id in chosen)
            action = ToPools(weighted, tuple(random.sample(ids, min(len(ids), random.choice((0, 0, 1, 2))))))
    return Route(
        UUID(int=1000 + number),
        FLEET,
        f"route-{number}",
        random.randrange(10),
        random.random() < 0.9,
        make_match(random, now, kinds),
        action,
    )


def make_request(random: Random, now: Now) -> ExplainRequest:
    def perhaps(choices, share=0.3):
        return random.choice(choices) if random.random() < share else None

    countries, pools = (*COUNTRIES, "DE", "uk", "zz"), [f"pool-{number}" for number in range(6)]
    cities = (*CITIES, "New_York", "nowhere")
    user_name = perhaps([*GROUPS, "Alice", "stranger"], 0.7) or ""
    if user_name:
        options = {
            "country": perhaps(countries, 0.5),
            "city": perhaps(cities, 0.3),
            "pool": perhaps(pools, 0.15),
            "session": perhaps(SESSIONS),
        }
        pairs = [f"-{key}-{value}" for key, value in options.items() if value]
        random.shuffle(pairs)
        user_name += "".join(pairs)
    location = RequestedLocation(perhaps(countries), perhaps(cities, 0.15), perhaps(pools, 0.1))
    return ExplainRequest(
        random.choice(HOSTS),
        random.choice(ASKED_PORTS),
        listener_id=random.choice((None, *LISTENERS)),
        user_name=user_name,
        location=location,
        session=perhaps(SESSIONS),
        day=now.day,
        minute=now.minute,
    )


def intent_headers(explained: Explanation, request: ExplainRequest) -> dict[str, str]:
    """Return the intent headers that a gateway would add to the request."""
    intent, target = explained.intent, explained.target
    headers = {
        names.REQUESTED_COUNTRY: intent.location.country,
        names.REQUESTED_CITY: intent.location.city,
        names.REQUESTED_POOL: intent.location.pool,
        names.SESSION: intent.session,
        names.USER: intent.user,
        names.GROUP: explained.group,
        names.TARGET_HOST: target.host,
        names.TARGET_DOMAIN: target.domain,
        names.TARGET_PORT: str(target.port),
        names.TIME: f"{request.day}-{request.minute // 60:02}{request.minute % 60:02}",
    }
    return {name: value for name, value in headers.items() if value}
