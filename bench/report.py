"""Output of results: one line each, with count, distribution, aim, and the ratio to a baseline."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence

_UNITS = {"us": 1_000_000.0, "ms": 1_000.0, "s": 1.0}


def quantile(values: Sequence[float], percent: int) -> float:
    """Return a percentile of values."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


def print_times(
    name: str,
    values_s: Sequence[float],
    *,
    unit: str = "ms",
    aim_s: float | None = None,
    baseline_s: Sequence[float] | None = None,
) -> None:
    """Print times: count, minimum, median, 99th percentile, maximum. Aim and ratio apply to the 99th percentile."""
    each, p99 = _UNITS[unit], quantile(values_s, 99)
    figures = {"min": min(values_s), "p50": quantile(values_s, 50), "p99": p99, "max": max(values_s)}
    line = f"{name:44} n={len(values_s):<7}" + "".join(
        f" {word} {at * each:8.1f} {unit}" for word, at in figures.items()
    )
    if aim_s is not None:
        line += f"   aim p99 < {aim_s * each:g} {unit}: {verdict(p99 < aim_s)}"
    if baseline_s is not None:
        line += f"   p99 {p99 / quantile(baseline_s, 99):.2f} x, p50 {quantile(values_s, 50) / quantile(baseline_s, 50):.2f} x baseline"
    print(line, flush=True)


def print_amounts(
    name: str, values: Sequence[float], unit: str, *, below: float | None = None, baseline: float | None = None
) -> None:
    """Print amounts: count, minimum, median, maximum. The aim applies to the maximum, the ratio to the median."""
    figures = {"min": min(values), "p50": quantile(values, 50), "max": max(values)}
    line = f"{name:44} n={len(values):<7}" + "".join(f" {word} {value:8.2f} {unit}" for word, value in figures.items())
    if below is not None:
        line += f"   aim max < {below:g} {unit}: {verdict(max(values) < below)}"
    if baseline is not None:
        line += f"   {figures['p50'] / baseline:.2f} x baseline ({baseline:.1f} {unit})"
    print(line, flush=True)


def print_value(
    name: str, value: float, unit: str = "", *, below: float | None = None, at_most: float | None = None
) -> None:
    """Print one value, with its aim."""
    line = f"{name:44} {value:,.2f}".rstrip("0").rstrip(".") + (f" {unit}" if unit else "")
    if below is not None:
        line += f"   aim < {below:g}: {verdict(value < below)}"
    if at_most is not None:
        line += f"   aim <= {at_most:g}: {verdict(value <= at_most)}"
    print(line, flush=True)


def print_heading(text: str) -> None:
    print(f"\n{text}   (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors before)", flush=True)


def verdict(met: bool) -> str:  # noqa: FBT001 - it formats one boolean
    return "met" if met else "MISSED"
