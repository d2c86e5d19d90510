"""Addresses: which only this machine can reach, which go through no proxy, and which are one client's."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

_SITE_BITS = 64  # of an IPv6 address: what lies below is one customer's to choose


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host` (an address or `localhost`)."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name: it may resolve to anything


def trusts_environment(url: str) -> bool:
    """Whether a client of `url` goes by `http_proxy`, `no_proxy` and their like (httpx's `trust_env`).

    This machine (loopback, and 0.0.0.0, which a client may be given for it) is never behind a proxy: that
    would look for the server on its own machine.
    """
    host = urlsplit(url).hostname or ""
    return not (is_loopback(host.rstrip(".")) or host in ("0.0.0.0", "::"))


def network_of(address: str) -> str:
    """What limits count by: of an IPv6 address the first 64 bits, which one client has; others as it is."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), _SITE_BITS), strict=False).network_address)
