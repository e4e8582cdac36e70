"""The collector of spans, by OpenTelemetry's standard variables. Light, because it is read where there may be none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from model.errors import ExitplaneError

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


class BadCollector(ExitplaneError):
    code = "bad_settings"


def collector_of(environment: Mapping[str, str]) -> str | None:
    """Return the collector's URL; None if none is set, or if tracing is disabled.

    Raises BadCollector for a protocol other than gRPC, and for an endpoint that is no URL.
    """
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    name = next((each for each in _ENDPOINTS if environment.get(each)), None)
    if name is None:
        return None
    for each in _PROTOCOLS:
        if environment.get(each, "grpc") not in ("", "grpc"):
            raise BadCollector(f"{each}={environment[each]!r} is not supported", hint="set it to grpc (port 4317)")
    if not environment[name].startswith(("http://", "https://")):
        raise BadCollector(
            f"{name}={environment[name]!r} is no URL", hint="write http://host:4317, or https:// for TLS"
        )
    return environment[name]
