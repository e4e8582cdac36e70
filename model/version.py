"""The version of Exitplane that is installed. pyproject.toml is the one place that states it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def exitplane_version() -> str:
    """Return the installed version, or `0+source` where Exitplane is imported without being installed."""
    try:
        return version("exitplane")
    except PackageNotFoundError:
        return "0+source"
