"""How many environments fit into memory, for simulators that take gigabytes each."""

import logging

_LOG = logging.getLogger("hlrp.sim")
_GIB = 1 << 30
_said: set[str] = set()


def fitting(wanted: int, first_gib: float, further_gib: float, what: str) -> int:
    """How many of ``wanted`` fit into the memory that is free; at least one. Says so, once, where it is fewer.

    Args:
        wanted: How many are asked for, at least 1.
        first_gib: Memory that the first takes.
        further_gib: Memory that each further one takes; 0: it does not count.
        what: Their name in the message.
    """
    if wanted == 1 or not further_gib:
        return wanted
    import psutil

    free = psutil.virtual_memory().available / _GIB
    fits = max(1, min(wanted, 1 + int((free - first_gib) / further_gib)))
    if fits < wanted and what not in _said:
        _said.add(what)
        each = f"each takes {further_gib:g} GiB of memory, and {free:.1f} GiB are free"
        _LOG.warning("%d %s, not %d: %s", fits, what, wanted, each)
    return fits
