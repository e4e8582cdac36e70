"""Tests of the demo's HTTP client."""

import socket
import socketserver
import threading
from contextlib import contextmanager

import pytest

from demo.http_client import fetch, fetch_through, user_headers


@contextmanager
def server(*answers):
    """Run a server that sends the answers in turn on each connection, one for each request head."""
    heads = []

    class EchoHandler(socketserver.StreamRequestHandler):
        def handle(self):
            for answer in answers:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    line = self.rfile.readline()
                    if not line:
                        return
                    head += line
                heads.append(head.decode())
                self.wfile.write(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), EchoHandler) as listening:
        listening.daemon_threads = True
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{listening.server_address[1]}", heads
        finally:
            listening.shutdown()
            thread.join()


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-who: page\r\n\r\nhello"
OPENED = b"HTTP/1.1 200 OK\r\n\r\n"
REFUSED = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 7\r\n\r\nno exit"


def test_fetch_sends_a_request_to_the_server():
    with server(OK) as (address, heads):
        answer = fetch(f"http://{address}/x?y=1", headers={"X-A": "b"})
    assert (answer.status, answer.text, dict(answer.headers)["x-who"]) == (200, "hello", "page")
    assert heads[0].startswith("GET /x?y=1 HTTP/1.1\r\n")


def test_fetch_ignores_a_proxy_of_the_environment(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with server(OK) as (address, _):
        assert fetch(f"http://{address}/").status == 200


def test_plain_proxy_request_has_the_absolute_target():
    with server(OK) as (address, heads):
        answer = fetch_through(address, "http://203.0.113.2/x", tunnel=False, proxy_headers={"exit-country": "jp"})
    assert answer.text == "hello"
    assert heads[0].startswith("GET http://203.0.113.2/x HTTP/1.1\r\nHost: 203.0.113.2\r\n")
    assert "exit-country: jp" in heads[0]


def test_tunnel_hides_proxy_headers_from_the_target():
    with server(OPENED, OK) as (address, heads):
        answer = fetch_through(
            address, "http://203.0.113.2/x", tunnel=True, proxy_headers=user_headers("demo-country-jp")
        )
    assert (answer.text, answer.by_proxy) == ("hello", False)
    assert heads[0].startswith("CONNECT 203.0.113.2:80 HTTP/1.1\r\nHost: 203.0.113.2:80\r\n")
    assert "Proxy-Authorization: Basic ZGVtby1jb3VudHJ5LWpwOng=" in heads[0]
    assert heads[1].startswith("GET /x HTTP/1.1\r\nHost: 203.0.113.2\r\n")
    assert "authorization" not in heads[1].lower()


def test_refused_tunnel_returns_the_gateways_answer():
    with server(REFUSED) as (address, _):
        answer = fetch_through(address, "http://203.0.113.2/", tunnel=True, proxy_headers={})
    assert (answer.status, answer.text, answer.by_proxy) == (503, "no exit", True)


def test_broken_tunnel_is_never_replaced_by_a_direct_connection():
    with server(OK) as (page, heads), server(OPENED) as (gateway, _):
        with pytest.raises(OSError, match="without response"):
            fetch_through(gateway, f"http://{page}/", tunnel=True, proxy_headers={})
        assert heads == []


@pytest.mark.parametrize("tunnel", [True, False])
def test_invalid_answer_raises_os_error(tunnel):
    with server(b"what?\r\n\r\n") as (address, _), pytest.raises(OSError, match="invalid answer"):
        fetch_through(address, "http://203.0.113.2/", tunnel=tunnel, proxy_headers={})


def test_silent_server_times_out():
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(OSError, match="timed out"):
        fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout_s=0.1)
