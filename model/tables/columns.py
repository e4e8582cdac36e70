"""Kinds of columns that several tables have and the names of constraints."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Column, DateTime, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import SQLModel

SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


def timestamp(*, nullable: bool = False) -> Column[datetime]:
    return Column(DateTime(timezone=True), nullable=nullable)


def json_object() -> Column[dict[str, Any]]:
    """A JSON object, empty by default."""
    return Column(JSONB, nullable=False, server_default=text("'{}'::jsonb"))


def json_list() -> Column[list[Any]]:
    """A JSON array, empty by default."""
    return Column(JSONB, nullable=False, server_default=text("'[]'::jsonb"))
