"""Apprise: whether it understands a URL, and sending with it. It is imported at the first call, for it takes 0.3 s and 20 MB."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final, Self

from model.channel_urls import SERVICES

TIMEOUT_S: Final = 30.0
"""The time after which a call counts as failed."""


class NotSent(Exception):
    """An attempt failed. The message is for people, without secrets."""


def understands(url: str) -> bool:
    """Tell whether Apprise can send to a URL of one of SERVICES, as far as the URL tells. It blocks."""
    with _Warnings():
        return _open(url) is not None


def _open(url: str) -> Any:
    """Return Apprise's sender for a URL; None for a URL that it does not understand.

    Apprise itself would import all of its plugins to find the one of a scheme, which takes seconds.
    """
    plugin = SERVICES[url.partition("://")[0].lower()]
    sender = getattr(import_module(f"apprise.plugins.{plugin.module}"), plugin.name)
    parts = sender.parse_url(url)
    try:
        return sender(**parts, asset=_asset()) if parts else None
    except TypeError:  # Apprise's error for a part that is missing or malformed
        return None


_APPRISE_KINDS: Final = {"alert": "failure", "recovery": "success", "news": "info"}


def notify(url: str, content: Mapping[str, Any]) -> None:
    """Send a message with Apprise, which blocks. Raises NotSent."""
    import apprise

    with _Warnings() as warnings:
        service, sender = _open(url), apprise.Apprise(asset=_asset())
        if service is None or not sender.add(service):
            raise NotSent("Apprise does not understand the URL")
        sent = sender.notify(
            body=content["body"],
            title=content["title"],
            notify_type=_APPRISE_KINDS.get(content.get("kind", ""), "info"),
            body_format=apprise.NotifyFormat.TEXT,  # what the text contains is no markup, and is escaped where a service has some
        )
        if not sent:
            raise NotSent(warnings.last or "the service refused the message")


def _asset() -> Any:
    """Return Apprise's settings: no files, no redirects, and no keys that it makes itself."""
    import apprise

    return apprise.AppriseAsset(
        app_id="Exitplane",
        app_desc="Exitplane",
        app_url="",
        async_mode=False,
        http_redirects=False,
        pgp_autogen=False,
        pem_autogen=False,
        storage_mode="memory",
        service_timeout=0,  # otherwise it waits for a thread of a pool, which would keep the process from ending
    )


class _Warnings(logging.Handler):
    """Keeps the last warning that Apprise logs in this thread: its calls return nothing but False."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.last = record.getMessage()

    def __enter__(self) -> Self:
        logger = logging.getLogger("apprise")
        logger.propagate = False  # its records may contain parts of URLs
        logger.addHandler(self)
        return self

    def __exit__(self, *failure: object) -> None:
        logging.getLogger("apprise").removeHandler(self)
