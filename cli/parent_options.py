"""The options of `exitplane agent` that say which proxy an exit goes through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.config.credentials import read_credentials, read_key
from agent.config.option_parsing import BadSetting, read_endpoint, read_url
from agent.egress.parent_proxy import ParentProxy
from agent.gluetun.client import GluetunAccess


def read_parent(placed: Mapping[str, Any]) -> ParentProxy | None:
    """The HTTP proxy that an exit goes through. Raises BadSetting."""
    place, credentials = placed["--parent"], placed["--parent-credentials"]
    if place is None:
        if credentials is not None:
            raise BadSetting("--parent-credentials without a parent", hint="add --parent HOST:PORT")
        return None
    known = None if credentials is None else read_credentials("--parent-credentials", credentials)
    return ParentProxy(read_endpoint("--parent", place), known, credentials)


def read_gluetun(placed: Mapping[str, Any]) -> GluetunAccess | None:
    """How gluetun's control API is asked. Raises BadSetting."""
    url, key, credentials = (placed[f"--gluetun{name}"] for name in ("", "-key-file", "-credentials"))
    if url is None:
        if key is not None or credentials is not None:
            raise BadSetting("a key or credentials of gluetun without gluetun", hint="add --gluetun URL")
        return None
    if key is not None and credentials is not None:
        raise BadSetting("--gluetun-key-file and --gluetun-credentials", hint="give the one that gluetun asks for")
    return GluetunAccess(
        read_url("--gluetun", url),
        None if key is None else read_key("--gluetun-key-file", key),
        None if credentials is None else read_credentials("--gluetun-credentials", credentials),
    )
