"""A range in a sweep file, ``{low: 0.05, high: 0.5, log: true}``: what random and Optuna search draw from."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Range(BaseModel):
    """All numbers from ``low`` to ``high``, both included; whole numbers where both ends are whole.

    With ``log`` the logarithm is drawn, so that every factor of ten is as likely as the next.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    low: int | float = Field(description="lower end")
    high: int | float = Field(description="upper end")
    log: bool = Field(False, description="draw on a logarithmic scale")

    @model_validator(mode="after")
    def _check_ends(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low must be less than high, and {self.low} is not less than {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range starts above 0, and low is {self.low}")
        return self

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def size(self) -> int | None:
        """How many numbers it holds; None where they cannot be counted."""
        return int(self.high - self.low) + 1 if self.whole else None

    def at(self, share: float) -> int | float:
        """The number that lies the given share in [0, 1) of the way up."""
        if not self.whole:
            return min(max(self._between(self.low, self.high, share), self.low), self.high)
        # Half a step beyond each end, so that every whole number has a step of its own.
        value = round(self._between(self.low - 0.5, self.high + 0.5, share))
        return int(min(max(value, self.low), self.high))

    def holds(self, value: object) -> bool:
        """Whether ``value`` is one of its numbers."""
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        return self.low <= value <= self.high and (not self.whole or float(value).is_integer())

    def probes(self) -> list[int | float]:
        """Both ends, and a fraction between them where the ends alone would also suit a whole number."""
        if not self.whole and float(self.low).is_integer() and float(self.high).is_integer():
            return [self.low, self.at(1 / math.pi), self.high]
        return [self.low, self.high]

    def _between(self, low: float, high: float, share: float) -> float:
        if self.log:
            return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        return low + share * (high - low)
