"""The page around the pictures: errors in plain words, the key, colours, narrow windows, the keyboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import PIL.Image
import pytest

if TYPE_CHECKING:
    from browsing import Page

NARROW = 390
ESCAPE, ENTER, SHIFT = "\ue00c", "\ue007", "\ue008"
REFUSE = """
const fetch = window.fetch;
window.fetch = (path, options) => path === "./v1/documents"
  ? Promise.resolve(new Response(JSON.stringify({ error: { message: "8 requests wait already." } }),
      { status: 429, headers: { "Retry-After": "3" } }))
  : fetch(path, options);
"""


def test_what_the_server_refuses_is_said_in_its_words(page: Page) -> None:
    page.write("[name=others]", '{"temprature": 1}')
    page.ask("a red apple")
    page.wait_for_answer()
    assert "temprature" in page.find(".turn.model .trouble").text
    page.write("[name=others]", '{"min_p": 0.05}')
    page.click(".turn.model .again")
    page.wait_for_answer()
    assert "64 codes" in page.find(".turn.model figcaption").text
    assert len(page.complaints()) == 1  # the browser's own, of the status 400


def test_options_that_are_no_json_are_never_sent(page: Page) -> None:
    page.write("[name=others]", "{min_p: 0.05}")
    page.ask("a red apple")
    page.wait_for_answer()
    assert "can’t be read" in page.find("#others-trouble").text
    assert "can’t be read" in page.find(".turn.model .trouble").text


def test_a_full_queue_is_said_with_the_time_to_wait(page: Page) -> None:
    page.run(REFUSE)
    page.ask("a red apple")
    page.wait_for_answer()
    said = page.find(".turn.model .trouble").text
    assert said == "The server is busy. 8 requests wait already. Try again in 3 s."


@pytest.mark.parametrize(("name", "size"), [("bomb.png", (20_000, 20_000)), ("notes.txt", None)])
def test_a_picture_that_can_t_be_used_is_said_to_be(
    page: Page, tmp_path: Path, name: str, size: tuple[int, int] | None
) -> None:
    path = tmp_path / name
    if size is None:
        path.write_text("These are notes.")
    else:
        PIL.Image.new("1", size).save(path)
    page.find("#file").send_keys(str(path))
    page.until("return !document.getElementById('trouble').hidden")
    said = page.find("#trouble").text
    assert name in said
    assert "no picture" in said or "pixels" in said
    assert page.all("#attachments li") == []
    page.complaints()


def test_a_server_that_is_gone_is_said_to_be(browser: Page) -> None:
    from browsing import free_port, serving

    port = free_port()
    with serving(port=port) as url:
        browser.open(url)
    browser.ask("a red apple")
    browser.wait_for_answer()
    assert "The server doesn’t answer" in browser.find(".turn.model .trouble").text
    with serving(port=port):
        browser.click(".turn.model .again")
        browser.wait_for_answer()
        assert "64 codes" in browser.find(".turn.model figcaption").text


def test_a_server_with_a_key_is_asked_with_it(browser: Page) -> None:
    from browsing import serving

    with serving("--api-key", "open-sesame") as url:
        browser.chrome.get(url)
        browser.until("return document.getElementById('key-dialog').open")
        browser.write("#key", "open-barley")
        browser.find("#key").send_keys(ENTER)
        browser.until(
            "return document.getElementById('key-dialog').open && !document.getElementById('key-refused').hidden"
        )
        browser.write("#key", "open-sesame")
        browser.find("#key").send_keys(ENTER)
        browser.until("return document.getElementById('model-facts').textContent.includes('codes')")
        browser.ask("a red apple")
        browser.wait_for_answer()
        assert "64 codes" in browser.find(".turn.model figcaption").text
        browser.run("sessionStorage.clear()")


def test_escape_stops_and_enter_sends(page: Page) -> None:
    page.write("[name=preview_every]", "1")
    prompt = page.find("#prompt")
    prompt.send_keys("a", SHIFT + ENTER)
    assert page.all(".turn") == []
    prompt.clear()
    prompt.send_keys("a red apple", ENTER)
    page.find("body").send_keys(ESCAPE)
    page.wait_for_answer()
    assert page.find(".turn.model .note").text == "Stopped."


def test_colours_are_the_system_s_until_they_are_chosen(page: Page) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = page.run(ground)
    page.click("#theme")
    assert page.run(ground) == light
    page.click("#theme")
    dark = page.run(ground)
    assert dark != light
    page.chrome.refresh()
    page.until("return document.getElementById('theme').textContent.endsWith('Dark')")
    assert page.run(ground) == dark
    page.run("localStorage.clear()")


@pytest.mark.parametrize("dark", [False, True])
def test_a_narrow_window_holds_everything(url: str, dark: bool) -> None:
    from browsing import looking

    with looking(width=NARROW, height=844, dark=dark) as page:
        page.open(url)
        page.ask("a red apple")
        page.wait_for_answer()
        widest = "return document.scrollingElement.scrollWidth"
        assert page.run(widest) == NARROW
        page.click(".turn.model .show-codes")
        page.until("return document.activeElement.id === 'tab-tokens'")
        assert page.find("#board-cells").rect["width"] > NARROW * 0.8
        assert page.run(widest) == NARROW
        page.click("#close-panel")
        page.until("return getComputedStyle(document.getElementById('panel')).visibility === 'hidden'")
        assert page.run("return document.activeElement.className") == "show-codes"
        assert page.find("#prompt").is_displayed()


def test_a_small_window_shows_the_end_of_what_is_opened(url: str, tmp_path: Path) -> None:
    from browsing import looking

    path = tmp_path / "long.json"
    path.write_text(json.dumps([{"type": "text", "text": "A long story. " * 200}]), encoding="utf-8")
    with looking(width=320, height=640) as page:
        page.open(url)
        page.find("#document-file").send_keys(str(path))
        page.until("return document.getElementById('notice-text').textContent.includes('is open')")
        distance = (
            "const log = document.getElementById('log'); return log.scrollHeight - log.scrollTop - log.clientHeight"
        )
        page.until(f"{distance} < 2")
        assert page.run("return document.scrollingElement.scrollWidth") == 320


def test_what_has_the_focus_is_visible_in_every_place(page: Page) -> None:
    missing = page.run(
        """
        const all = [...document.querySelectorAll("button, input, select, textarea, a")];
        const usable = all.filter((each) => each.checkVisibility() && !each.disabled && each.tabIndex >= 0);
        return usable.filter((each) => {
          each.focus({ focusVisible: true });
          return getComputedStyle(each).outlineStyle === "none";
        }).map((each) => each.outerHTML);
        """
    )
    assert missing == []


# A server that exists on the page alone: a model with two sizes of pictures, and an answer in pieces.
STAND_IN = """
window.sent = [];
const sizes = [[2, 2], [2, 4]].map(([height, width]) => (
  { size: `${8 * width}x${8 * height}`, pixels: [8 * height, 8 * width], grid: [height, width] }));
