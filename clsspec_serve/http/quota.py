"""A bounded number of bytes, held by requests; what does not fit is refused at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from clsspec_serve.errors import Busy
from clsspec_serve.http.errors import Refused


class Quota:
    """`total` bytes, of which `used` are held. For one event loop."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0

    @contextmanager
    def held(self) -> Iterator[Hold]:
        """Nothing at first; what it comes to is given back at the end of the block."""
        hold = Hold(self)
        try:
            yield hold
        finally:
            hold.give_back()


@dataclass
class Hold:
    """What one holder has."""

    quota: Quota
    bytes: int = 0

    def reach(self, amount: int) -> None:
        """Hold `amount` bytes, unless it is more already.

        Raises `Busy`, and `Refused` (413) for more than all that there are.
        """
        if amount > self.quota.total:
            raise Refused(413, f"this takes {amount} bytes; accepted are {self.quota.total}")
        more = max(amount - self.bytes, 0)
        used = self.quota.used
        if used + more > self.quota.total:
            raise Busy(f"the requests in work have {used} bytes; accepted are no more")
        self.quota.used += more
        self.bytes += more

    def give_back(self) -> None:
        """Hold nothing."""
        self.quota.used -= self.bytes
        self.bytes = 0
