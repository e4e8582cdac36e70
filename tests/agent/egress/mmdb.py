"""A writer of small MaxMind DB files, by the specification of format 2.0."""

from __future__ import annotations

from ipaddress import IPv4Network

MARKER = b"\xab\xcd\xefMaxMind.com"
EXTENDED = {"uint64": 9, "array": 11}


def a_country(code: str) -> dict:
    """Build a record in the form of country and city files."""
    city = {"names": {"en": f"{code} City"}}
    return {"country": {"iso_code": code}, "city": city, "location": {"time_zone": "Etc/UTC"}}


def mmdb(records: dict[str, object], kind: str = "Test-Country") -> bytes:
    """Build a file that maps IPv4 networks to records."""
    nodes: list[list[object]] = [[None, None]]
    for network, record in records.items():
        node = 0
        parsed = IPv4Network(network)
        bits = [int(parsed[0]) >> (31 - depth) & 1 for depth in range(parsed.prefixlen)]
        for bit in bits[:-1]:
            if nodes[node][bit] is None:
                nodes.append([None, None])
                nodes[node][bit] = len(nodes) - 1
            node = nodes[node][bit]
        nodes[node][bits[-1]] = (record,)
    data, tree = b"", b""
    for pair in nodes:
        for each in pair:
            value = len(nodes) if each is None else each
            if isinstance(value, tuple):
                value, data = len(nodes) + 16 + len(data), data + encode(value[0])
            tree += value.to_bytes(3, "big")
    about = {
        "binary_format_major_version": 2,
        "binary_format_minor_version": 0,
        "build_epoch": 1,
        "database_type": kind,
        "description": {"en": "made by a test"},
        "ip_version": 4,
        "languages": ["en"],
        "node_count": len(nodes),
        "record_size": 24,
    }
    return tree + bytes(16) + data + MARKER + encode(about)


def encode(value: object) -> bytes:
    if isinstance(value, str):
        return head(2, len(value.encode())) + value.encode()
    if isinstance(value, int):
        packed = value.to_bytes((value.bit_length() + 7) // 8, "big")
        return head(6, len(packed)) + packed
    if isinstance(value, list):
        return head(EXTENDED["array"], len(value)) + b"".join(encode(each) for each in value)
    return head(7, len(value)) + b"".join(encode(key) + encode(each) for key, each in value.items())


def head(kind: int, size: int) -> bytes:
    length, more = (size, b"") if size < 29 else (29, bytes([size - 29]))
    return (bytes([kind << 5 | length]) if kind < 8 else bytes([length, kind - 7])) + more