const model = { id: "two-sizes", chameleon: { sizes, modalities: ["text", "image", "interleaved"], templates: ["chat"],
  reads_pictures: true, draws_pictures: true, context_length: 4096, options: {}, limits: {},
  refused_options: { top_k: "No top-k." } } };
const dot = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";
const event = (name, data) => `event: ${name}\\r\\ndata: ${JSON.stringify({ row: 0, ...data })}\\r\\n\\r\\n`;
const pieces = [
  event("Started", { seed: 5 }) + ": ping\\r\\n\\r\\n" + event("TextDelta", { text: "Here " }),
  event("TextDelta", { text: "it is: 🦎" }),
  event("ImageStarted", { num_codes: 8, grid: [2, 4] }),
  event("ImageProgress", { codes_done: 4, num_codes: 8, preview: dot, codes: [1, 2, 3, 4] }),
  event("ImageFinished", { image: dot, codes: [1, 2, 3, 4, 5, 6, 7, 8], ids: [9, 9, 9, 9, 9, 9, 9, 9], grid: [2, 4] }),
  event("TextDelta", { text: "Done." }),
  event("Finished", { reason: "length", document: [] }),
  event("Done", { usage: {} }),
];
window.fetch = async (path, options) => {
  if (path === "./v1/models") return Response.json({ data: [model] });
  window.sent.push(JSON.parse(options.body));
  const bytes = new TextEncoder().encode(pieces.join(""));
  const body = new ReadableStream({ start(controller) {
    for (let at = 0; at < bytes.length; at += 3) controller.enqueue(bytes.slice(at, at + 3));  // which cuts the lizard
    controller.close();
  } });
  return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
};
"""


def test_an_interleaved_answer_of_a_model_with_several_sizes(url: str) -> None:
    from browsing import looking

    with looking() as page:
        page.chrome.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": STAND_IN})
        page.open(url)
        assert page.find("#model-facts").text == "16×16 pixels, 2×2 codes, and other sizes"
        assert page.find("#context").get_attribute("value") == "conversation"
        assert not page.find("[name=top_k]").is_enabled()
        assert page.find("[name=top_k]").get_attribute("title") == "No top-k."
        page.choose("[name=image_size]", "[16,32]")
        page.choose("#modality", "interleaved")
        page.ask("Draw it.")
        page.wait_for_answer()
        (body,) = page.run("return window.sent")
        assert body["options"]["image_size"] == [16, 32]
        assert body["modality"] == "interleaved"
        assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Draw it."}]}]
        kinds = page.run(
            "return [...document.querySelectorAll('.turn.model .segments > *')].map((each) => each.tagName)"
        )
        assert kinds == ["P", "FIGURE", "P"]
        assert page.find(".turn.model p").text == "Here it is: 🦎"
        assert page.find(".turn.model figcaption").text == "seed 5 · 8 codes"
        assert page.find(".turn.model .note").text == "It ended at the most ids."
        frame = page.find(".turn.model .frame").rect
        assert frame["width"] == pytest.approx(2 * frame["height"], rel=0.05)
        page.click(".turn.model .show-codes")
        assert len(page.all("#board-cells [role=row]")) == 2
        page.ask("And again.")
        page.wait_for_answer()
        second = page.run("return window.sent[1]")
        assert [each["role"] for each in second["messages"]] == ["user", "assistant", "user"]
        assert second["messages"][1]["content"][1] == {
            "type": "image",
            "codes": [1, 2, 3, 4, 5, 6, 7, 8],
            "grid": [2, 4],
        }
        assert page.complaints() == []
