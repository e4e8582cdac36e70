"""What proxies say of themselves, and what they are answered."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from api.values import Text, View, Wish
from model.world import ExitState

UpOrDown = Literal["up", "down"]


class HeartbeatIn(Wish):
    envoy: UpOrDown = Field(description="Whether the proxy's Envoy is live.")
    leaving: bool = Field(default=False, description="The proxy is about to stop on purpose: offer it to nobody.")
    reason: Annotated[Text, Field(max_length=500)] = Field(default="", description="Why something is down.")
    version: Annotated[Text, Field(max_length=64)] = Field(default="", description="The agent's version.")


class ExitHeartbeatIn(HeartbeatIn):
    """What the agent beside a tunnel says."""

    tunnel: UpOrDown = Field(description="Whether traffic leaves through the tunnel.")


class ProxyHeartbeatIn(HeartbeatIn):
    """What the agent of any proxy says; gateways have no tunnel."""

    tunnel: UpOrDown = "up"


class HeartbeatOut(View):
    state: ExitState | None = Field(description="How the control plane sees the exit; null for a gateway.")
    interval_s: int = Field(description="When to send the next, in seconds.")
