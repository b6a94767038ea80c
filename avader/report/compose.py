"""From gathered numbers and pictures to the page's contents.

Legend: C bands, H W pixels, D latent dimensions, K components.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from avader.report import figures
from avader.report.history import HELD_OUT, Row, terms, words
from avader.report.page import Component, Fact, Page, Picture, RejectReason
from avader.report.summary import Chosen, Summary
from avader.report.training import curves_png


@dataclass(frozen=True)
class Material:
    """What a page is made of.

    images: (C, H, W) in [0, 1] of every chosen row, by its number in the catalogue.
    reconstructions: (n, C, H, W) of the summary's examples, in their order. samples: (K, n, C, H,
    W), drawn from every component. weights (K,) and means (K, D) of the mixture. rows_in: objects
    that came in, before any was refused. history: of the model's training, empty where not known.
    errors: (n,) mean squared error of every example in the frame that the model sees. frame: how
    images lie, a sentence, or nothing to say.
    """

    summary: Summary
    images: Mapping[int, np.ndarray]
    reconstructions: np.ndarray
    errors: np.ndarray
    samples: np.ndarray
    weights: np.ndarray
    means: np.ndarray
    rejects: Sequence[RejectReason]
    rows_in: int
    history: Sequence[Row] = ()
    frame: str = ""


def compose(
    material: Material,
    *,
    subtitle: str,
    flag_meanings: Mapping[str, tuple[int, str]],
    provenance: Mapping[str, Sequence[Fact]],
    citation: str,
) -> Page:
    """The page's contents. flag_meanings: bit and meaning of every flag, by name."""
    summary = material.summary
    shown = [material.images[chosen.row] for chosen in summary.examples]
    softening = figures.display_softening(np.array(shown))
    residuals = np.array(shown) - material.reconstructions if shown else np.zeros((0, 1, 1, 1))
    limit = figures.residual_limit(residuals)
    return Page(
        title=f"A morphological catalogue of {summary.rows:,} galaxies",
        subtitle=subtitle,
        headline=_headline(material),
        examples=_examples(material, limit=limit, softening=softening),
        display=f"{_display(softening)} {material.frame}".rstrip(),
        residual_bar=Picture(
            figures.residual_bar(limit),
            f"Colour scale of the residuals: blue at -{limit}, white at 0, red at {limit}",
        ),
        occupancy=_occupancy(material),
        matrix=_matrix(summary),
        components=_components(material, softening=softening),
        latents=_latents(material),
        latents_note=_latents_note(summary),
        training=_training(material.history),
        flags=[
            Fact(name, f"{summary.flag_counts.get(bit, 0):,}", meaning)
            for name, (bit, meaning) in flag_meanings.items()
        ],
        rejects=material.rejects,
        rejects_chart=_rejects_chart(material.rejects),
        provenance=provenance,
        citation=citation,
    )


def _headline(material: Material) -> list[Fact]:
    summary = material.summary
    occupied = int(np.count_nonzero(summary.counts))
    stages = [f"{_total(material.rejects, s):,} in {s}" for s in ("packing", "classification")]
    return [
        Fact("objects in", f"{material.rows_in:,}"),
        Fact("galaxies kept", f"{summary.rows:,}"),
        Fact("rejects", f"{_total(material.rejects):,}", ", ".join(stages)),
        Fact("components", str(summary.components), f"{occupied} with members"),
        Fact(
            "median reconstruction error",
            _number(summary.median_error, "{:.5f}"),
            "mean squared error per pixel, from 0 to 1",
        ),
        Fact(
            "mean log-likelihood",
            _number(summary.mean_log_likelihood, "{:.2f}"),
            "log p(z) under the mixture, nats",
        ),
        Fact(
            "mean highest probability",
            _number(summary.mean_highest_probability, "{:.3f}"),
            "of the assigned component",
        ),
    ]


def _examples(material: Material, *, limit: float, softening: float | None) -> list[Picture]:
    pictures = []
    triples = zip(material.summary.examples, material.reconstructions, material.errors, strict=True)
    for chosen, reconstruction, error in triples:
        image = material.images[chosen.row]
        pictures.append(
            Picture(
                figures.comparison_png(image, reconstruction, limit=limit, softening=softening),
                f"Input, reconstruction and residual of {chosen.object_id}",
                f"{chosen.object_id} · component {chosen.component} "
                f"({chosen.probability:.2f}) · error {error:.5f}",
            )
        )
    return pictures


