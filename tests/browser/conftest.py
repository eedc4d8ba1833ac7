"""The server and the browser of the tests. Where one of the parts isn't installed, they are skipped with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from browsing import Page


@pytest.fixture(scope="session", autouse=True)
def _needed() -> None:
    pytest.importorskip("selenium", reason="Selenium isn't installed; `nox -s browser` installs it")
    pytest.importorskip("chameleon_serve", reason="chameleon-serve isn't installed")
    from browsing import browser_files

    if browser_files() is None:
        pytest.skip("Chromium and its driver aren't both installed; on Debian: chromium, chromium-driver")


@pytest.fixture(scope="session")
def url(_needed: None) -> Iterator[str]:
    """The URL of a server with the embedded model."""
    from browsing import serving

    with serving() as address:
        yield address


@pytest.fixture(scope="session")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the browser saves files in."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="session")
def browser(_needed: None, downloads: Path) -> Iterator[Page]:
    """A wide window."""
    from browsing import looking

    with looking(downloads=downloads) as page:
        yield page


@pytest.fixture
def page(browser: Page, url: str) -> Iterator[Page]:
    """The page, opened anew; at the end the browser must have nothing to complain of."""
    browser.complaints()
    browser.open(url)
    yield browser
    assert browser.complaints() == []
