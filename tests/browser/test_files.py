"""The conversation as a file and in the tab: documents are opened and go on, and a reload loses nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from chameleon_core import save_document
from chameleon_emoji import pictures
from chameleon_text import Document, Image, Text, Turn, document_to_json, messages_from_turns
from chameleon_vq import ImageTokenizer

from .test_drawing import RECORD, downloaded

if TYPE_CHECKING:
    from browsing import Page

CODES = 64
SHIFT, TAB, ENTER = "\ue008", "\ue004", "\ue007"
KEPT = "chameleon-conversation"
DROP = """
const data = new DataTransfer();
for (const [name, text] of arguments[0]) data.items.add(new File([text], name));
document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
"""
SHOWN = """
return [...document.querySelectorAll(".turn")].map((turn) => [turn.querySelector(".who").textContent,
  ...[...turn.querySelectorAll(".segments > *")].map((each) => each.matches("p") ? each.textContent
    : each.querySelector(".frame img").src)]);
"""
WHOLE = [number % 4096 for number in range(CODES)]


def image(codes: Any = WHOLE, **fields: Any) -> dict[str, Any]:
    return {"type": "image", "codes": codes, **fields}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


DOCUMENT = [text("Here is one: "), image(grid=[8, 8]), text(" and another: "), image(WHOLE[::-1])]


def open_file(page: Page, path: Path, value: Any) -> None:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    page.find("#document-file").send_keys(str(path))


def wait_until_open(page: Page) -> str:
    page.until("return document.getElementById('notice-text').textContent.includes('is open')")
    return page.find("#notice-text").text


def kept(page: Page) -> Any:
    value = page.run("return sessionStorage.getItem(arguments[0])", KEPT)
    return json.loads(str(value)) if value else None


def test_a_document_is_opened_and_goes_on(page: Page, tmp_path: Path) -> None:
    page.run(RECORD)
    open_file(page, tmp_path / "story.json", DOCUMENT)
    assert wait_until_open(page) == "“story.json” is open. The model sees all, as one message."
    ((who, *segments),) = page.run(SHOWN)  # type: ignore[misc]
    assert who == "story.json"
    assert [segments[0], segments[2]] == ["Here is one:", "and another:"]
    assert segments[1].startswith("data:image/png")
    assert segments[3] != segments[1]
    page.click(".turn:last-of-type .show-codes")
    assert json.loads(str(page.run("return document.getElementById('code-list').value")))["codes"] == WHOLE
    assert page.find("#redraw-prompt").get_attribute("value") == "Here is one:"
    page.choose("#modality", "text")
    page.ask("what is this?")
    page.wait_for_answer()
    body = page.run("return window.sent.at(-1).body")
    expected = [*DOCUMENT[:3], {**DOCUMENT[3], "grid": [8, 8]}, text("what is this?")]
    assert body["prompt"] == expected  # type: ignore[index]
    assert page.all(".turn.model .segments")


def test_what_the_toolkit_writes_is_opened(page: Page, tmp_path: Path) -> None:
    (drawn,) = ImageTokenizer.from_pretrained("emoji").decode([WHOLE])
    document = Document([Text("Once "), Image(drawn, codes=tuple(WHOLE), grid=(8, 8)), Text(" upon a time")])
    turns = [Turn("user", tuple(document)), Turn("assistant", (Image(codes=tuple(WHOLE[::-1])),))]
    save_document(document, tmp_path / "story")
    messages = json.dumps(messages_from_turns(turns))
    for name, value, expected in (
        ("written.json", document_to_json(document), ["written.json"]),
        ("messages.json", messages, ["You", "emoji"]),
        ("saved.json", (tmp_path / "story" / "document.json").read_text(encoding="utf-8"), ["saved.json"]),
    ):
        open_file(page, tmp_path / name, value)
        page.until(
            "return document.getElementById('notice-text').textContent.includes(arguments[0])", f"{name}” is open"
        )
        shown = page.run(SHOWN)
        assert [turn[0] for turn in shown] == expected  # type: ignore[attr-defined]
        assert [shown[0][1], shown[0][3]] == ["Once", "upon a time"]  # type: ignore[index]


def test_a_picture_that_was_cut_off_is_shown_as_far_as_it_is(page: Page, tmp_path: Path, downloads: Path) -> None:
    open_file(page, tmp_path / "cut.json", [text("Once "), image(WHOLE[:20])])
    wait_until_open(page)
    assert page.find(".turn figcaption").text == "Stopped after 20 of 64 codes"
    assert page.run("return document.querySelector('.turn .frame img').style.clipPath") == "inset(0px 0px 75%)"
    assert not page.find(".turn .show-codes").is_enabled()
    page.reload()
    page.until("return document.querySelector('.turn')")
    assert page.find(".turn figcaption").text == "Stopped after 20 of 64 codes"
    page.click("#export-json")
    saved = json.loads(downloaded(downloads, "document.json"))
    assert saved == [text("Once "), image(WHOLE[:20], grid=[8, 8])]
    page.run(RECORD)
    page.choose("#modality", "text")
    page.ask("and then")
    page.wait_for_answer()
    assert page.run("return window.sent.at(-1).body.prompt") == [text("Once "), text("and then")]


def test_what_is_saved_is_opened_as_it_was(page: Page, downloads: Path) -> None:
    page.ask("a green heart")
    page.wait_for_answer()
    before = page.run(SHOWN)
    page.click("#export-json")
    page.run(DROP, [["document.json", downloaded(downloads, "document.json")]])
    wait_until_open(page)
    ((_, *segments),) = page.run(SHOWN)  # type: ignore[misc]
    (_, words), (_, drawn) = before  # type: ignore[misc]
    assert segments[0] == words
    assert segments[1] == drawn


def test_a_document_in_the_place_of_a_conversation_can_be_taken_back(page: Page, tmp_path: Path) -> None:
    page.ask("a star")
    page.wait_for_answer()
    before = page.run(SHOWN)
    open_file(page, tmp_path / "one.json", [text("Once")])
    wait_until_open(page)
    assert page.run(SHOWN) == [["one.json", "Once"]]
    page.click("#bring-back")
    assert page.run(SHOWN) == before
    page.ask("a moon")
    page.wait_for_answer()
    assert not page.find("#bring-back").is_displayed()


def test_keys_are_enough_to_open_a_document_and_to_take_it_back(page: Page, tmp_path: Path) -> None:
    page.ask("a star")
    page.wait_for_answer()
    page.run(
        """
        document.getElementById("document-file").addEventListener("click", (event) => {
          event.preventDefault();
          window.asked = true;
        });
        """
    )
    page.find("#import").send_keys(ENTER)
    assert page.run("return window.asked")
    open_file(page, tmp_path / "one.json", [text("Once")])
    wait_until_open(page)
    assert page.run("return document.activeElement.id") == "prompt"
    page.find("#prompt").send_keys(SHIFT + TAB)
    assert page.run("return document.activeElement.id") == "bring-back"
    page.chrome.switch_to.active_element.send_keys(ENTER)
    assert len(page.all(".turn")) == 2
    assert page.run("return document.activeElement.id") == "prompt"


def test_messages_are_turns_of_their_roles(page: Page, tmp_path: Path) -> None:
    page.run(RECORD)
    messages = [
        {"role": "system", "content": "Answer in a word."},
        {"role": "user", "content": [image(), text("what is this?")]},
        {"role": "assistant", "content": "noise"},
    ]
    open_file(page, tmp_path / "chat.json", messages)
    wait_until_open(page)
    shown = page.run(SHOWN)
    assert [turn[0] for turn in shown] == ["System", "You", "emoji"]  # type: ignore[attr-defined]
    page.choose("#context", "conversation")
    page.choose("#modality", "text")
    page.ask("name it")
    page.wait_for_answer()
    sent = page.run("return window.sent.at(-1).body.messages")
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "user"]  # type: ignore[attr-defined]
    assert sent[1]["content"] == [image(grid=[8, 8]), text("what is this?")]  # type: ignore[index]
    assert not page.find(".turn:last-of-type .note").text.startswith("error")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{not json", "It is no JSON"),
        ({"type": "text", "text": "a"}, "A document is a JSON array of parts"),
        ([], "It has no parts"),
        (["a"], "Part 1 is no object"),
        ([text("a"), {"type": "audio", "codes": [1]}], "Part 2 has the type “audio”"),
        ([{"type": "text", "text": 3}], "Part 1 must have a text"),
        ([{"type": "text", "text": "a\ud800"}], "Part 1 must have a text"),
        ([{"type": "text", "text": "a", "colour": "red"}], "Part 1 has the field “colour”"),
        ([{"role": "pope", "content": "a"}], "Message 1 has the role “pope”"),
        ([{"role": "user", "content": 5}], "The content of message 1"),
        ([text("a")] * 3000, "It has 3000 parts, more than 2000"),
        ([image([1] * 65)], "Part 1: the picture has 65 codes"),
        ([image([])], "Part 1: "),
        ([image([5000] * CODES)], "Part 1: "),
        ([text("a"), image("red")], "Part 2: "),
        ([{"type": "image", "url": "http://example.invalid/a.png"}], "Part 1: "),
        ([{"type": "image", "path": "/etc/passwd"}], "Part 1: "),
        ([image(flavour=1)], "Part 1: "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_is_no_document_is_refused_in_words(page: Page, tmp_path: Path, value: Any, words: str) -> None:
    open_file(page, tmp_path / "good.json", [text("Once")])
    wait_until_open(page)
    open_file(page, tmp_path / "bad.json", value)
    page.until("return !document.getElementById('trouble').hidden")
    assert page.find("#trouble").text.startswith(f"“bad.json” can’t be opened. {words}")
    assert page.run(SHOWN) == [["good.json", "Once"]]
    page.complaints()  # the browser's own, of the status 400


def test_files_that_belong_to_no_document_are_refused(page: Page, tmp_path: Path) -> None:
    page.run(DROP, [["one.json", "[]"], ["two.json", "[]"]])
    assert page.find("#trouble").text == "Open one document at a time, without other files."
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe[]")
    page.find("#document-file").send_keys(str(tmp_path / "binary.json"))
    page.until("return document.getElementById('trouble').textContent.includes('no text in UTF-8')")
    assert page.run(SHOWN) == []


def test_a_reload_keeps_the_conversation(page: Page, tmp_path: Path) -> None:
    whale = next(each for each in pictures() if each.name == "whale" and each.split == "train")
    whale.image.save(tmp_path / "whale.png")  # type: ignore[attr-defined]
    page.attach(tmp_path / "whale.png")
    page.ask("what is this?")
    page.wait_for_answer()
    page.write("[name=seed]", "4")
    page.ask("a tulip")
    page.wait_for_answer()
    page.click(".turn:last-of-type .variations")
    page.click("#vary")
    page.wait_for_answer()
    page.click(".turn:last-of-type .versions li:nth-child(3) button")
    page.choose("#context", "conversation")
    captions = "return [...document.querySelectorAll('.turn figcaption, .turn .note')].map((each) => each.textContent)"
    before, said = page.run(SHOWN), page.run(captions)
    page.reload()
    page.until("return document.querySelectorAll('.turn').length === 4")
    assert (page.run(SHOWN), page.run(captions)) == (before, said)
    pressed = [each.get_attribute("aria-pressed") for each in page.all(".turn:last-of-type .versions button")]
    assert pressed == ["false", "false", "true", "false", "false"]
    assert page.find("#context").get_attribute("value") == "conversation"
    page.choose("#context", "message")
    page.ask("a fish")
    page.wait_for_answer()
    assert len(page.all(".turn")) == 6
    page.click(".turn.user .show-codes")
    assert page.run("return document.querySelectorAll('#board-cells .cell').length") == CODES


def test_a_new_conversation_is_forgotten_by_the_tab(page: Page) -> None:
    page.ask("a star")
    page.wait_for_answer()
    assert kept(page)
    page.click("#new-chat")
    assert kept(page) is None
    page.reload()
    assert page.run(SHOWN) == []
    assert page.find("#welcome").is_displayed()


# Lets no more of an answer through than its first preview.
STALL = """
const fetch = window.fetch;
window.fetch = async (path, options) => {
  const response = await fetch(path, options);
  if (path !== "./v1/documents") return response;
  const [reader, decoder, encoder] = [response.body.getReader(), new TextDecoder(), new TextEncoder()];
  let text = "";
  const body = new ReadableStream({ async start(controller) {
    let end = -1;
    while (end < 0) {
      text += decoder.decode((await reader.read()).value, { stream: true });
      const preview = text.indexOf('"preview":"data');
      end = preview < 0 ? -1 : text.indexOf("\\n\\n", preview);
    }
    controller.enqueue(encoder.encode(text.slice(0, end + 2)));
  } });
  return new Response(body, { headers: response.headers });
};
"""


def test_a_reload_while_a_picture_is_drawn_keeps_what_is_there(page: Page) -> None:
    page.write("[name=preview_every]", "16")
    page.run(STALL)
    page.ask("a penguin")
    shown = str(page.until("return document.querySelector('.turn.model .frame img')?.getAttribute('src')"))
    page.reload()
    page.until("return document.querySelector('.turn.model')")
    assert page.find(".turn.model .note").text == "Stopped."
    said = page.find(".turn.model figcaption").text.split()  # a preview may come with a newer number of codes
    assert (said[:2], said[3:]) == (["Stopped", "after"], ["of", "64", "codes"])
    assert 16 <= int(said[2]) <= CODES
    assert page.find(".turn.model .frame img").get_attribute("src") == shown
    page.click(".turn.model .again")
    page.wait_for_answer()
    assert f"{CODES} codes" in page.find(".turn.model figcaption").text
    assert len(page.all(".turn")) == 2


def test_what_is_too_large_to_keep_is_drawn_again_or_left_out(page: Page) -> None:
    """Nothing fits but the last turns without their pixels, which the server draws of the codes."""
    page.ask("a star")
    page.wait_for_answer()
    page.ask("a moon")
    page.wait_for_answer()
    _, _, asked, drawn = page.run(SHOWN)  # type: ignore[misc]
    # Large notes, which are never left out, in place of a thousand pictures.
    page.run(
        """
        const found = JSON.parse(sessionStorage.getItem(arguments[0]));
        found.turns[0].note = "x".repeat(3_990_000);
        sessionStorage.clear();
        sessionStorage.setItem(arguments[0], JSON.stringify(found));
        Storage.prototype.setItem = () => {};
        """,
        KEPT,
    )
    page.reload()
    page.run("document.querySelector('.turn.model .show-codes').click(); window.dispatchEvent(new Event('pagehide'))")
    found = kept(page)
    versions = [each for turn in found["turns"] for part in turn["segments"] for each in part.get("versions", ())]
    assert all("src" not in version for version in versions)
    assert len(json.dumps(found)) < 4_100_000
    page.reload()
    page.until("return [...document.querySelectorAll('.turn .frame img')].every((image) => image.src)")
    assert page.run(SHOWN)[-2:] == [asked, drawn]  # type: ignore[index]


def test_another_model_s_conversation_is_not_shown(page: Page) -> None:
    page.ask("a star")
    page.wait_for_answer()
    page.run(
        """
        const found = JSON.parse(sessionStorage.getItem(arguments[0]));
        sessionStorage.setItem(arguments[0], JSON.stringify({ ...found, model: "other" }));
        Storage.prototype.setItem = () => {};
        """,
        KEPT,
    )
    page.reload()
    assert page.run(SHOWN) == []


@pytest.mark.parametrize("value", ["{", "[]", '{"form":1,"model":"emoji","turns":5}', '{"form":2,"model":"emoji"}'])
def test_what_is_kept_and_not_understood_is_forgotten(page: Page, value: str) -> None:
    page.run("sessionStorage.setItem(arguments[0], arguments[1])", KEPT, value)
    page.run("Storage.prototype.removeItem = () => {}; Storage.prototype.setItem = () => {}")
    page.reload()
    assert page.run(SHOWN) == []
    page.ask("a star")
    page.wait_for_answer()
    assert len(kept(page)["turns"]) == 2
