"""The report of an application of documents, done or tried, for people."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from uuid import UUID

    from api.features.declared.schemas import AppliedOut, StepOut
    from api.features.proxies.schemas import ProxyOut
    from api.kernel.dry_run import ProxyDifference, ResourceDifference

_SIGNS: Final = {"created": "+", "changed": "~", "deleted": "-"}
_RESOURCE_SIGNS: Final = {"added": "+", "changed": "~", "removed": "-"}


def format_steps(steps: Iterable[StepOut]) -> Iterator[str]:
    """Format each step as a line, followed by a line for each field that changes."""
    for step in steps:
        name = f"{step.fleet}/{step.name}" if step.fleet else step.name
        yield f"{_SIGNS[step.action]} {step.kind} {name}"
        for field, (old, new) in step.changes.items():
            yield f"    {field}: {_short(old)} -> {_short(new)}"


def format_counts(applied: AppliedOut) -> str:
    """Format the numbers of steps: `2 created, 1 changed, 0 deleted, 12 unchanged`."""
    counts: Counter[str] = Counter(step.action for step in applied.steps)
    done = ", ".join(f"{counts[action]} {action}" for action in _SIGNS)
    return f"{done}, {applied.unchanged} unchanged"


def format_configuration(differences: Iterable[ProxyDifference], proxies: Mapping[UUID, ProxyOut]) -> Iterator[str]:
    """Format the changes of each proxy's configuration, with the lines that differ."""
    for difference in differences:
        names = sorted(proxies[each].name if each in proxies else str(each) for each in difference.proxies)
        yield f"on {', '.join(names) or 'no proxy'}:"
        for resource in difference.resources:
            kind = resource.type_url.rpartition(".")[2]
            yield f"  {_RESOURCE_SIGNS[resource.change]} {kind} {resource.name}"
            yield from (f"      {line}" for line in _lines(resource))


def format_rejections(proxies: Iterable[ProxyOut]) -> Iterator[str]:
    """Format each rejection of a proxy, with Envoy's own message."""
    for proxy in proxies:
        for sync in proxy.sync:
            if sync.status == "rejected":
                yield f"{proxy.fleet}/{proxy.name} rejects {sync.type_url.rpartition('.')[2]}: {sync.detail}"


def _lines(resource: ResourceDifference) -> Iterator[str]:
    if resource.before is None and resource.after is None:
        return
    before, after = (
        [] if content is None else json.dumps(content, indent=2, sort_keys=True).splitlines()
        for content in (resource.before, resource.after)
    )
    # without the header, which would name files
    yield from list(difflib.unified_diff(before, after, lineterm="", n=2))[2:]


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
