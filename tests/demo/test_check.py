"""Tests of the demo's check: it accepts a correct gateway, and detects each fault of a wrong one."""

import base64
import json
import re
import socket
import socketserver
import threading
from contextlib import contextmanager

import pytest

from demo.check import SENT, CheckReport, RequestCheck, check_lab, evaluate
from demo.errors import LabError
from demo.http_client import HttpAnswer
from demo.lab import LabSettings
from demo.processes import StopStage
from demo.setup import open_lab

HOST = "203.0.113.2"
ASKED = RequestCheck("jp", "plain", "header", f"http://{HOST}", 0)


def page(source="198.51.100.4", more=()):
    headers = [["Host", HOST], *([name, value] for name, value in SENT.items()), *more]
    return HttpAnswer(200, (), json.dumps({"source": source, "headers": headers}).encode())


def test_evaluate_accepts_an_exits_address_without_added_headers():
    found = evaluate(ASKED, page(), {"198.51.100.4"}, HOST)
    assert found.ok
    assert (found.status, found.source) == (200, "198.51.100.4")


def test_evaluate_compares_header_names_without_case():
    answer = HttpAnswer(200, (), page().body.replace(b"User-Agent", b"user-agent"))
    assert evaluate(ASKED, answer, {"198.51.100.4"}, HOST).ok


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
def test_evaluate_reports_any_other_answer(answer, problem):
    found = evaluate(ASKED, answer, {"198.51.100.4"}, HOST)
    assert not found.ok
    assert problem in found.problem


class ThreadedServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@contextmanager
def gateway(lab, *, fault=None):
    """Run a small proxy as the gateway: it connects from the country's first exit, or has the given fault."""
    first = {country: min(lab.egress_addresses(country)) for country in lab.countries}

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            method, target, lines = self.read_head()
            country = requested_country(lines)
            if country not in first and fault != "serves any country":
                self.wfile.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 6\r\n\r\nnobody")
                return
            source = lab.host_source if fault == "leaks" else first.get(country, first["us"])
            source = first["us"] if fault == "confuses countries" else source
            with socket.create_connection((str(lab.plan.page_address), lab.plan.page_port), 5, (source, 0)) as out:
                if method == "CONNECT":
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                    _, target, lines = self.read_head()
                lines = [
                    line for line in lines if not re.match("(?i)exit-|proxy-", line) or fault == "forwards headers"
                ]
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

    def requested_country(lines):
        for line in lines:
            name, _, value = line.partition(": ")
            if name.lower() == "exit-country":
                return value
            if name.lower() == "proxy-authorization":
                return base64.b64decode(value.split()[1]).decode().partition(":")[0].rpartition("-")[2]
        return None

    host, port = lab.gateway_address.split(":")
    with ThreadedServer((host, int(port)), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            listening.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def lab():
    settings = LabSettings(exits=("us", "us", "jp"), tunnels=False, gateway_port=0, api_port=0, xds_port=0)
    with open_lab(settings) as lab:
        lab.start_page()
        yield lab


def run_check(lab):
    *findings, report = check_lab(lab)
    assert isinstance(report, CheckReport)
    assert report.findings == findings
    return report


# The small proxy adds "connection: close" so that it need not count bytes; the check must ignore that.
@pytest.fixture(autouse=True)
def allow_connection_header(monkeypatch):
    monkeypatch.setattr("demo.check.evaluate", evaluate_without_connection_header)


def evaluate_without_connection_header(finding, answer, expected, host):
    body = answer.body.replace(b', ["connection", "close"]', b"")
    return evaluate(finding, HttpAnswer(answer.status, answer.headers, body, answer.by_proxy), expected, host)


def test_lab_reports_a_control_plane_that_ended(lab, monkeypatch):
    lab.api_key_file.write_text("key")
    with pytest.raises(LabError, match=r"^GET /pools: the control plane does not answer \(.*refused"):
        lab.api("GET", "/pools")
    ended = lab.processes.start("control-plane", StopStage.CONTROL_PLANE, ("sh", "-c", "echo no room; exit 3"))
    ended.process.wait()
    monkeypatch.setattr(lab, "control_plane", ended)
    with pytest.raises(LabError, match=r"^control-plane ended with status 3\nno room"):
        lab.api("GET", "/pools")


def test_check_accepts_a_correct_gateway(lab):
    with gateway(lab):
        report = run_check(lab)
    assert report.ok, report
    # two countries with four methods, and one that no pool serves
    assert len(report.findings) == 9
    assert report.expected == {"us": ["127.0.64.1", "127.0.64.2"], "jp": ["127.0.64.3"]} or lab.plan.index
    assert json.loads(json.dumps(report.as_json()))["ok"] is True


@pytest.mark.parametrize(
    ("fault", "expected_text"),
    [
        ("leaks", "the page was reached by 127.0.0.1, which is no exit"),
        ("confuses countries", "which is no exit of jp"),
        ("forwards headers", "headers that the client did not send: "),
        ("serves any country", "no pool serves aq, but"),
    ],
)
def test_check_detects_a_wrong_gateway(lab, fault, expected_text):
    with gateway(lab, fault=fault):
        report = run_check(lab)
    assert not report.ok
    assert expected_text in json.dumps(report.as_json(), ensure_ascii=False)


def test_check_detects_a_missing_gateway(lab):
    report = run_check(lab)
    assert all("no answer" in finding.problem for finding in report.findings)
    assert report.as_json()["ok"] is False
