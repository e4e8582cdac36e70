"""A client of Telegram's Bot API (https://core.telegram.org/bots/api#making-requests)."""

from __future__ import annotations

import json
from typing import Any, Final, Self

import aiohttp

from model.errors import ExitplaneError

POLL_S: Final = 25
"""The time for which getUpdates waits at Telegram when there is no update."""
UPDATES_AT_ONCE: Final = 50
_TIMEOUT_S: Final = 10.0
_ANSWER_BYTES_MAX: Final = 4_000_000


class TelegramRefused(ExitplaneError):
    """Telegram refused a request, or did not answer. The message never contains the token.

    `retry_after_s` is how long Telegram asks to wait; 0: it does not say.
    """

    code = "telegram_refused"

    def __init__(self, message: str, retry_after_s: float = 0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BotApi:
    """The methods that the bot uses. It is an async context manager."""

    def __init__(self, base_url: str, token: str) -> None:
        self._base = f"{base_url}/bot{token}"

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(_TIMEOUT_S))
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._http.close()

    async def get_me(self) -> tuple[int, str]:
        """Return the bot's id and its user name. Raises TelegramRefused."""
        me = await self._call("getMe", {})
        if not isinstance(me, dict) or type(me.get("id")) is not int or not isinstance(me.get("username"), str):
            raise TelegramRefused("getMe: the answer has no id or no user name")
        return me["id"], me["username"]

    async def get_updates(self, offset: int, poll_s: float = POLL_S) -> list[Any]:
        """Wait for updates from an id on. Telegram forgets those below it. Raises TelegramRefused."""
        given = {"offset": offset, "limit": UPDATES_AT_ONCE, "timeout": int(poll_s), "allowed_updates": ["message"]}
        updates = await self._call("getUpdates", given, _TIMEOUT_S + poll_s)
        if not isinstance(updates, list):
            raise TelegramRefused("getUpdates: the answer is no list")
        return updates

    async def send_message(self, chat: int, text: str) -> None:
        """Send plain text: without `parse_mode` nothing in it is markup. Raises TelegramRefused."""
        await self._call("sendMessage", {"chat_id": chat, "text": text, "link_preview_options": {"is_disabled": True}})

    async def _call(self, method: str, parameters: dict[str, Any], timeout_s: float = _TIMEOUT_S) -> Any:
        timeout = aiohttp.ClientTimeout(timeout_s)
        try:
            async with self._http.post(
                f"{self._base}/{method}", json=parameters, timeout=timeout, allow_redirects=False
            ) as reply:
                answer = json.loads(await _read(reply))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise TelegramRefused(f"{method}: Telegram cannot be reached ({type(error).__name__})") from None
        except ValueError:
            raise TelegramRefused(f"{method}: the answer with status {reply.status} is no JSON") from None
        if not isinstance(answer, dict) or answer.get("ok") is not True:
            raise _refused(method, answer if isinstance(answer, dict) else {})
        return answer.get("result")


async def _read(reply: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in reply.content.iter_any():
        content += chunk
        if len(content) > _ANSWER_BYTES_MAX:
            raise ValueError("the answer is too long")
    return bytes(content)


def _refused(method: str, answer: dict[str, Any]) -> TelegramRefused:
    parameters = answer.get("parameters")
    retry_after = parameters.get("retry_after") if isinstance(parameters, dict) else None
    text = f"{method}: {answer.get('error_code')} {str(answer.get('description'))[:200]}"
    return TelegramRefused(text, retry_after if type(retry_after) is int else 0)
