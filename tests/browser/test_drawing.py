"""Pictures on the page: they draw themselves, stop, are drawn anew in part, and leave as files."""

from __future__ import annotations

import io
import json
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.Image
import pytest

from chameleon_emoji import pictures
from chameleon_text import Image, Text, document_from_json

if TYPE_CHECKING:
    from browsing import Page

CODES = 64
WIDTH = 8
PATIENCE = 20

# Keeps what the picture showed while it was drawn. With a button it also clicks on it at the first preview.
WATCH = """
window.seen = [];
new MutationObserver(() => {
  const figure = document.querySelector(".turn.model .picture");
  const src = figure?.querySelector("img").getAttribute("src");
  if (!src || window.seen.at(-1)?.src === src) return;
  const { value } = figure.querySelector("progress");
  window.seen.push({ src, value, drawing: figure.classList.contains("drawing") });
  if (window.seen.length === 1 && arguments[0]) document.getElementById(arguments[0]).click();
}).observe(document.getElementById("log"), { subtree: true, childList: true, attributes: true });
""".replace("arguments[0]", "button")
RECORD = """
window.sent = [];
const fetch = window.fetch;
window.fetch = (path, options) => {
  if (options?.body) window.sent.push({ path, body: JSON.parse(options.body) });
  return fetch(path, options);
};
"""


def watch(page: Page, button: str = "") -> None:
    page.run(f"const button = {json.dumps(button)};" + WATCH)


def code_list(page: Page) -> dict[str, Any]:
    return json.loads(str(page.run("return document.getElementById('code-list').value")))


def selected(page: Page) -> object:
    cells = "[...document.querySelectorAll('.cell[aria-selected=true]')]"
    return page.run(f"return {cells}.map((cell) => Number(cell.dataset.index))")


