"""Parent proxies of exits, as the API takes, shows and keeps them. A password goes in and never comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from api.problems import FieldError, Problem, bad_value
from api.values import Host, Port, View, Wish
from model.tables import ExitRow

_MAX = 255


def _check_credential(value: str) -> str:
    # RFC 7617, section 2
    if not value.isprintable():
        raise bad_value("bad_credential", "this holds control characters", "send printable text")
    return value


def _check_username(value: str) -> str:
    if ":" in value:
        raise bad_value("bad_credential", "a user name that is sent in a header holds no colon", "send one without it")
    return value


Credential = Annotated[str, Field(min_length=1, max_length=_MAX), AfterValidator(_check_credential)]


class ParentIn(Wish):
    """An HTTP proxy beside the exit, such as gluetun's, that it sends all traffic on to."""

    address: Host = Field(description="As the exit sees it: an IP address, or a host name.")
    port: Port
    username: Annotated[Credential, AfterValidator(_check_username)] | None = Field(
        default=None, description="null: the proxy asks for no credentials."
    )
    password: Credential | None = Field(
        default=None,
        repr=False,
        description="Never shown again; it travels to the exit's own Envoy by SDS alone. Left out, it stays as it is, as long as "
        "address, port and username do.",
    )

    @model_validator(mode="after")
    def _check_both(self) -> Self:
        if self.password is not None and self.username is None:
            raise bad_value("no_username", "there is a password and no user name", "send both, or neither")
        return self


class ParentOut(View):
    address: str
    port: int
    username: str | None


def show_parent(row: Any) -> ParentOut | None:
    """The parent of an exit, without its password."""
    if row.parent_address is None:
        return None
    return ParentOut(address=row.parent_address, port=row.parent_port, username=row.parent_username)


def parent_columns(parent: Mapping[str, Any] | None, row: ExitRow | None = None) -> dict[str, Any]:
    """The columns of what was sent as `parent`, for a new exit or for one that has another one by now.

    Raises Problem (422) when the password is missing: one that is known is shown to no other proxy than before.
    """
    if parent is None:
        return dict.fromkeys(("parent_address", "parent_port", "parent_username", "parent_password"))
    parent = {"username": None, "password": None, **parent}
    columns = {f"parent_{name}": value for name, value in parent.items()}
    if parent["username"] is None or parent["password"] is not None:
        return columns
    stays = ("parent_address", "parent_port", "parent_username")
    if row is None or any(getattr(row, name) != columns[name] for name in stays):
        message, mend = "the parent's password is missing", "send it; what is shown or exported does not hold it"
        raise Problem(422, "no_password", message, errors=[FieldError("/parent/password", message, mend)])
    return columns | {"parent_password": row.parent_password}
