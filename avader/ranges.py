"""Ranges of a recipe's settings, which `avader tune` searches."""

from collections.abc import Iterator, Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Scalar = bool | int | float | str
Choice = Scalar | tuple[Scalar, ...]

APART = {
    "seed": "a seed chosen by its result is luck",
    "held_out": "trials are compared on the same images",
    "loss": "losses are not on one scale",
    "network.size": "the images have one size",
    "network.bands": "the images have their bands",
    "schedule.gamma_epochs": "trials are compared at the same epoch of one schedule",
    "schedule.periods": "trials are compared at the same epoch of one schedule",
    "schedule.annealing_epochs": "trials are compared at the same epoch of one schedule",
    "schedule.static_epochs": "trials are compared at the same epoch of one schedule",
    "checkpoint_epochs": "it changes no number",
    "checkpoint_steps": "it changes no number",
}
"""Settings that are not searched, and why."""


class Range(BaseModel):
    """What one setting may be in a search: all from low to high, or one of the choices."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    low: int | float | None = None
    """Least value."""
    high: int | float | None = None
    """Greatest value."""
    log: bool = False
    """Whether equal factors, not equal steps, are equally likely; wants low above 0."""
    choices: tuple[Choice, ...] = Field(())
    """All values that it may have, in place of low and high."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.choices:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("choices: wanted them alone, or low and high, got both")
            if len(set(map(repr, self.choices))) < max(2, len(self.choices)):
                raise ValueError(
                    f"choices: wanted two or more that differ, got {list(self.choices)}"
                )
            return self
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError(
                f"low: wanted low < high, or choices, got low {self.low} and high {self.high}"
            )
        if self.log and self.low <= 0:
            raise ValueError(f"low: wanted a value above 0 with log, got {self.low}")
        return self

    @property
    def extremes(self) -> tuple[Choice, ...]:
        """The values that must be valid: both ends, or every choice."""
        if self.low is None or self.high is None:
            return self.choices
        return self.low, self.high

    def holds(self, value: Choice) -> bool:
        """Whether a setting's value is one that a search may choose."""
        if self.low is None or self.high is None:
            return value in self.choices
        return not isinstance(value, str | tuple) and self.low <= value <= self.high


def extremes(ranges: Mapping[str, Range]) -> Iterator[tuple[str, Choice]]:
    """Every setting with every value that must be valid."""
    for name, span in ranges.items():
        for value in span.extremes:
            yield name, value
