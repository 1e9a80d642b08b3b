"""When requests may start: at a rate, and all later once the server asks to wait."""

from __future__ import annotations

import asyncio
import time
from email.utils import parsedate_to_datetime
from typing import Any

TOO_MANY = 429
LONGEST = 120.0  # seconds; who asks for more is not asked again by the openai package


class Pace:
    """Hooks of an HTTP client, which see every try of every request.

    Args:
        per_minute: requests started a minute at most.
    """

    def __init__(self, per_minute: float | None) -> None:
        self.interval = 0.0 if per_minute is None else 60.0 / per_minute
        self.next = self.resume = 0.0

    async def before(self, request: Any) -> None:
        """Wait until this request may start."""
        while (pause := max(self.next, self.resume) - time.monotonic()) > 0:
            await asyncio.sleep(pause)
        self.next = time.monotonic() + self.interval

    async def after(self, response: Any) -> None:
        """Hold all requests back where the server says that there are too many."""
        if response.status_code == TOO_MANY:
            pause = min(_asked(response.headers), LONGEST)
            self.resume = max(self.resume, time.monotonic() + pause)


def _asked(headers: Any) -> float:
    """Return the seconds that a response asks to wait; 1 where it does not say."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) / unit)
        except (KeyError, ValueError):
            continue
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError, TypeError):
        return 1.0
