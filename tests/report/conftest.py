"""Small charts: their dots are most of what a page costs."""

from collections.abc import Iterator

import pytest

from avader.report import figures


@pytest.fixture(scope="package", autouse=True)
def small_charts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "DOTS_PER_INCH", 40)
        yield
