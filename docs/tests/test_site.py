"""The site that ``python -m nox -s docs`` built is complete and needs no network. The session runs these tests."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

SITE = Path(__file__).parents[1] / "_build"
NAMES = ("vq", "text", "backends", "core", "emoji", "vllm", "serve")
PACKAGES = tuple(f"chameleon_{name}" for name in NAMES)
LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc="(?:https?:)?//
      | <link\b(?![^>]*rel="canonical")[^>]*\bhref="(?:https?:)?//
      | (?:@import|url\()\s*(?:url\()?["']?(?:https?:)?//""",
    re.VERBOSE,
)


def text(name: str) -> str:
    path = SITE / name
    assert path.is_file(), "build the site before: python -m nox -s docs"
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_on_the_page_of_its_package(package: str) -> None:
    page = text(f"api/{package}.html")
    names = importlib.import_module(package).__all__
    # Those of another package are links to its page.
    missing = [name for name in names if f'id="{package}.{name}"' not in page and f".{name}</span></code>" not in page]
    assert not missing


@pytest.mark.parametrize("method", ["__call__", "encode", "decode_document", "from_pretrained"])
def test_a_class_is_shown_with_what_it_inherits_from_a_base_that_is_not_public(method: str) -> None:
    assert f'id="chameleon_text.ChameleonProcessor.{method}"' in text("api/chameleon_text.html")


def test_a_name_is_found_by_the_search() -> None:
    index = text("searchindex.js")
    assert "quickstart" in index
    assert "ChameleonForConditionalGeneration".lower() in index.lower()


def test_no_page_loads_anything_from_a_network() -> None:
    files = [path for path in SITE.rglob("*") if path.suffix in (".html", ".css")]
    assert len(files) > 20
    assert not [path for path in files if LOADED.search(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(
    "line",
    [
        '<script src="https://example.org/a.js"></script>',
        '<link rel="stylesheet" href="//example.org/a.css">',
        '@import url("https://example.org/font.css")',
    ],
)
def test_what_is_loaded_from_a_network_is_seen(line: str) -> None:
    assert LOADED.search(line)
