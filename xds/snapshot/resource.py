"""An encoded resource: its bytes and their hash, computed once and shared by all streams."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

from google.protobuf.any_pb2 import Any

from xds.translate.names import CLUSTER, SECRET
from xds.translate.references import named_clusters, references
from xds.translate.resource_ids import ResourceId
from xds.wire.discovery_pb2 import DeltaDiscoveryResponse, DiscoveryResponse
from xds.wire.discovery_pb2 import Resource as DeltaResource


@dataclass(frozen=True, eq=False)
class Resource:
    """A resource at one version. `body` is the value of its Any, `version` the hash of `body`, for a secret a keyed one.

    See docs/architecture.md#versions-are-content-hashes.
    """

    type_url: str
    name: str
    version: str
    body: bytes

    @cached_property
    def size(self) -> int:
        """The size of name and body in bytes."""
        return len(self.name.encode()) + len(self.body)

    @cached_property
    def clusters(self) -> frozenset[str]:
        """The names of the clusters that it refers to."""
        return named_clusters(self.type_url, self.name, self.body)

    @cached_property
    def components(self) -> frozenset[ResourceId]:
        """The resources other than clusters that it refers to: the routes and extensions of a listener."""
        found = references(self.type_url, self.name, self.body)
        return frozenset(each for each in found if each.type_url != CLUSTER)

    @cached_property
    def delta_part(self) -> bytes:
        """The resource as a field of a DeltaDiscoveryResponse. A response is a concatenation of such parts."""
        resource = DeltaResource(name=self.name, version=self.version, resource=self._any())
        return DeltaDiscoveryResponse(resources=[resource]).SerializeToString()

    @cached_property
    def sotw_part(self) -> bytes:
        """The resource as a field of a DiscoveryResponse."""
        return DiscoveryResponse(resources=[self._any()]).SerializeToString()

    def _any(self) -> Any:
        return Any(type_url=self.type_url, value=self.body)


def make_resource(type_url: str, name: str, body: bytes, secret_key: bytes = b"") -> Resource:
    """Build a resource; its version depends on its bytes alone, and so is equal on all replicas and after a restart.

    That of a secret depends on `secret_key` (at most 64 bytes), too. Versions are shown to everybody who may see the proxy, and
    without the key they confirm a guessed password.
    """
    key = secret_key if type_url == SECRET else b""
    return Resource(type_url, name, blake2b(body, digest_size=12, key=key).hexdigest(), body)
