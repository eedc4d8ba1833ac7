"""Make the README's picture of the page: ``python tests/browser/screenshot.py docs/page.png``.

It needs Selenium, Chromium and its driver; ``python -m nox -s browser`` runs it, too.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import PIL.Image
from browsing import Page, looking, serving

from chameleon_emoji import pictures

SIZE = (1280, 1080)
ASKED_ABOUT = "whale"
REQUEST = "a tulip"
SEED = "0"
SELECTED = [27, 28, 35, 36]


def make_screenshot(path: Path) -> None:
    """Let the embedded model draw, and write the page with what it drew as a PNG of 256 colours."""
    with serving() as url, looking(width=SIZE[0], height=SIZE[1]) as page:
        page.open(url)
        page.write("[name=seed]", SEED)
        ask_about_a_picture(page)
        show_a_drawing(page)
        page.screenshot(path)
    with PIL.Image.open(path) as picture:
        few = picture.convert("RGB").quantize(256, kmeans=20, dither=PIL.Image.Dither.NONE)
    few.save(path, optimize=True)


def ask_about_a_picture(page: Page) -> None:
    """Ask what a picture shows."""
    shown = next(each for each in pictures() if each.name == ASKED_ABOUT and each.split == "train")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{ASKED_ABOUT}.png"
        shown.image.save(file)
        page.attach(file)
    page.ask("what is this?")
    page.wait_for_answer()


def show_a_drawing(page: Page) -> None:
    """Ask for a picture, draw variations of it, and look at its codes."""
    page.ask(REQUEST)
    page.wait_for_answer()
    page.click(".turn.model .show-codes")
    page.run("const s = document.getElementById('strength'); s.value = 100; s.dispatchEvent(new Event('input'))")
    page.click("#vary")
    page.wait_for_answer()
    page.click(".turn.model .versions li:first-child button")
    for cell in SELECTED:
        page.click(f'[data-index="{cell}"]')
    page.click("#show-codes")
    page.run("document.activeElement.blur(); document.getElementById('tokens').scrollTop = 0")


if __name__ == "__main__":
    make_screenshot(Path(sys.argv[1]))
