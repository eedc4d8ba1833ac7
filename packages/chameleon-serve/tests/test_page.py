"""The page without a browser: its files refer to each other alone, and everything that can be used has a name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from chameleon_core import GenerationOptions
from chameleon_serve.page_files import page_file

PAGE = files("chameleon_serve") / "page"
TEXTS = {each.name: each.read_text(encoding="utf-8") for each in PAGE.iterdir() if each.name[0] not in "._"}
SCRIPTS = {name: text for name, text in TEXTS.items() if name.endswith(".js")}
NAMESPACE = "http://www.w3.org/2000/svg"
VOID = {"meta", "link", "img", "input", "br", "rect", "path"}
REFERENCES = ("for", "aria-controls", "aria-labelledby", "aria-describedby")
CONTROLS = ("button", "input", "select", "textarea", "a", "progress", "canvas")
OF_THE_REQUEST = {"negative_prompt", "preview_every", "others"}
"""Fields of the form that are no options."""


@dataclass
class Element:
    """An element of the page."""

    tag: str
    attributes: dict[str, str | None]
    parents: tuple[Element, ...]
    text: str = ""

    def get(self, name: str) -> str:
        return self.attributes.get(name) or ""


class Reader(HTMLParser):
    """Reads the elements of a page, and what is open where it should be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {[each.tag for each in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        element = Element(tag, dict(attrs), tuple(self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop().tag == tag, f"</{tag}> closes another element, at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data


@pytest.fixture(scope="module")
def elements() -> list[Element]:
    return Reader(TEXTS["index.html"]).elements


@pytest.fixture(scope="module")
def ids(elements: list[Element]) -> list[str]:
    return [element.get("id") for element in elements if element.get("id")]


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(Starlette(routes=[Route("/", page_file), Route("/page/{name}", page_file)]))


@pytest.mark.parametrize("name", TEXTS)
def test_every_file_is_served_with_its_type_and_its_policy(client: TestClient, name: str) -> None:
    types = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    answer = client.get("/" if name == "index.html" else f"/page/{name}")
    assert answer.status_code == 200
    assert answer.text == TEXTS[name]
    assert answer.headers["content-type"].partition(";")[0] == types[name.rpartition(".")[2]]
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_an_id_is_there_once(ids: list[str]) -> None:
    assert len(ids) > 40
    assert len(ids) == len(set(ids))


def test_what_attributes_refer_to_exists(elements: list[Element], ids: list[str]) -> None:
    referred = [
        (element.tag, name, each)
        for element in elements
        for name in REFERENCES
        for each in element.get(name).split()
        if each not in ids
    ]
    assert not referred


def test_every_control_has_a_name(elements: list[Element]) -> None:
    labelled = {element.get("for") for element in elements if element.tag == "label" and element.text.strip()}
    nameless = [
        element.attributes
        for element in elements
        if element.tag in CONTROLS
        and not element.get("aria-label")
        and not (element.tag in ("button", "a") and element.text.strip())
        and element.get("id") not in labelled
        and not any(parent.tag == "label" and parent.text.strip() for parent in element.parents)
    ]
    assert not nameless


def test_every_region_and_dialog_has_a_name(elements: list[Element]) -> None:
    named = ("nav", "aside", "form", "dialog", "fieldset")
    roles = ("log", "grid", "tablist", "tabpanel", "img")
    for element in elements:
        if element.tag == "fieldset":
            assert any(other.tag == "legend" and element in other.parents for other in elements)
        elif element.tag in named or element.get("role") in roles:
            has_heading = element.parents and element.parents[-1].get("aria-labelledby")
            assert element.get("aria-label") or element.get("aria-labelledby") or has_heading, element.attributes


def test_every_picture_has_an_alternative_text(elements: list[Element]) -> None:
    assert all("alt" in element.attributes for element in elements if element.tag == "img")


def test_buttons_say_what_they_do_to_forms(elements: list[Element]) -> None:
    assert all(element.get("type") for element in elements if element.tag == "button")


def test_the_page_says_its_language_and_has_one_main_heading(elements: list[Element]) -> None:
    assert next(element for element in elements if element.tag == "html").get("lang") == "en"
    assert sum(element.tag == "h1" for element in elements) == 1
    assert sum(element.tag == "main" for element in elements) == 1


def test_nothing_is_inline(elements: list[Element]) -> None:
    for element in elements:
        assert "style" not in element.attributes
        assert not [name for name in element.attributes if name.startswith("on")]
        if element.tag == "script":
            assert element.get("src")
            assert not element.text.strip()
        assert element.tag != "style"
    for name, text in SCRIPTS.items():
        assert not re.search(r"\beval\(|new Function|innerHTML|outerHTML|insertAdjacentHTML|document\.write", text), (
            name
        )


@pytest.mark.parametrize("name", TEXTS)
def test_nothing_is_fetched_from_elsewhere(name: str) -> None:
    found = re.findall(r"(?:\w+:)?//[\w.]+\.\w[^\s\"'`)]*", TEXTS[name])
    assert [each for each in found if each != NAMESPACE] == []
    assert "@import" not in TEXTS[name]


def test_every_file_is_referred_to_and_every_reference_is_a_file(elements: list[Element]) -> None:
    local = [
        element.get(name).removeprefix("page/")
        for element in elements
        for name in ("src", "href")
        if element.get(name) and not element.get(name).startswith("#")
    ]
    imported = [target for text in SCRIPTS.values() for target in re.findall(r'from "\./([^"]+)"', text)]
    assert {"index.html", *local, *imported} == set(TEXTS)


def test_scripts_ask_for_ids_that_exist(ids: list[str]) -> None:
    for name, text in SCRIPTS.items():
        asked = re.findall(r'(?:byId|copyOf)\("([^"]+)"\)', text)
        assert [each for each in asked if each not in ids] == [], name


def test_what_a_module_imports_another_exports() -> None:
    exported = {
        name: set(re.findall(r"^export (?:async )?(?:function\*?|class|const|let) (\w+)", text, re.MULTILINE))
        for name, text in SCRIPTS.items()
    }
    for name, text in SCRIPTS.items():
        for wanted, source in re.findall(r'^import \{([^}]+)\} from "\./([^"]+)";', text, re.MULTILINE):
            names = {each.strip() for each in wanted.split(",")}
            assert names <= exported[source], (name, source)
            rest = text.replace(wanted, "", 1)
            assert [each for each in names if not re.search(rf"\b{each}\b", rest)] == [], (
                f"{name} imports and never uses"
            )


def test_the_options_are_those_of_generation(elements: list[Element]) -> None:
    form = next(element for element in elements if element.get("id") == "options")
    names = {element.get("name") for element in elements if form in element.parents and element.get("name")}
    assert names >= {"temperature", "seed", "guidance_text", "negative_prompt"}
    assert names - OF_THE_REQUEST <= set(GenerationOptions().to_dict())


def test_classes_of_the_stylesheets_are_used() -> None:
    used = TEXTS["index.html"] + "".join(SCRIPTS.values())
    for name, text in TEXTS.items():
        if name.endswith(".css"):
            plain = re.sub(r"/\*.*?\*/|\{[^{}]*\}", "", text, flags=re.DOTALL)
            classes = set(re.findall(r"\.([a-z][\w-]*)", plain))
            assert [each for each in classes if not re.search(rf"\b{each}\b", used)] == [], name


def test_a_reader_finds_an_unclosed_element() -> None:
    with pytest.raises(AssertionError, match="closes another element"):
        Reader("<div><p></div>")
