"""`exitplane login`, `logout` and `whoami`."""

from __future__ import annotations

import json
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from cli import credentials
from cli.credentials import ApiRefused, BadCredentials, Login
from model.errors import ExitplaneError

Api = Annotated[str, typer.Option(envvar="EXITPLANE_API", help="Where the API is.")]
HERE = "http://127.0.0.1:8000"


class NotLoggedIn(ExitplaneError):
    code = "not_logged_in"


def login(
    *,
    api: Api = HERE,
    name: Annotated[str | None, typer.Option(help="Your name; unset: it is asked for.")] = None,
    password_file: Annotated[Path | None, typer.Option(help="A file that holds the password.")] = None,
    totp: Annotated[str | None, typer.Option(help="What your second factor shows; asked for if it takes one.")] = None,
) -> None:
    """Log in to the API. What it gives is kept for you alone, below XDG_CONFIG_HOME, and renewed as needed."""
    _warn_of_eavesdroppers(api)
    wish = {"name": name or _ask("Name", "--name"), "password": _password(password_file)}
    if totp is not None:
        wish["totp"] = totp
    try:
        answer = credentials.call(api, "POST", "/auth/login", wish)
    except ApiRefused as refusal:
        if refusal.problem != "totp_required":
            raise
        wish["totp"] = _ask("Code of the second factor", "--totp")
        answer = credentials.call(api, "POST", "/auth/login", wish)
    credentials.keep(api, Login.of(answer))
    print(f"logged in to {api} as {wish['name']}")


def logout(*, api: Api = HERE) -> None:
    """End the session, here and at the API."""
    kept = credentials.kept(api)
    if kept is None:
        print(f"you are not logged in to {api}")
        return
    try:
        header = credentials.authorization_of_login(api)
        if header is not None:
            credentials.call(api, "POST", "/auth/logout", authorization=header)
    except ApiRefused as refusal:
        if refusal.status != 401:
            raise
    credentials.keep(api, None)
    print(f"logged out of {api}")


def whoami(
    *,
    api: Api = HERE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show who you are to the API, and what you may."""
    header = credentials.authorization(api)
    if header is None:
        raise NotLoggedIn(f"nobody is logged in to {api}", mend="run `exitplane login`, or set EXITPLANE_API_KEY")
    me: dict[str, Any] = credentials.call(api, "GET", "/auth/me", authorization=header)
    if as_json:
        print(json.dumps(me, indent=2))
        return
    fleets = "all fleets" if me["fleets"] is None else f"fleets {', '.join(me['fleets']) or 'none'}"
    by = f", by the API key {me['api_key']['name']}" if me["api_key"] else ""
    print(f"{me['name']}: {me['role']} of {fleets}{by}")


def _password(path: Path | None) -> str:
    if path is None:
        return _ask("Password", "--password-file", hidden=True)
    try:
        return path.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadCredentials(f"{path} cannot be read ({error})", mend="correct --password-file") from error


def _ask(what: str, option: str, *, hidden: bool = False) -> str:
    if not sys.stdin.isatty():
        raise BadCredentials(f"there is no terminal to ask for the {what.lower()}", mend=f"give {option}")
    asked: str = typer.prompt(what, hide_input=hidden)
    return asked


def _warn_of_eavesdroppers(api: str) -> None:
    parts = urlsplit(api)
    try:
        here = ip_address(parts.hostname or "").is_loopback
    except ValueError:
        here = parts.hostname == "localhost"
    if parts.scheme == "http" and not here:
        print(f"exitplane: {api} is not https: others on the way can read the password", file=sys.stderr)
