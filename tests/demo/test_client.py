import socket
import socketserver
import threading
from contextlib import contextmanager

import pytest

from demo.http_client import fetch, fetch_through, user_headers


@contextmanager
def server(*answers):
    """A server that gives each connection the answers in turn, one for each head that it reads."""
    heads = []

    class Handler(socketserver.StreamRequestHandler):
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

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as listening:
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


def test_straight():
    with server(OK) as (address, heads):
        answer = fetch(f"http://{address}/x?y=1", headers={"X-A": "b"})
    assert (answer.status, answer.text, dict(answer.headers)["x-who"]) == (200, "hello", "page")
    assert heads[0].startswith("GET /x?y=1 HTTP/1.1\r\n")


def test_an_environment_with_a_proxy_changes_nothing(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with server(OK) as (address, _):
        assert fetch(f"http://{address}/").status == 200


def test_a_plain_proxy_request_names_the_whole_target():
    with server(OK) as (address, heads):
        answer = fetch_through(address, "http://203.0.113.2/x", tunnel=False, proxy_headers={"exit-country": "jp"})
    assert answer.text == "hello"
    assert heads[0].startswith("GET http://203.0.113.2/x HTTP/1.1\r\nHost: 203.0.113.2\r\n")
    assert "exit-country: jp" in heads[0]


def test_a_tunnel_keeps_the_proxys_headers_from_the_target():
    with server(OPENED, OK) as (address, heads):
        answer = fetch_through(
            address, "http://203.0.113.2/x", tunnel=True, proxy_headers=user_headers("demo-country-jp")
        )
    assert (answer.text, answer.by_proxy) == ("hello", False)
    assert heads[0].startswith("CONNECT 203.0.113.2:80 HTTP/1.1\r\nHost: 203.0.113.2:80\r\n")
    assert "Proxy-Authorization: Basic ZGVtby1jb3VudHJ5LWpwOng=" in heads[0]
    assert heads[1].startswith("GET /x HTTP/1.1\r\nHost: 203.0.113.2\r\n")
    assert "authorization" not in heads[1].lower()


def test_a_refused_tunnel_is_the_gateways_answer():
    with server(REFUSED) as (address, _):
        answer = fetch_through(address, "http://203.0.113.2/", tunnel=True, proxy_headers={})
    assert (answer.status, answer.text, answer.by_proxy) == (503, "no exit", True)


def test_a_tunnel_that_breaks_is_never_mended_by_going_straight():
    with server(OK) as (page, seen), server(OPENED) as (gateway, _):
        with pytest.raises(OSError, match="without response"):
            fetch_through(gateway, f"http://{page}/", tunnel=True, proxy_headers={})
        assert seen == []


@pytest.mark.parametrize("tunnel", [True, False])
def test_nonsense_is_an_error_of_the_network(tunnel):
    with server(b"what?\r\n\r\n") as (address, _), pytest.raises(OSError, match="no proper answer"):
        fetch_through(address, "http://203.0.113.2/", tunnel=tunnel, proxy_headers={})


def test_silence_has_a_bound():
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(OSError, match="timed out"):
        fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout_s=0.1)
