"""The commands `exitplane login`, `logout` and `whoami`."""

from __future__ import annotations

import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from cli import credentials
from cli.api_command import DEFAULT_API, Api, AsJson, print_json
from cli.credentials import BadCredentials, Login
from client.errors import ApiRefused
from model.errors import ExitplaneError


class NotLoggedIn(ExitplaneError):
    code = "not_logged_in"


def login(
    *,
    api: Api = DEFAULT_API,
    name: Annotated[str | None, typer.Option(help="Your name; the command asks for it by default.")] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="A file with the password; the command asks for it by default.")
    ] = None,
    totp: Annotated[
        str | None, typer.Option(help="The code of your second factor; the command asks for it if needed.")
    ] = None,
) -> None:
    """Log in to the API. Tokens are stored below XDG_CONFIG_HOME, readable by you alone, and renewed as needed."""
    from api.features.auth.schemas import LoginIn

    _warn_if_unencrypted(api)
    name = name or _ask("Name", "--name")
    # not validated here, because the API says what is wrong with it
    credential = LoginIn.model_construct(name=name, password=_password(password_file), totp=totp)
    try:
        tokens = credentials.call_api(api, lambda client: client.auth.log_in(credential))
    except ApiRefused as refusal:
        if refusal.code != "totp_required":
            raise
        with_code = credential.model_copy(update={"totp": _ask("Code of the second factor", "--totp")})
        tokens = credentials.call_api(api, lambda client: client.auth.log_in(with_code))
    credentials.store_login(api, Login.of(tokens))
    print(f"logged in to {api} as {name}")


def logout(*, api: Api = DEFAULT_API) -> None:
    """End the session at the API, and remove its tokens from this host."""
    if credentials.read_login(api) is None:
        print(f"you are not logged in to {api}")
        return
    try:
        header = credentials.authorization_of_login(api)
        if header is not None:
            credentials.call_api(api, lambda client: client.auth.log_out(), header)
    except ApiRefused as refusal:
        if refusal.status != 401:
            raise
    credentials.store_login(api, None)
    print(f"logged out of {api}")


def whoami(
    *,
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Show your name, role and fleets, as the API sees you."""
    header = credentials.authorization(api)
    if header is None:
        raise NotLoggedIn(f"you are not logged in to {api}", hint="run `exitplane login`, or set EXITPLANE_API_KEY")
    me = credentials.call_api(api, lambda client: client.json.get("/auth/me"), header)
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
        raise BadCredentials(
            f"{path} cannot be read ({error})", hint="give another file with --password-file"
        ) from error


def _ask(what: str, option: str, *, hidden: bool = False) -> str:
    if not sys.stdin.isatty():
        raise BadCredentials(f"there is no terminal to ask for the {what.lower()}", hint=f"give {option}")
    answer: str = typer.prompt(what, hide_input=hidden)
    return answer


def _warn_if_unencrypted(api: str) -> None:
    parts = urlsplit(api)
    try:
        local = ip_address(parts.hostname or "").is_loopback
    except ValueError:
        local = parts.hostname == "localhost"
    if parts.scheme == "http" and not local:
        print(f"exitplane: {api} is not https, so others on the network can read the password", file=sys.stderr)
