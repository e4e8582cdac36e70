"""A property test: any declared state survives export, prune and apply."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from api.features.declared.schemas import Declared
from cli.declared.documents import load_texts
from cli.declared.yaml_output import as_yaml
from tests.scale import scaled

pytestmark = pytest.mark.postgres
NOTHING = Declared(**{name: [] for name in Declared.model_fields})
NAMES = some.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?\Z")
USERS = some.from_regex(r"\A[a-z0-9][a-z0-9_.]{0,8}[a-z0-9]\Z")
COUNTRIES = some.sampled_from(["us", "de", "no", "fr", "jp"])
CITIES = some.sampled_from(["berlin", "oslo", "1e3", "null"])
PORTS = some.integers(1, 65535)
SESSIONS = some.from_regex(r"\A[a-z0-9_.]{1,8}\*?\Z")
NETWORKS = some.sampled_from(["192.0.2.0/24", "2001:db8::/32", "10.0.0.1/32"])
RANGES = some.one_of(PORTS.map(str), some.tuples(PORTS, PORTS).map(lambda each: f"{min(each)}-{max(each)}"))
TIMES = some.fixed_dictionaries(
    {"from": some.sampled_from(["00:00", "09:30", "22:15"]), "to": some.sampled_from(["06:00", "24:00"])},
    optional={"days": some.lists(some.sampled_from(["mon", "sun"]), max_size=2)},
)
TEXTS = some.text(some.characters(blacklist_categories=["Cc", "Cs"]), max_size=30)
LOCALITIES = some.none() | some.sampled_from(["eu", "eu-west/a"])
BALANCING = some.fixed_dictionaries(
    {}, optional={"policy": some.sampled_from(["least_request", "round_robin", "random", "session"])}
)
RESILIENCE = some.fixed_dictionaries(
    {},
    optional={
        "panic_threshold_percent": some.integers(0, 100),
        "check_interval_s": some.integers(1, 600),
        "check_timeout_s": some.integers(1, 60),
        "unhealthy_after": some.integers(1, 100),
        "healthy_after": some.integers(1, 100),
    },
)


def few(values):
    return some.lists(values, max_size=3)


MATCHES = some.fixed_dictionaries(
    {},
    optional={
        "countries": few(COUNTRIES),
        "cities": few(CITIES),
        "pools": few(NAMES),
        "sessions": few(SESSIONS),
        "users": few(USERS),
        "groups": few(NAMES),
        "domains": few(some.sampled_from(["example.com", "xn--bcher-kva.example"])),
        "networks": few(NETWORKS),
        "ports": few(RANGES),
        "times": few(TIMES),
    },
)


@some.composite
def actions(draw, pools):
    """Generate the action of a route in a fleet with these pools."""
    simple = some.just({"allow": True}) | some.builds(
        lambda status, text: {"deny": {"status": status, "text": text}}, some.integers(400, 599), TEXTS
    )
    if not pools or draw(some.booleans()):
        return draw(simple)
    led = draw(some.permutations(pools))
    cut = draw(some.integers(1, len(led)))
    weighted = [{"pool": name, "weight": draw(some.integers(1, 10**6))} for name in led[:cut]]
    return {"pools": weighted, "fallback": led[cut:]}


@some.composite
def states(draw):
    """Generate a valid declared state."""
    state: dict[str, list[object]] = {name: [] for name in Declared.model_fields}
    for fleet in draw(some.lists(NAMES, max_size=2, unique=True)):
        state["fleets"].append({"name": fleet})
        plans = draw(some.lists(NAMES, max_size=2, unique=True))
        for name in plans:
            limits = draw(some.none() | some.integers(1, 2**53))
            state["plans"].append(
                {"name": name, "fleet": fleet, "monthly_bytes": limits, "tunnels": draw(some.none() | PORTS)}
            )
        places = draw(
            some.lists(
                some.tuples(NAMES, COUNTRIES, some.none() | CITIES),
                max_size=3,
                unique_by=(lambda each: each[0], lambda each: each[1:]),
            )
        )
        pools = [name for name, *_ in places]
        for name, country, city in places:
            by_name = draw(some.booleans())
            state["pools"].append(
                {"name": name, "fleet": fleet, "country": country, "city": city, "only_by_name": by_name}
                | {"balancing": draw(BALANCING), "resilience": draw(RESILIENCE)}
            )
        for name, port in draw(
            some.lists(some.tuples(NAMES, PORTS), max_size=3, unique_by=(lambda each: each[0], lambda each: each[1]))
        ):
            intent = {"country": draw(some.none() | COUNTRIES)}
            if pools and draw(some.booleans()):
                intent = {"pool": draw(some.sampled_from(pools))}
            state["listeners"].append({"name": name, "fleet": fleet, "address": "127.0.0.1", "port": port, **intent})
        for name in draw(some.lists(NAMES, max_size=3, unique=True)) if pools else []:
            state["exits"].append(
                {
                    "name": name,
                    "fleet": fleet,
                    "pool": draw(some.sampled_from(pools)),
                    "address": draw(some.sampled_from(["192.0.2.1", "2001:db8::1", "exit.example.net"])),
                    "port": draw(PORTS),
                    "bind_address": draw(some.sampled_from(["0.0.0.0", "127.0.0.9"])),
                    "egress_address": draw(some.none() | some.just("192.0.2.9")),
                    "locality": draw(LOCALITIES),
                    "weight": draw(some.integers(1, 128)),
                    "standby": draw(some.booleans()),
                    "parent": draw(some.none() | some.just({"address": "gluetun", "port": 8888})),
                    "enabled": draw(some.booleans()),
                }
            )
        for name in draw(some.lists(NAMES, max_size=3, unique=True)):
            state["routes"].append(
                {
                    "name": name,
                    "fleet": fleet,
                    "position": draw(some.integers(0, 10**6)),
                    "enabled": draw(some.booleans()),
                    "match": draw(MATCHES),
                    "action": draw(actions(pools)),
                }
            )
        for name in draw(some.lists(USERS, max_size=3, unique=True)):
            plan = draw(some.none() | some.sampled_from(plans)) if plans else None
            state["users"].append({"name": name, "fleet": fleet, "group": draw(some.none() | NAMES), "plan": plan})
    return Declared.model_validate(state)


def read(text):
    return load_texts([("state.yaml", text)]).document


@pytest.mark.slow
async def test_any_state_survives_export_prune_and_apply(api):
    loop = asyncio.get_running_loop()

    @settings(max_examples=scaled(10), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(states())
    def search(state):
        asyncio.run_coroutine_threadsafe(assert_round_trip(api, state), loop).result()

    await asyncio.to_thread(search)


async def assert_round_trip(api, state):
    await api.declared.apply(NOTHING, prune=True, approve="shrink")
    await api.declared.apply(state)
    text = await export(api)
    again = await api.declared.apply(read(text), prune=True)
    assert again.value.steps == []
    pruned = await api.declared.apply(NOTHING, prune=True, approve="shrink")
    assert {step.action for step in pruned.value.steps} <= {"deleted"}
    assert read(await export(api)) == NOTHING
    await api.declared.apply(read(text))
    assert await export(api) == text


async def export(api):
    """Export as `exitplane export` prints it."""
    return as_yaml(await api.json.get("/declared", defaults=False))
