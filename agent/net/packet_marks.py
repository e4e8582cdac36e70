"""Marks of packets (SO_MARK, fwmark) that routes and the kill switch tell apart."""

from __future__ import annotations

from typing import Final

BYPASS_MARK: Final = 0x4550
"""Set on the agent's own packets and on those of a tunnel that it brings up: they alone may pass the kill switch."""
CLIENT_MARK: Final = 0x4553
"""Set by an exit's Envoy on its connections to targets: behind a kill switch they leave through the tunnel and nowhere else."""
