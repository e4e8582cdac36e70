"""Services on loopback with answers that a test sets: sources over HTTP, and resolvers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import dns.message
import dns.rrset
import pytest
from aiohttp import web
from yarl import URL

from agent.config.settings import ExitSettings
from agent.egress.types import Location, SeenAddress
from model.endpoint import Endpoint

IPINFO = {
    "ip": "198.51.100.9",
    "country": "US",
    "city": "Ashburn",
    "org": "AS64500 Example",
    "timezone": "America/New_York",
}
IP_API = {
    "status": "success",
    "query": "198.51.100.9",
    "country": "United States",
    "countryCode": "US",
    "city": "Ashburn",
    "isp": "AS64500 Example",
    "timezone": "America/New_York",
}
SEEN = SeenAddress("198.51.100.9", Location("us", "Ashburn", "AS64500 Example", "America/New_York"))


def an_exit(*sources: URL, **more) -> ExitSettings:
    return ExitSettings("us", "192.0.2.1", 8443, sources=sources, **more)


class HttpSource:
    """An HTTP server that gives the answer that the test set, for any path."""

    def __init__(self) -> None:
        self.answers: list[web.Response] = []
        self.clients: list[str] = []
        """The source address of each request."""
        self.paths: list[str] = []
        self.url = URL()

    def respond(self, answer: object) -> None:
        self.answers = [web.json_response(answer)] if not isinstance(answer, web.Response) else [answer]

    async def answer(self, request: web.Request) -> web.Response:
        self.clients.append(request.remote)
        self.paths.append(request.path)
        template = self.answers[0]
        return web.Response(status=template.status, body=template.body, headers=template.headers)


@pytest.fixture
async def make_source():
    """A function `await make_source(host)` that starts one more source on a loopback address."""
    runners = []

    async def make(host: str = "127.0.0.1", answer: object = IPINFO) -> HttpSource:
        made = HttpSource()
        app = web.Application()
        app.router.add_get("/{path:.*}", made.answer)
        runner = web.AppRunner(app)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, host, 0).start()
        port = runner.addresses[0][1]
        made.url = URL.build(scheme="http", host=host, port=port, path="/json")
        made.respond(answer)
        return made

    yield make
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def source(make_source):
    return await make_source()


Reply = Callable[[dns.message.Message], list[bytes]]


@dataclass
class Resolver(asyncio.DatagramProtocol):
    """A DNS server over UDP and TCP with the answers that the test set."""

    reply: Reply
    by_tcp: Reply | None = None
    queries: list[tuple[str, str]] = field(default_factory=list)
    """The name and the type of each query."""
    endpoint: Endpoint | None = None

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        for answer in self.reply(self.note(data)):
            self.transport.sendto(answer, addr)

    async def serve(self, reader, writer):
        query = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        for answer in self.by_tcp(self.note(query)):
            writer.write(answer)
        await writer.drain()
        writer.close()

    def note(self, data):
        query = dns.message.from_wire(data)
        question = query.question[0]
        self.queries.append((question.name.to_text(omit_final_dot=True), question.rdtype.name))
        return query


def answering(*records: str) -> Reply:
    """Build a reply with records in the form of zone files (`A 192.0.2.1`), for queries of their type alone."""

    def reply(query: dns.message.Message) -> list[bytes]:
        answer, question = dns.message.make_response(query), query.question[0]
        for record in records:
            kind, _, text = record.partition(" ")
            if kind == question.rdtype.name:
                answer.answer.append(dns.rrset.from_text(question.name, 1, "IN", kind, text))
        return [answer.to_wire()]

    return reply


async def _listen_by_udp_and_tcp(resolver: Resolver) -> tuple[asyncio.Server, asyncio.BaseTransport, int]:
    """Listen on one port with TCP and UDP. A port that is free for UDP may be taken for TCP, so it retries."""
    loop = asyncio.get_running_loop()
    while True:
        transport, _ = await loop.create_datagram_endpoint(lambda: resolver, local_addr=("127.0.0.1", 0))
        port = transport.get_extra_info("sockname")[1]
        try:
            return await asyncio.start_server(resolver.serve, "127.0.0.1", port), transport, port
        except OSError:
            transport.close()


@pytest.fixture
async def make_resolver():
    """A function `await make_resolver(reply)` that starts a resolver on loopback."""
    made = []

    async def make(reply: Reply, by_tcp: Reply | None = None) -> Resolver:
        resolver = Resolver(reply, by_tcp)
        server, transport, port = await _listen_by_udp_and_tcp(resolver)
        resolver.endpoint = Endpoint("127.0.0.1", port)
        made.append((server, transport))
        return resolver

    yield make
    for server, transport in made:
        transport.close()
        server.close()
