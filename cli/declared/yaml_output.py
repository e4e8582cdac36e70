"""JSON values as YAML."""

from __future__ import annotations

from typing import Any

import yaml


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes everything out: no aliases."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the base class's
        return True


def _quoted(dumper: Any, text: str) -> Any:
    """Lines of text as one, for the plain style doubles their ends."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\n" in text else None)


_Dumper.add_representer(str, _quoted)
_Dumper.add_multi_representer(dict, yaml.SafeDumper.represent_dict)


def as_yaml(plain: Any) -> str:
    """JSON values as YAML, in the order that they have."""
    written: str = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return written
