"""How long requests take: medians and the slowest hundredth."""

from array import array
from collections import deque
from typing import Any

import numpy as np

_KEPT = 100_000


def percentiles(seconds: "deque[float] | array[float] | list[float]") -> dict[str, float]:
    """`p50_ms` and `p99_ms` of at least one time."""
    middle, slow = np.percentile(np.asarray(seconds), (50, 99)) * 1e3
    return {"p50_ms": round(float(middle), 3), "p99_ms": round(float(slow), 3)}


class Latencies:
    """Times of a server's requests, the last hundred thousand."""

    def __init__(self) -> None:
        self.count = 0
        self._inference: deque[float] = deque(maxlen=_KEPT)
        self._request: deque[float] = deque(maxlen=_KEPT)

    def add(self, inference: float, request: float) -> None:
        """One request, in seconds: the policy alone, and from the message's end to the answer handed over."""
        self.count += 1
        self._inference.append(inference)
        self._request.append(request)

    def line(self, last: int | None = None) -> str:
        """The times in words, of the ``last`` requests or of all that are kept."""
        parts: dict[str, Any] = {"inference": self._inference, "request": self._request}
        texts = []
        for name, times in parts.items():
            found = percentiles(list(times)[-last:] if last else times)
            texts.append(f"{name} p50 {found['p50_ms']:.1f} ms, p99 {found['p99_ms']:.1f} ms")
        return "; ".join(texts)
