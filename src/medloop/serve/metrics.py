"""Counts of what was asked and answered, as Prometheus reads them; nothing about whom."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from typing import Any

#: Upper ends of the classes of seconds.
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counters that threads share.

    Examples
    --------
    >>> metrics = Metrics()
    >>> metrics.answered([{"prediction": {"label": "ear"}}], seconds=0.2)
    >>> 'medloop_images_total{outcome="labelled"} 1' in metrics.text()
    True
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._requests: Counter[int] = Counter()
        self._images: Counter[str] = Counter()
        self._within = [0] * (len(_SECONDS) + 1)
        self._seconds = 0.0

    def answered(self, rows: list[dict[str, Any]], *, seconds: float, status: int = 200) -> None:
        """Count one answer."""
        with self._guard:
            self._requests[status] += 1
            self._within[bisect_left(_SECONDS, seconds)] += 1
            self._seconds += seconds
            self._images.update(outcome(row) for row in rows if "note" not in row)

    def refused(self, status: int) -> None:
        """Count one request that was not answered."""
        with self._guard:
            self._requests[status] += 1

    def text(self) -> str:
        """Return all counts in the text format of Prometheus."""
        with self._guard:
            requests, images = sorted(self._requests.items()), sorted(self._images.items())
            within, seconds = list(self._within), self._seconds
        lines = [
            "# HELP medloop_requests_total Requests for predictions, by HTTP status.",
            "# TYPE medloop_requests_total counter",
            *(f'medloop_requests_total{{status="{status}"}} {n}' for status, n in requests),
            "# HELP medloop_images_total Images and frames, by what was said of them.",
            "# TYPE medloop_images_total counter",
            *(f'medloop_images_total{{outcome="{name}"}} {n}' for name, n in images),
            "# HELP medloop_seconds Seconds from the last byte of a request to its answer.",
            "# TYPE medloop_seconds histogram",
        ]
        total = 0
        for end, count in zip((*map(str, _SECONDS), "+Inf"), within, strict=True):
            total += count
            lines.append(f'medloop_seconds_bucket{{le="{end}"}} {total}')
        lines += [f"medloop_seconds_sum {seconds:.6f}", f"medloop_seconds_count {total}", ""]
        return "\n".join(lines)


def outcome(row: dict[str, Any]) -> str:
    """Name what was said of an image.

    Examples
    --------
    >>> outcome({"error": "a.svg is an SVG drawing."})
    'refused'
    """
    if "error" in row:
        return "refused"
    quality = (row.get("quality") or {}).get("label")
    if quality not in (None, "good", "cannot tell"):
        return "bad"
    if quality == "cannot tell" or row["prediction"]["label"] == "cannot tell":
        return "cannot_tell"
    return "labelled"
