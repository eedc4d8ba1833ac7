"""A real server with the embedded model, and a headless Chromium that looks at its page."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVER = "chromedriver"
PATIENCE = 60
"""Seconds until something that should happen has failed to."""


def browser_files() -> tuple[str, str] | None:
    """Return the paths of Chromium and of its driver, or None where one of them isn't installed."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    driver = shutil.which(DRIVER)
    return (browser, driver) if browser and driver else None


@contextlib.contextmanager
def serving(*arguments: str, port: int | None = None) -> Iterator[str]:
    """Run ``chameleon serve emoji`` in a process of its own, and give its URL once it answers."""
    port = port or free_port()
    command = [sys.executable, "-m", "chameleon_core", "serve", "emoji", "--port", str(port), *arguments]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + PATIENCE
        while not answers(f"{url}/health"):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server of the tests hasn't started: {' '.join(command)}")
            time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait(PATIENCE)


@contextlib.contextmanager
def looking(
    *, width: int = 1280, height: int = 860, downloads: Path | None = None, dark: bool = False
) -> Iterator[Page]:
    """Run a headless Chromium with a window of a size in CSS pixels."""
    files = browser_files()
    if files is None:
        raise RuntimeError(f"{BROWSERS[0]} and {DRIVER} aren't both installed; on Debian: chromium, chromium-driver.")
    browser, driver = files
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    if downloads is not None:
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    try:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, still]})
        yield Page(chrome)
    finally:
        chrome.quit()


class Page:
    """What the tests do with the page."""

    def __init__(self, chrome: webdriver.Chrome) -> None:
        self.chrome = chrome

    def open(self, url: str) -> None:
        """Open the page without an earlier conversation, and wait until it knows the model."""
        self.chrome.get(url)
        self.wait_for_model()
        if self.run("return sessionStorage.length"):
            self.run("sessionStorage.clear(); Storage.prototype.setItem = () => {}")
            self.reload()

    def reload(self) -> None:
        """Load the page again, and wait until it knows the model."""
        self.chrome.refresh()
        self.wait_for_model()

    def wait_for_model(self) -> None:
        """Wait until the page knows the model."""
        self.until("return document.getElementById('model-facts').textContent.includes('codes')")

    def run(self, script: str, *arguments: object) -> object:
        """Run JavaScript and return what it returns."""
        return self.chrome.execute_script(script, *arguments)

    def until(self, script: str, *arguments: object) -> object:
        """Wait until JavaScript returns something that is true, and return it."""
        return WebDriverWait(self.chrome, PATIENCE, 0.05).until(lambda _: self.run(script, *arguments), script)

    def find(self, selector: str) -> WebElement:
        """Return the first element of a CSS selector."""
        return self.chrome.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        """Return the elements of a CSS selector."""
        return self.chrome.find_elements(By.CSS_SELECTOR, selector)

    def click(self, selector: str) -> None:
        """Click on an element, once it can be used."""
        self.until("const e = document.querySelector(arguments[0]); return e && !e.disabled && !e.hidden", selector)
        self.find(selector).click()

    def drag(self, start: str, end: str) -> None:
        """Press the button of the mouse on an element, and release it on another."""
        one, other = self.find(start), self.find(end)
        ActionChains(self.chrome, duration=50).click_and_hold(one).move_to_element(other).release().perform()

    def choose(self, selector: str, value: str) -> None:
        """Choose an option of a select element by its value."""
        self.find(f'{selector} option[value="{value}"]').click()

    def write(self, selector: str, text: str) -> None:
        """Replace what a field holds."""
        field = self.find(selector)
        field.clear()
        field.send_keys(text)

    def attach(self, path: Path) -> None:
        """Put a picture into the message, and wait until its codes are read."""
        self.find("#file").send_keys(str(path))
        self.until("return document.querySelector('#attachments li')?.getAttribute('aria-busy') === 'false'")

    def ask(self, text: str) -> None:
        """Send a message."""
        self.write("#prompt", text)
        self.click("#send")

    def wait_for_answer(self) -> None:
        """Wait until nothing is being written."""
        self.until("return !document.getElementById('send').hidden")

    def complaints(self) -> list[str]:
        """Return what the browser complained of since the last call: errors of scripts, violated policies."""
        entries = self.chrome.get_log("browser")
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def screenshot(self, path: Path) -> None:
        """Save what the window shows."""
        self.chrome.save_screenshot(str(path))


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def answers(url: str) -> bool:
    """Return whether a URL can be read."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False
