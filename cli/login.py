"""`exitplane login`, `logout` and `whoami`."""

from __future__ import annotations

import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from cli import credentials
from cli.api_command import HERE, Api, AsJson, print_json
from cli.credentials import BadCredentials, Login
from client.errors import ApiRefused
from model.errors import ExitplaneError


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
    from api.features.auth.schemas import LoginIn

    _warn_of_eavesdroppers(api)
    name = name or _ask("Name", "--name")
    # not validated here: what is wrong with it, the API says
    wish = LoginIn.model_construct(name=name, password=_password(password_file), totp=totp)
    try:
        tokens = credentials.ask(api, lambda client: client.auth.log_in(wish))
    except ApiRefused as refusal:
        if refusal.code != "totp_required":
            raise
        answered = wish.model_copy(update={"totp": _ask("Code of the second factor", "--totp")})
        tokens = credentials.ask(api, lambda client: client.auth.log_in(answered))
    credentials.keep(api, Login.of(tokens))
    print(f"logged in to {api} as {name}")


def logout(*, api: Api = HERE) -> None:
    """End the session, here and at the API."""
    kept = credentials.kept(api)
    if kept is None:
        print(f"you are not logged in to {api}")
        return
    try:
        header = credentials.authorization_of_login(api)
        if header is not None:
            credentials.ask(api, lambda client: client.auth.log_out(), header)
    except ApiRefused as refusal:
        if refusal.status != 401:
            raise
    credentials.keep(api, None)
    print(f"logged out of {api}")


def whoami(
    *,
    api: Api = HERE,
    as_json: AsJson = False,
) -> None:
    """Show who you are to the API, and what you may."""
    header = credentials.authorization(api)
    if header is None:
        raise NotLoggedIn(f"nobody is logged in to {api}", hint="run `exitplane login`, or set EXITPLANE_API_KEY")
    me = credentials.ask(api, lambda client: client.plain.get("/auth/me"), header)
    if as_json:
        print_json(me)
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
        raise BadCredentials(f"{path} cannot be read ({error})", hint="correct --password-file") from error


def _ask(what: str, option: str, *, hidden: bool = False) -> str:
    if not sys.stdin.isatty():
        raise BadCredentials(f"there is no terminal to ask for the {what.lower()}", hint=f"give {option}")
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
