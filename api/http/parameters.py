"""Parameters of paths and queries that several endpoints share."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

from api.http.field_types import Reference

Ref = Annotated[str, Path(description="An id or a name.")]
Filter = Annotated[Reference | None, Query(description="Only the items of this fleet, by its name or id.")]
Id = Annotated[str, Path(description="An id.", json_schema_extra={"format": "uuid"})]
