"""What several verbs take: of every job, of those on Ray, of those that work by units."""

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

Seed = Annotated[int, Field(ge=0, lt=2**63)]


class JobSettings(BaseSettings):
    """What every verb takes."""

    model_config = SettingsConfigDict(
        env_prefix="AVADER_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    config: str | None = None
    """URI of a TOML file with any of these settings."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment is stronger than the TOML text, which comes as init arguments."""
        return env_settings, init_settings


class ClusterSettings(JobSettings):
    """What every verb that runs on Ray takes."""

    address: str | None = None
    """Address of a Ray cluster; none: RAY_ADDRESS, or a Ray of this machine alone."""
    workers: int = Field(0, ge=0)
    """Worker processes; 0 takes one per CPU, or one per GPU for work on GPUs (train on CPUs: one
    per machine, with all its CPUs)."""


@dataclass(frozen=True)
class Machine:
    """A type of machine. price: of an hour. rate: objects a second."""

    name: str
    price: float
    rate: float


class UnitSettings(ClusterSettings):
    """What every verb that works by units (shards) takes."""

    out: str
    """Folder URI of what is made."""
    stall_limit: float = Field(1800.0, gt=0, le=10**8)
    """Seconds that a unit may take in one of its stages, or from one request to a survey service
    to the next: then its worker is ended and the unit tried again. A unit that fails three times
    is set aside, and the run ends with exit code 3. By default twice AVADER_STORAGE_SECONDS, where
    that is more."""
    dry_run: bool = False
    """Say how many units, bytes, how much time and money it would take, and do nothing else."""
    machine: tuple[str, ...] = ()
    """For --dry-run: types of machine as NAME:PRICE:RATE, the price of an hour and the objects a
    second that one does, such as g5.xlarge:1.006:4000."""

    @property
    def machines(self) -> list[Machine]:
        """The types of machine, in the order given."""
        return [_machine(text) for text in self.machine]

    @field_validator("machine")
    @classmethod
    def _check_machines(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for text in given:
            _machine(text)
        return given


def _machine(text: str) -> Machine:
    """A type of machine from NAME:PRICE:RATE. Raises ValueError."""
    name, *numbers = text.split(":")
    try:
        price, rate = (float(number) for number in numbers)
    except ValueError:
        price = rate = math.nan
    if not name or not price >= 0 or not 0 < rate < math.inf:
        raise ValueError(f"wanted NAME:PRICE:RATE such as g5.xlarge:1.006:4000, got {text!r}")
    return Machine(name, price, rate)
