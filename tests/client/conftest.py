"""Fixtures: a running API and a client of it."""

from __future__ import annotations

from tests.api_server import api, authority, plane

__all__ = ["api", "authority", "plane"]
