"""The caches of names that an exit's Envoy resolves: of targets, or of its parent."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b

from envoy_data_plane.envoy.extensions.common.dynamic_forward_proxy.v3 import DnsCacheConfig

from xds.translate.encoding import encode


def name_cache(config: DnsCacheConfig) -> DnsCacheConfig:
    """Add a hash of the settings to a cache's name.

    Envoy keeps a cache under its name for as long as it runs, and rejects another one of that name with other settings: a release
    that changes them could not be taken up.
    """
    digest = blake2b(encode(config), digest_size=4).hexdigest()
    return replace(config, name=f"{config.name}/{digest}")
