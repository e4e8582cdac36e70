"""The check itself is put to the test: with an honest gateway it is content, and each lie of one it notices."""

import base64
import json
import re
import socket
import socketserver
import threading
from contextlib import contextmanager

import pytest

from demo.check import SENT, CheckReport, RequestCheck, check_scene, judge
from demo.errors import LabError
from demo.http_client import HttpAnswer
from demo.lab import LabSettings
from demo.processes import StopStage
from demo.setup import open_scene

HOST = "203.0.113.2"
ASKED = RequestCheck("jp", "plain", "header", f"http://{HOST}", 0)


def page(source="198.51.100.4", more=()):
    headers = [["Host", HOST], *([name, value] for name, value in SENT.items()), *more]
    return HttpAnswer(200, (), json.dumps({"source": source, "headers": headers}).encode())


def test_an_exits_address_and_no_headers_are_fine():
    found = judge(ASKED, page(), {"198.51.100.4"}, HOST)
    assert found.ok
    assert (found.status, found.source) == (200, "198.51.100.4")


def test_names_of_headers_are_compared_as_http_does():
    answer = HttpAnswer(200, (), page().body.replace(b"User-Agent", b"user-agent"))
    assert judge(ASKED, answer, {"198.51.100.4"}, HOST).ok


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (page(source="198.18.0.1"), "saw 198.18.0.1, which is no exit of jp"),
        (page(more=[("via", "1.1 envoy")]), "via: 1.1 envoy"),
        (page(more=[("x-request-id", "7")]), "x-request-id: 7"),
        (page(more=[("exit-country", "jp")]), "exit-country: jp"),
        (page(more=[("user-agent", "other")]), "user-agent: other"),
        (HttpAnswer(503, (), b"no exit", by_proxy=True), "the gateway answered 503: no exit"),
        (HttpAnswer(200, (), b"<html>"), "not the page's answer"),
        (HttpAnswer(200, (), b'{"source": "198.51.100.4"}'), "not the page's answer"),
        (HttpAnswer(200, (), b"[]"), "not the page's answer"),
    ],
)
def test_anything_else_is_a_problem(answer, problem):
    found = judge(ASKED, answer, {"198.51.100.4"}, HOST)
    assert not found.ok
    assert problem in found.problem


class Listening(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@contextmanager
def gateway(scene, *, lie=None):
    """A small proxy in the place of the gateway: leaves from the country's first exit, or lies in the way named."""
    first = {country: min(scene.egress_addresses(country)) for country in scene.countries}

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            method, target, lines = self.read_head()
            country = wish(lines)
            if country not in first and lie != "serves anybody":
                self.wfile.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 6\r\n\r\nnobody")
                return
            source = scene.host_source if lie == "leaks" else first.get(country, first["us"])
            source = first["us"] if lie == "mixes countries up" else source
            with socket.create_connection((str(scene.plan.page_address), scene.plan.page_port), 5, (source, 0)) as out:
                if method == "CONNECT":
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                    _, target, lines = self.read_head()
                lines = [line for line in lines if not re.match("(?i)exit-|proxy-", line) or lie == "tells headers"]
                path = re.sub("^http://[^/]+", "", target)
                out.sendall("\r\n".join((f"GET {path} HTTP/1.1", *lines, "connection: close", "", "")).encode())
                while data := out.recv(65536):
                    self.wfile.write(data)

        def read_head(self):
            lines = []
            while line := self.rfile.readline().decode().strip():
                lines.append(line)
            method, target, _ = lines[0].split()
            return method, target, lines[1:]

    def wish(lines):
        for line in lines:
            name, _, value = line.partition(": ")
            if name.lower() == "exit-country":
                return value
            if name.lower() == "proxy-authorization":
                return base64.b64decode(value.split()[1]).decode().partition(":")[0].rpartition("-")[2]
        return None

    host, port = scene.gateway_address.split(":")
    with Listening((host, int(port)), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            listening.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def scene():
    settings = LabSettings(exits=("us", "us", "jp"), tunnels=False, gateway_port=0, api_port=0, xds_port=0)
    with open_scene(settings) as scene:
        scene.start_page()
        yield scene


def checked(scene):
    *findings, report = check_scene(scene)
    assert isinstance(report, CheckReport)
    assert report.findings == findings
    return report


# "connection: close" is the small proxy's own, so that it need not count bytes; the check has to be told.
@pytest.fixture(autouse=True)
def allow_connection_header(monkeypatch):
    monkeypatch.setattr("demo.check.judge", lenient)


def lenient(finding, answer, expected, host):
    body = answer.body.replace(b', ["connection", "close"]', b"")
    return judge(finding, HttpAnswer(answer.status, answer.headers, body, answer.by_proxy), expected, host)


def test_a_control_plane_that_is_gone_is_named(scene, monkeypatch):
    scene.api_key_file.write_text("key")
    with pytest.raises(LabError, match=r"^GET /pools: the control plane does not answer \(.*refused"):
        scene.api("GET", "/pools")
    ended = scene.processes.start("control-plane", StopStage.CONTROL_PLANE, ("sh", "-c", "echo no room; exit 3"))
    ended.process.wait()
    monkeypatch.setattr(scene, "control_plane", ended)
    with pytest.raises(LabError, match=r"^control-plane ended with status 3\nno room"):
        scene.api("GET", "/pools")


def test_an_honest_gateway_passes(scene):
    with gateway(scene):
        report = checked(scene)
    assert report.ok, report
    # Two countries in four ways, and one that nobody serves.
    assert len(report.findings) == 9
    assert report.expected == {"us": ["127.0.64.1", "127.0.64.2"], "jp": ["127.0.64.3"]} or scene.plan.index
    assert json.loads(json.dumps(report.as_json()))["ok"] is True


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ("leaks", "the page was reached by 127.0.0.1, which is no exit"),
        ("mixes countries up", "which is no exit of jp"),
        ("tells headers", "headers that the client did not send: "),
        ("serves anybody", "nobody serves aq, and yet"),
    ],
)
def test_a_gateway_that_lies_is_found_out(scene, lie, said):
    with gateway(scene, lie=lie):
        report = checked(scene)
    assert not report.ok
    assert said in json.dumps(report.as_json(), ensure_ascii=False)


def test_no_gateway_at_all_is_found_out(scene):
    report = checked(scene)
    assert all("no answer" in finding.problem for finding in report.findings)
    assert report.as_json()["ok"] is False
