"""The OpenAPI descriptions of the operations that every collection has."""

from __future__ import annotations

from typing import Any

from api.kernel.collections.collection import Collection
from api.kernel.collections.schemas import BULK_MAX

_DRY_RUN = (
    "`dry_run=true` changes nothing, and replies with the changes and the proxies whose configuration they affect."
)
_LIST = (
    "List the {many} that the caller may see, in pages. `next` of a page is the `cursor` of the following one, and null on the last."
    " 422 for an unknown filter or sort field, or a cursor of another list."
)
_CREATE = (
    "Create {one}, and reply with it, its `Location` and its `ETag`. A retry with the same `Idempotency-Key` gets the reply of the first"
    " request. 409 if a unique value is taken, 422 if a field is not valid or names something that does not exist. {dry_run}"
)
_BULK = (
    "Delete and then create up to {bulk_max} {many} each. All of it becomes one revision, or nothing is changed: an error points to the"
    " item, for example `/create/3/name`. {dry_run}"
)
_READ = "Read {one}, by {ref}. Its `ETag` is the value for `If-Match` of a change. 404 if it does not exist{ambiguous}."
_PATCH = (
    "Change the fields of {one} that are sent, and keep the others. Replies with the result and its new `ETag`. 404 if it does not"
    " exist{ambiguous}, 409 if a unique value is taken, 412 if it changed since the read whose `ETag` is in `If-Match`. {dry_run}"
)
_PUT = (
    "Replace {one}: fields that are not sent get their defaults. Replies with the result and its new `ETag`. 404 if it does not"
    " exist{ambiguous}, 409 if a unique value is taken, 412 if it changed since the read whose `ETag` is in `If-Match`. {dry_run}"
)
_DELETE = (
    " 404 if it does not exist{ambiguous}, 409 while something refers to it, 412 if it changed since the read whose `ETag`"
    " is in `If-Match`. {dry_run}"
)


class Descriptions:
    """The descriptions of one collection's operations, one attribute for each."""

    def __init__(self, collection: Collection[Any, Any, Any]) -> None:
        kind = _words(collection.kind)
        words = {
            "one": f"{'an' if kind[0].lower() in 'aeio' else 'a'} {kind}",
            "many": _words(collection.name),
            "ref": "id or name" if collection.has_name else "id",
            "ambiguous": ", 409 if several fleets have one of this name"
            if collection.has_name and collection.has_fleet
            else "",
            "bulk_max": BULK_MAX,
            "dry_run": _DRY_RUN,
        }
        self.list = _LIST.format(**words)
        self.create = _CREATE.format(**words)
        self.bulk = _BULK.format(**words)
        self.read = _READ.format(**words)
        self.patch = _PATCH.format(**words)
        self.put = _PUT.format(**words)
        self.delete = (collection.deletion + _DELETE).format(**words)


def _words(name: str) -> str:
    return name.replace("-", " ").replace("_", " ").replace("api", "API")
