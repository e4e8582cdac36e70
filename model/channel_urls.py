"""The URLs of channels: which services are served, which options they may have, and which hosts are dialled. Pure.

Apprise serves more than a hundred services. Some read files or start programs on the control plane's host, so only those below are
served, with options that name neither files nor redirects (docs/messages.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from model.errors import ExitplaneError

WEBHOOK: Final = "webhook"


class ServicePlugin(NamedTuple):
    """The part of Apprise that serves a scheme. `own_host`: the URL names the host of the server, which anybody may run."""

    module: str
    name: str
    own_host: bool = False


_EMAIL = ServicePlugin("email", "NotifyEmail", own_host=True)
_NTFY = ServicePlugin("ntfy", "NotifyNtfy", own_host=True)
_GOTIFY = ServicePlugin("gotify", "NotifyGotify", own_host=True)
_MATRIX = ServicePlugin("matrix", "NotifyMatrix", own_host=True)
_MATTERMOST = ServicePlugin("mattermost", "NotifyMattermost", own_host=True)
_ROCKET_CHAT = ServicePlugin("rocketchat", "NotifyRocketChat", own_host=True)
SERVICES: Final[Mapping[str, ServicePlugin]] = {
    "tgram": ServicePlugin("telegram", "NotifyTelegram"),
    "slack": ServicePlugin("slack", "NotifySlack"),
    "discord": ServicePlugin("discord", "NotifyDiscord"),
    "gchat": ServicePlugin("google_chat", "NotifyGoogleChat"),
    "webex": ServicePlugin("webexteams", "NotifyWebexTeams"),
    "pover": ServicePlugin("pushover", "NotifyPushover"),
    "pbul": ServicePlugin("pushbullet", "NotifyPushBullet"),
    "pagerduty": ServicePlugin("pagerduty", "NotifyPagerDuty"),
    "opsgenie": ServicePlugin("opsgenie", "NotifyOpsgenie"),
    "zulip": ServicePlugin("zulip", "NotifyZulip"),
    **dict.fromkeys(("mailto", "mailtos"), _EMAIL),
    **dict.fromkeys(("ntfy", "ntfys"), _NTFY),
    **dict.fromkeys(("gotify", "gotifys"), _GOTIFY),
    **dict.fromkeys(("matrix", "matrixs"), _MATRIX),
    **dict.fromkeys(("mmost", "mmosts"), _MATTERMOST),
    **dict.fromkeys(("rocket", "rockets"), _ROCKET_CHAT),
}
"""The services by the scheme of their URLs. No other part of Apprise is ever imported."""
_OPTIONS: Final = frozenset(
    {
        *("to", "from", "cc", "bcc", "reply", "name", "smtp", "user", "pass", "mode", "format", "overflow"),
        *("topic", "silent", "preview", "priority", "sound", "channel", "channels", "thread", "token", "tags"),
        *("content", "botname", "avatar", "region", "msgtype", "version", "v", "image"),
    }
)
"""Options of all services together."""


class BadChannelUrl(ExitplaneError):
    code = "bad_channel_url"


def service_of(url: str) -> str:
    """Return the service of a channel's URL: `webhook` for http and https, otherwise the scheme. Raises BadChannelUrl.

    The errors never contain the URL, which holds secrets.
    """
    scheme = url.partition("://")[0].lower()
    if not url.isascii() or not url.isprintable() or " " in url:
        raise BadChannelUrl("the URL contains a space or another character that no URL has", hint="percent-encode it")
    if scheme in ("http", "https"):
        return _check_webhook(url)
    if scheme not in SERVICES:
        raise BadChannelUrl(
            "this service is not served", hint=f"begin the URL with https:// or one of {', '.join(sorted(SERVICES))}"
        )
    try:
        options = {name.lower() for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    except ValueError:
        raise BadChannelUrl("this is no URL", hint="see the example of the service in docs/messages.md") from None
    if unknown := sorted(options - _OPTIONS):
        raise BadChannelUrl(
            f"the option {unknown[0][:50]} is not served",
            hint=f"leave it out; served are {', '.join(sorted(_OPTIONS))}",
        )
    return scheme


def _check_webhook(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_good = bool(parts.hostname) and parts.port != 0 and not parts.fragment
    except ValueError:
        is_good = False
    if not is_good:
        raise BadChannelUrl("this is no URL of a webhook", hint="write https://host/path, without a fragment")
    return WEBHOOK


def hosts_of(url: str) -> list[str]:
    """Return the hosts that a good URL itself names and that are dialled; empty for a service that has its own."""
    parts = urlsplit(url)
    plugin = SERVICES.get(parts.scheme)
    if plugin is not None and not plugin.own_host:
        return []
    named = [value for name, value in parse_qsl(parts.query) if name.lower() == "smtp"]
    return [host for host in (parts.hostname, *named) if host]


def redact(text: str, url: str, *more: str | None) -> str:
    """Replace the parts of a URL, and `more` secrets, in a text that others may read."""
    parts = urlsplit(url)
    named = [value for _, value in parse_qsl(parts.query)]
    secrets = [url, parts.netloc, parts.username, parts.password, parts.path, *parts.path.split("/"), *named, *more]
    if not hosts_of(url):
        secrets.append(parts.hostname)  # a token stands in its place
    for each in sorted({each for each in secrets if each and len(each) >= 4}, key=len, reverse=True):
        text = text.replace(each, "***")
    return text