def _components(material: Material, *, softening: float | None) -> list[Component]:
    summary = material.summary
    colours = figures.component_colours(summary.components)
    own = np.diag(summary.matrix)
    return [
        Component(
            number=k,
            colour=colours[k],
            count=int(summary.counts[k]),
            share=float(summary.counts[k] / max(summary.rows, 1)),
            weight=float(material.weights[k]),
            own=float(own[k]) if np.isfinite(own[k]) else None,
            above=[int(number) for number in summary.above[k]],
            members=[
                _member(chosen, material.images[chosen.row], softening=softening)
                for chosen in summary.members[k]
            ],
            samples=[
                Picture(
                    figures.image_png(image, softening=softening),
                    f"Galaxy {number + 1} drawn from component {k}",
                )
                for number, image in enumerate(material.samples[k])
            ],
        )
        for k in range(summary.components)
    ]


def _member(chosen: Chosen, image: np.ndarray, *, softening: float | None) -> Picture:
    return Picture(
        figures.image_png(image, softening=softening),
        f"{chosen.object_id}, component {chosen.component} with probability "
        f"{chosen.probability:.3f}",
        f"{chosen.object_id} · {chosen.probability:.3f}",
    )


def _occupancy(material: Material) -> Picture:
    counts = material.summary.counts
    listed = ", ".join(f"{k}: {count:,}" for k, count in enumerate(counts))
    return Picture(
        figures.occupancy_chart(counts, material.weights),
        f"Galaxies by component: {listed}",
        "Galaxies assigned to every component; the marks are the mixture's weights.",
    )


def _matrix(summary: Summary) -> Picture:
    own = ", ".join(
        f"{k}: {value:.2f}" for k, value in enumerate(np.diag(summary.matrix)) if value == value
    )
    return Picture(
        figures.probability_chart(summary.matrix),
        f"Mean probability of every component given the assigned one; on the diagonal {own}",
        "Mean probability of every component given the assigned one; grey: no members.",
    )


def _latents(material: Material) -> Picture | None:
    """The map of a sample of latents in the plane of their two principal components."""
    latents, components = material.summary.latents
    if not len(latents):
        return None
    centre, plane, shares = figures.principal_plane(latents.astype(np.float64))
    chart = figures.latent_chart(
        (latents - centre) @ plane.T,
        components,
        (material.means - centre) @ plane.T,
        variance_shares=shares,
    )
    return Picture(
        chart,
        f"{len(latents):,} latents projected on their first two principal components, coloured by "
        "component, with the components' means as numbered discs",
    )


def _latents_note(summary: Summary) -> str:
    shown = len(summary.latents[0])
    if not shown:
        return "The catalogue has no rows to show."
    return (
        f"Latent means of {shown:,} galaxies, spread evenly over the catalogue, on their first two "
        "principal components. A dot has the colour of its component; a numbered disc is a "
        "component's mean. Components that overlap here may be apart in the other dimensions."
    )


def _training(history: Sequence[Row]) -> Picture | None:
    if not history:
        return None
    last = ", ".join(
        f"{words(column)}: {history[-1][column]}"
        for name in terms(history)
        for column in (name, HELD_OUT + name)
        if column in history[-1]
    )
    text = f"Curves of the training's {len(history)} epochs, with its phases; at the end {last}"
    return Picture(curves_png(history), text)


def _rejects_chart(rejects: Sequence[RejectReason]) -> Picture | None:
    if not rejects:
        return None
    counts: dict[str, int] = {}
    for reject in rejects:
        counts[reject.reason] = counts.get(reject.reason, 0) + reject.count
    listed = ", ".join(f"{reason}: {count:,}" for reason, count in counts.items())
    return Picture(figures.reject_chart(counts), f"Rejects by reason: {listed}")


def _display(softening: float | None) -> str:
    if softening is None:
        return "Brightness is shown as the model sees it."
    return (
        f"Brightness is shown with an asinh stretch (softening {softening}), so that faint light "
        "can be seen; residuals are linear."
    )


def _total(rejects: Sequence[RejectReason], stage: str | None = None) -> int:
    return sum(reject.count for reject in rejects if stage in (None, reject.stage))


def _number(value: float | None, form: str) -> str:
    return "not computed" if value is None else form.format(value)
