"""The page: whole HTML, self-contained, every section there, numbers as in the arrays."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from avader.report.compose import Material, compose
from avader.report.page import Fact, RejectReason, render
from avader.report.training import curves_png
from tests.report.histories import DEMO, history
from tests.report.test_summary import D, K, cut, make_rows, summarise

SECTIONS = [
    "summary",
    "reconstructions",
    "components",
    "members",
    "latents",
    "rejects",
    "provenance",
    "citation",
]
VOID = {"meta", "img", "link", "br"}
REJECTS = [
    RejectReason("packing", "constant", "every pixel has the same value", 3, "g1: is 7"),
    RejectReason("packing", "truncated", "the file ends early", 1, "g2: <b>&"),
    RejectReason("classification", "not_finite", "", 2, "g3: NaN"),
]


class Reader(HTMLParser):
    """Collects what the tests ask for, and checks that every tag is closed."""

    def __init__(self, html):
        super().__init__()
        self.images, self.ids, self.links, self.open, self.text = [], [], [], [], []
        self.tags = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes["href"]] if "href" in attributes else []
        if tag == "img":
            self.images.append(attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def material(count=100, bands=1, rejects=REJECTS, seed=0, history=()):
    rows = make_rows(count, seed=seed)
    summary = summarise(cut(rows, [count // 2, count - count // 2]), count)
    generator = np.random.default_rng(seed)
    chosen = summary.examples + [one for members in summary.members for one in members]
    return Material(
        summary=summary,
        images={one.row: generator.random((bands, 12, 12), np.float32) for one in chosen},
        reconstructions=generator.random((len(summary.examples), bands, 12, 12), np.float32),
        errors=np.linspace(0.001, 0.002, len(summary.examples)),
        samples=generator.random((K, 8, bands, 12, 12), np.float32) * 1.2,
        weights=np.full(K, 1 / K),
        means=generator.normal(size=(K, D)),
        rejects=rejects,
        rows_in=count + sum(reject.count for reject in rejects),
        history=history,
    )


def page_of(made):
    return compose(
        made,
        subtitle="Catalogue s3://bucket/catalogue",
        flag_meanings={"saturated": (1, "a pixel is full"), "low": (8, "unlikely")},
        provenance={"Model": [Fact("digest", "abc123")]},
        citation="Spindler et al. 2021 <paper>",
    )


@pytest.fixture(scope="module")
def page():
    return page_of(material())


@pytest.fixture(scope="module")
def read(page):
    return Reader(render(page))


def test_the_page_is_whole_and_every_section_is_there_and_linked(read):
    assert read.open == []
    assert [name for name in read.ids if name in SECTIONS] == SECTIONS
    assert {f"#{name}" for name in SECTIONS} <= set(read.links)
    assert {link[1:] for link in read.links} <= set(read.ids)
    assert len(read.ids) == len(set(read.ids))


def test_the_page_needs_no_network_and_no_script(page, read):
    assert not {"script", "link", "iframe"} & set(read.tags)
    for word in ("http:", "https:", "url(", "@import"):
        assert word not in render(page)


def test_every_picture_is_inside_with_a_text_that_stands_for_it(read):
    assert len(read.images) >= 24 + K * 8
    for image in read.images:
        assert len(image["alt"]) > 10
        kind, _, data = image["src"].partition(",")
        assert kind == "data:image/png;base64"
        Image.open(io.BytesIO(base64.b64decode(data))).verify()


def test_headline_numbers_are_those_of_the_catalogue(page):
    facts = {fact.name: fact for fact in page.headline}
    rows = make_rows(100)
    assert facts["objects in"].value == "106"
    assert facts["galaxies kept"].value == "100"
    assert facts["rejects"].value == "6"
    assert facts["rejects"].note == "4 in packing, 2 in classification"
    assert (facts["components"].value, facts["components"].note) == ("5", "4 with members")
    error = float(facts["median reconstruction error"].value)
    assert error == pytest.approx(np.median(rows.reconstruction_error), abs=5e-6)
    likelihood = float(facts["mean log-likelihood"].value)
    assert likelihood == pytest.approx(rows.log_likelihood.mean(), abs=5e-3)


def test_examples_tell_id_component_and_error(page):
    made = material()
    assert len(page.examples) == 24
    for chosen, error, picture in zip(
        made.summary.examples, made.errors, page.examples, strict=True
    ):
        assert picture.caption.startswith(f"{chosen.object_id} · component {chosen.component} ")
        assert picture.caption.endswith(f"error {error:.5f}")


def test_components_have_their_members_and_samples(page):
    rows = make_rows(100)
    for k, component in enumerate(page.components):
        count = int((rows.component == k).sum())
        assert component.count == count
        assert component.share == count / 100
        assert len(component.members) == min(8, count)
        assert len(component.samples) == 8


def test_an_empty_component_says_so(page, read):
    assert page.components[3].own is None
    text = "".join(read.text)
    assert text.count("No galaxy is assigned to this component.") == 1


def test_rejects_are_listed_by_reason_and_escaped(read):
    text = "".join(read.text)
    for reject in REJECTS:
        assert reject.reason in text
        assert reject.example in text
    assert "Spindler et al. 2021 <paper>" in text
    assert "b" not in read.tags


def test_flags_are_counted(page):
    flags = make_rows(100).flags
    assert [fact.value for fact in page.flags] == [
        str((flags & 1 > 0).sum()),
        str((flags & 8 > 0).sum()),
    ]


def test_without_rejects_the_page_says_so():
    text = "".join(Reader(render(page_of(material(rejects=[])))).text)
    assert "No object was refused" in text


def test_a_training_has_its_section_with_the_curves(page):
    rows = history(DEMO)
    read = Reader(render(page_of(material(history=rows))))
    assert "training" in read.ids
    assert "#training" in read.links
    curves = next(image for image in read.images if image["alt"].startswith("Curves of"))
    assert curves["src"] == f"data:image/png;base64,{base64.b64encode(curves_png(rows)).decode()}"
    assert "44 epochs" in curves["alt"]
    assert "unit KL: 63.0" in curves["alt"]
    assert "None" not in curves["alt"]
    assert "training" not in Reader(render(page)).ids


@pytest.mark.parametrize("bands", [2, 3])
def test_images_of_several_bands_are_shown(bands):
    read = Reader(render(page_of(material(bands=bands))))
    assert len(read.images) >= 24 + K * 8


@pytest.mark.parametrize("count", [0, 1, 3])
def test_few_rows_or_none_make_a_page_all_the_same(count):
    page = page_of(material(count=count))
    assert len(page.examples) == count
    assert (page.latents is None) == (count == 0)
    assert "summary" in Reader(render(page)).ids


def test_the_page_is_the_same_every_time(page):
    assert render(page) == render(page_of(material()))
