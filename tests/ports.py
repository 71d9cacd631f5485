"""Ports for servers that a test starts."""

from __future__ import annotations

import random
import socket


def free_ports(count: int) -> list[int]:
    """Below the ports of outgoing connections, and apart from those that embedded servers take.

    So nobody gets one before it is listened on, nor while a server that was killed is away.
    """
    found: list[int] = []
    for port in random.sample(range(12_000, 20_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise AssertionError(f"fewer than {count} ports are free")