def metric(url: str, name: str, *, until: float) -> float:
    """Return a number of the server's metrics once it is ``until``, or as it is when patience ends."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        (value,) = (float(line.split()[1]) for line in lines if line.startswith(f"{name} "))
        if value == until or time.monotonic() > deadline:
            return value
        time.sleep(0.05)


def downloaded(folder: Path, name: str) -> str:
    path = folder / name
    deadline = time.monotonic() + PATIENCE
    while not path.is_file():
        assert time.monotonic() < deadline, f"{name} was never saved"
        time.sleep(0.05)
    text = path.read_text(encoding="utf-8")
    path.unlink()
    return text


def test_a_picture_draws_itself(page: Page) -> None:
    watch(page)
    page.ask("a red apple")
    page.wait_for_answer()
    seen = page.run("return window.seen")
    assert isinstance(seen, list)
    assert len(seen) >= 3
    shares = [each["value"] for each in seen]
    assert shares == sorted(shares)
    assert 0 < shares[0] < 1
    assert [each["drawing"] for each in seen] == [True] * (len(seen) - 1) + [False]
    figure = page.find(".turn.model .picture")
    assert f"{CODES} codes" in figure.text
    image = page.find(".turn.model .frame img")
    assert image.get_attribute("alt") == "Picture drawn for “a red apple”"
    assert image.get_property("naturalWidth") == CODES


def test_a_seed_draws_the_same_picture_again(page: Page) -> None:
    page.write("[name=seed]", "7")
    drawn = []
    for _ in range(2):
        page.ask("a rainbow")
        page.wait_for_answer()
        drawn.append(page.all(".turn.model .frame img")[-1].get_attribute("src"))
    assert drawn[0] == drawn[1]
    assert "seed 7" in page.all(".turn.model figcaption")[-1].text


def test_stop_keeps_what_is_drawn_so_far_and_ends_the_request(page: Page, url: str) -> None:
    page.write("[name=preview_every]", "1")
    watch(page, button="stop")
    page.ask("a penguin")
    page.wait_for_answer()
    caption = page.find(".turn.model figcaption").text
    assert caption.startswith("Stopped after ")
    assert 0 < int(caption.split()[2]) < CODES
    assert "inset(" in str(page.run("return document.querySelector('.turn.model .frame img').style.clipPath"))
    assert page.find(".turn.model .note").text == "Stopped."
    assert metric(url, "chameleon_running_rows", until=0) == 0
    assert not page.find(".turn.model .show-codes").is_enabled()
    page.click(".turn.model .again")
    page.wait_for_answer()
    assert f"{CODES} codes" in page.find(".turn.model figcaption").text


def test_each_code_shows_its_piece_and_its_id(page: Page) -> None:
    page.ask("a rocket")
    page.wait_for_answer()
    page.click(".turn.model .show-codes")
    listed = code_list(page)
    assert listed["grid"] == [WIDTH, CODES // WIDTH]
    assert len(listed["codes"]) == len(listed["ids"]) == CODES
    page.run("document.querySelector('[data-index=\"19\"]').focus()")
    reading = page.find("#reading").text
    assert reading.startswith("row 3, column 4")
    assert f"code {listed['codes'][19]}, id {listed['ids'][19]}" in reading
    middle = "return [...document.getElementById('piece').getContext('2d').getImageData(32, 32, 1, 1).data]"
    assert page.run(middle)[3] == 255


def test_keys_move_over_the_codes_and_select_them(page: Page) -> None:
    page.ask("a whale")
    page.wait_for_answer()
    page.click(".turn.model .show-codes")
    right, down, end, shift, space = "\ue014", "\ue015", "\ue010", "\ue008", " "
    page.run("document.querySelector('[data-index=\"0\"]').focus()")
    for keys in (right, down, space, shift + right, end, right, space):
        page.chrome.switch_to.active_element.send_keys(keys)
    assert selected(page) == [9, 10, 15]
    assert page.find("#redraw").text == "Draw the selection anew (3)"
    assert page.run("return document.querySelectorAll('.cell[tabindex=\"0\"]').length") == 1


def test_a_drag_selects_codes_and_another_takes_them_away(page: Page) -> None:
    page.ask("a whale")
    page.wait_for_answer()
    page.click(".turn.model .show-codes")
    page.drag('[data-index="16"]', '[data-index="20"]')
    assert selected(page) == [16, 17, 18, 19, 20]
    page.drag('[data-index="18"]', '[data-index="20"]')
    assert selected(page) == [16, 17]
    assert page.find("#reading").text.startswith("row 3, column 5")


def test_a_region_is_drawn_anew_and_the_rest_stays(page: Page) -> None:
    page.ask("a red apple")
    page.wait_for_answer()
    page.write("[name=image_temperature]", "20")  # so that it draws something else
    page.click(".turn.model .show-codes")
    before = code_list(page)["codes"]
    region = [row * WIDTH + column for row in (2, 3, 4, 5) for column in (2, 3, 4, 5)]
    for index in region:
        page.click(f'[data-index="{index}"]')
    page.write("#redraw-prompt", "a blue square")
    page.click("#redraw")
    page.wait_for_answer()
    after = code_list(page)["codes"]
    assert len(after) == CODES
    changed = [index for index in range(CODES) if before[index] != after[index]]
    assert changed
    assert set(changed) <= set(region)
    versions = page.all(".turn.model .versions button")
    assert [each.get_attribute("aria-pressed") for each in versions] == ["false", "true"]
    versions[0].click()
    assert code_list(page)["codes"] == before


def test_variations_are_versions_of_the_picture(page: Page) -> None:
    page.run(RECORD)
    page.write("[name=negative_prompt]", "a green heart")
    page.write("[name=guidance_text]", "2.5")
    page.ask("a fox")
    page.wait_for_answer()
    page.click(".turn.model .variations")
    page.click("#vary")
    page.wait_for_answer()
    assert len(page.all(".turn.model .versions button")) == 5
    document, edit = page.run("return window.sent")
    assert [document["path"], edit["path"]] == ["./v1/documents", "./v1/pictures/edits"]
    for body in (document["body"], edit["body"]):
        assert body["negative_prompt"] == "a green heart"
        assert body["options"]["guidance_text"] == 2.5
    assert edit["body"]["prompt"] == "a fox"


def test_the_conversation_leaves_as_files(page: Page, downloads: Path) -> None:
    assert not page.find("#export-json").is_enabled()
    page.ask("a green heart")
    page.wait_for_answer()
    page.click(".turn.model .show-codes")
    page.click("#export-json")
    document = document_from_json(downloaded(downloads, "document.json"))
    assert [type(segment) for segment in document] == [Text, Image]
    assert document[0] == Text("a green heart")
    assert list(document[1].codes or ()) == code_list(page)["codes"]
    page.click("#export-markdown")
    markdown = downloaded(downloads, "document.md")
    assert markdown.startswith("**You**\n\na green heart\n\n**emoji**\n\n![")
    assert "](data:image/png;base64," in markdown


@pytest.mark.parametrize("way", ["file", "paste", "drop"])
def test_a_picture_comes_in_and_is_named(page: Page, tmp_path: Path, way: str) -> None:
    whale = next(each for each in pictures() if each.name == "whale" and each.split == "train")
    path = tmp_path / "whale.png"
    as_picture(whale.image).save(path)
    if way == "file":
        page.find("#file").send_keys(str(path))
    else:
        page.run(GIVE, list(path.read_bytes()), way)
    page.until("return document.querySelector('#attachments li')?.getAttribute('aria-busy') === 'false'")
    page.ask("what is this?")
    page.wait_for_answer()
    assert "whale" in page.find(".turn.model .segments").text
    assert page.find(".turn.user img").get_attribute("alt") == "Picture whale.png"
    page.click(".turn.user .show-codes")
    assert len(code_list(page)["codes"]) == CODES


GIVE = """
const data = new DataTransfer();
data.items.add(new File([new Uint8Array(arguments[0])], "whale.png", { type: "image/png" }));
const event = arguments[1] === "drop"
  ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
  : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
document.body.dispatchEvent(event);
"""


def as_picture(image: object) -> PIL.Image.Image:
    assert isinstance(image, PIL.Image.Image)
    return image


def test_a_question_about_a_drawn_picture(page: Page) -> None:
    page.ask("a panda")
    page.wait_for_answer()
    page.click(".turn.model .ask")
    page.click("#send")
    page.wait_for_answer()
    assert page.all(".turn.model")[-1].find_element("css selector", ".segments").text
    assert page.find("#modality").get_attribute("value") == "image"


def test_the_readme_s_picture_of_the_page_is_made(url: str, tmp_path: Path) -> None:
    from screenshot import SIZE, make_screenshot

    path = tmp_path / "page.png"
    make_screenshot(path)
    data = path.read_bytes()
    with PIL.Image.open(io.BytesIO(data)) as picture:
        assert picture.size == SIZE
    assert len(data) < 150_000
