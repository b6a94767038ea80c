"""The report's page: facts and pictures in, one self-contained HTML text out."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from avader.report.summary import CUTS


@dataclass(frozen=True)
class Picture:
    """A PNG with the text that stands for it and a caption under it."""

    png: bytes
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Fact:
    """A named value, as text, and a few words on it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Component:
    """One component: its numbers, its most probable members and samples of it.

    share: of all rows; weight: of the mixture; own: mean probability of the component over its
    members, None without members; above: members above each of the CUTS.
    """

    number: int
    colour: str
    count: int
    share: float
    weight: float
    own: float | None
    above: Sequence[int]
    members: Sequence[Picture]
    samples: Sequence[Picture]


@dataclass(frozen=True)
class RejectReason:
    """Rejects of one reason in one stage (packing or classification), with an example."""

    stage: str
    reason: str
    meaning: str
    count: int
    example: str


@dataclass(frozen=True)
class Page:
    """All that the page shows. Empty sequences and None leave a line that says so.

    training: curves of the model's training; None leaves the section out.
    """

    title: str
    subtitle: str
    headline: Sequence[Fact]
    examples: Sequence[Picture]
    display: str
    residual_bar: Picture
    occupancy: Picture
    matrix: Picture
    components: Sequence[Component]
    latents: Picture | None
    latents_note: str
    training: Picture | None
    flags: Sequence[Fact]
    rejects: Sequence[RejectReason]
    rejects_chart: Picture | None
    provenance: Mapping[str, Sequence[Fact]]
    citation: str


def render(page: Page) -> str:
    """The page as HTML with its pictures inside: it needs no network and no script."""
    environment = Environment(
        loader=PackageLoader("avader.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": _data_uri, "thousands": _thousands, "percent": _percent}
    return environment.get_template("page.html").render(page=page, cuts=CUTS)


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _thousands(number: int) -> str:
    return f"{number:,}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
