"""A writer of JSON values as YAML."""

from __future__ import annotations

from typing import Any

import yaml


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """A dumper without aliases."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the base class's
        return True


def _quoted(dumper: Any, text: str) -> Any:
    """Represent text of several lines in double quotes, because the plain style doubles line breaks."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\n" in text else None)


_Dumper.add_representer(str, _quoted)
_Dumper.add_multi_representer(dict, yaml.SafeDumper.represent_dict)


def as_yaml(plain: Any) -> str:
    """Return JSON values as YAML, with keys in their order."""
    written: str = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return written
