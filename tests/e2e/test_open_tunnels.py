"""Tests that open tunnels survive changes of configuration and restarts of the control plane."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tests.e2e.labs import BOUND_S


class Download(threading.Thread):
    """A client with an open tunnel and a continuous download in it."""

    def __init__(self, lab, country: str) -> None:
        super().__init__(daemon=True)
        self.received = 0
        self.error: str | None = None
        self._stop_asked = False
        host, port = lab.gateway_address.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), timeout=BOUND_S)
        page = lab.page_address
        self._socket.sendall(f"CONNECT {page} HTTP/1.1\r\nHost: {page}\r\nexit-country: {country}\r\n\r\n".encode())
        assert b" 200 " in self._socket.recv(4096)
        # rate-limited to an hour, so that the stream does not end by itself
        self._socket.sendall(f"GET /bytes?n=900000000&bps=250000 HTTP/1.1\r\nHost: {page}\r\n\r\n".encode())

    def run(self) -> None:
        try:
            while not self._stop_asked:
                chunk = self._socket.recv(65536)
                if not chunk:
                    self.error = "the tunnel was closed"
                    return
                self.received += len(chunk)
        except OSError as error:
            self.error = f"the tunnel broke: {error!r}"

    def stop(self) -> None:
        self._stop_asked = True
        self.join(BOUND_S)
        self._socket.close()


@contextmanager
def downloading(lab, country: str):
    download = Download(lab, country)
    download.start()
    try:
        yield download
    finally:
        download.stop()


def is_still_moving(download: Download, eventually) -> bool:
    before = download.received
    eventually(lambda: download.error or download.received > before + 100_000)
    return download.error is None


def test_open_tunnel_survives_a_hundred_changes(lab, eventually, stat):
    created = stat(lab.gateway, "listener_manager.listener_create_success")
    proxies = (lab.gateway, *lab.exits)
    modified = [stat(each, "listener_manager.listener_modified") for each in proxies]
    countries = ["fr", "de", "it", "es", "pt", "nl", "be", "at", "ch", "se", "no", "fi", "dk", "pl", "cz", "hu", "ro"]

    def serves(country: str) -> bool:
        return country in lab.request(None, tunnel=False).text.rpartition("served are: ")[2].split(", ")

    with downloading(lab, "gb") as download:
        for number in range(25):
            country = countries[number % len(countries)]
            pool = lab.api("POST", "/pools", {"name": f"extra-{number}", "fleet": "demo", "country": country})
            spare = lab.api(
                "POST",
                "/exits",
                {"name": f"spare-{number}", "pool": pool["id"], "address": "192.0.2.250", "port": 8443},
            )
            lab.api("PATCH", f"/pools/{_pool(lab, 'gb')}", {"name": f"gb-{number}"})
            if number % 5 == 0:  # the others may reach Envoy together
                eventually(lambda country=country: serves(country))
            lab.api("DELETE", f"/exits/{spare['id']}")
            lab.api("DELETE", f"/pools/{pool['id']}")
        lab.api("PATCH", f"/pools/{_pool(lab, 'gb')}", {"name": "gb"})
        # the last change has arrived, and the drain time of 2 s has passed for any listener that was drained
        eventually(lambda: not any(map(serves, countries)))
        moved_until = time.monotonic() + 3
        eventually(lambda: download.error or time.monotonic() > moved_until)
        assert is_still_moving(download, eventually), download.error
    assert stat(lab.gateway, "listener_manager.listener_create_success") == created
    # an earlier module with the same lab may have changed a listener
    assert [stat(each, "listener_manager.listener_modified") for each in proxies] == modified


def test_open_tunnel_survives_the_end_of_thousands_of_others(lab, stat):
    """Each has a connection of its own to the exit. HTTP/2 would close a shared one after 1,000 streams that clients ended."""
    (exit_,) = [each for each in lab.exits if each.country == "gb"]
    before = stat(exit_, "http.gateways.downstream_cx_protocol_error")
    host, port = lab.gateway_address.rsplit(":", 1)
    page = lab.page_address

    def open_and_leave(_number: int) -> bytes:
        with socket.create_connection((host, int(port)), timeout=BOUND_S) as tunnel:
            tunnel.sendall(f"CONNECT {page} HTTP/1.1\r\nHost: {page}\r\nexit-country: gb\r\n\r\n".encode())
            return tunnel.recv(4096).partition(b"\r\n")[0]

    with downloading(lab, "gb") as download, ThreadPoolExecutor(4) as clients:
        answers = set(clients.map(open_and_leave, range(4000)))
        assert download.error is None
    assert answers == {b"HTTP/1.1 200 OK"}
    assert stat(exit_, "http.gateways.downstream_cx_protocol_error") == before


def test_changed_listener_cuts_open_tunnels(lab, eventually, stat):
    """Show that the test above can fail: a modified listener closes its tunnels after the drain time of 2 s."""
    fleet = lab.api("GET", "/fleets/demo")
    host, port = fleet["listener"]["address"], fleet["listener"]["port"]
    other = "127.0.0.2" if host == "127.0.0.1" else "127.0.0.1"
    with downloading(lab, "gb") as download:
        lab.api("PATCH", "/fleets/demo", {"listener": {"address": other, "port": port}})
        eventually(lambda: download.error)
    lab.api("PATCH", "/fleets/demo", {"listener": {"address": host, "port": port}})
    lab.wait_until_serving()


def _pool(lab, country: str) -> str:
    return next(pool["id"] for pool in lab.api("GET", "/pools")["items"] if pool["country"] == country)


UPDATES = (
    "cluster_manager.cds.update_success",
    "listener_manager.lds.update_success",
    "rds.gateway_routes.update_success",
)


def test_restart_of_the_control_plane_updates_no_envoy(lab, eventually, stat, run_clients, remove_pool):
    names = [*UPDATES, "cluster.pool/.*.update_success"]

    def updates() -> list[int]:
        return [stat(lab.gateway, name) for name in names]

    before = updates()
    connected = "control_plane.connected_state"
    with run_clients("us") as clients, downloading(lab, "gb") as download:
        lab.kill_control_plane()
        count = len(clients.answers)
        eventually(lambda: len(clients.answers) > count + 50)
        lab.start_control_plane()
        eventually(lambda: stat(lab.gateway, connected) == 1)
        for exit_ in lab.exits:
            eventually(lambda exit_=exit_: stat(exit_, connected) == 1)
        lab.wait_until_healthy()
        assert is_still_moving(download, eventually), download.error
    assert clients.failures(since=0) == []
    assert updates() == before
    pool = lab.api("POST", "/pools", {"name": "next", "fleet": "demo", "country": "fr"})
    eventually(lambda: updates() != before)
    remove_pool(pool["id"])
