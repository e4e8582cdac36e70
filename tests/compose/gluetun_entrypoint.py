"""The stand-in for gluetun, on gluetun's own ports: its control API and HTTP proxy, with the secrets that docker-compose.yml gives it.

Its tunnel is the direct way to the demo's internet, by the provider's address in the network of gluetun's FIREWALL_OUTBOUND_SUBNETS.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tomllib
from ipaddress import IPv4Network
from pathlib import Path

from tests.gluetun import GluetunStandIn

SECRETS = Path("/gluetun/auth")


def add_route() -> None:
    provider = str(IPv4Network(os.environ["FIREWALL_OUTBOUND_SUBNETS"])[14])
    subprocess.run(("ip", "route", "add", "203.0.113.0/28", "via", provider), check=True)


async def main() -> None:
    (role,) = tomllib.loads((SECRETS / "config.toml").read_text())["roles"]
    stand_in = GluetunStandIn(
        username=(SECRETS / "httpproxy_user").read_text(),
        password=(SECRETS / "httpproxy_password").read_text(),
        api_key=role["apikey"],
        stealth=True,
        country="Germany",
    )
    proxy = await asyncio.start_server(stand_in._guarded(stand_in._proxy), "127.0.0.1", 8888)
    control = await asyncio.start_server(stand_in._guarded(stand_in._control), "127.0.0.1", 8000)
    async with proxy, control:
        await asyncio.gather(proxy.serve_forever(), control.serve_forever())


if __name__ == "__main__":
    add_route()
    asyncio.run(main())
