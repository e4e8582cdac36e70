"""The page /docs: Swagger UI, from files of the package fastapi-offline, so that browsers load nothing from other sites."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Swagger UI sets styles on its elements, and shows images from its style sheet."""
_HEADERS: Final = {"Content-Security-Policy": _POLICY}
_PAGE: Final = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Exitplane - API</title>
<link rel="icon" href="/swagger-ui/favicon.png">
<link rel="stylesheet" href="/swagger-ui/swagger-ui.css">
<script defer src="/swagger-ui/swagger-ui-bundle.js"></script>
<script defer src="/swagger-ui/start.js"></script>
</head>
<body><div id="api"></div></body>
</html>
"""
_START: Final = 'SwaggerUIBundle({url: "/openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null});\n'
_TYPES: Final = {
    "favicon.png": "image/png",
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
}


@router.get("/docs")
async def show_docs() -> Response:
    """Show the OpenAPI document."""
    return HTMLResponse(_PAGE, headers=_HEADERS)


@router.get("/swagger-ui/{name}")
async def read_docs_file(name: str) -> Response:
    """Read a file of the page."""
    if name == "start.js":
        return Response(_START, media_type="text/javascript", headers=_HEADERS)
    if name not in _TYPES:
        raise HTTPException(404)
    content = (files("fastapi_offline") / "static" / name).read_bytes()
    return Response(content, media_type=_TYPES[name], headers={**_HEADERS, "Cache-Control": "max-age=3600"})
