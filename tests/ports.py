"""Ports that nobody listens on, for the servers that tests start."""

import random
import socket

# Above the ports of Ray's workers; with 10,000 more still below those of outgoing connections.
LOWEST, HIGHEST = 20_000, 22_700


def free_ports(count: int, *, also: tuple[int, ...] = ()) -> list[int]:
    """Distinct ports p of this machine such that p, and p + each of `also`, are free now."""
    found: list[int] = []
    candidates = random.SystemRandom().sample(range(LOWEST, HIGHEST), 1_000)
    for port in candidates:
        if len(found) == count:
            break
        if all(_is_free(port + offset) for offset in (0, *also)):
            found.append(port)
    assert len(found) == count, f"wanted {count} free ports, found {len(found)}"
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
