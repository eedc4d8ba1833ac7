"""A real server in a thread of this process, at a free port of the loopback address."""

from __future__ import annotations

import base64
import contextlib
import io
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import numpy as np
import PIL.Image
import torch

from chameleon_core import Chameleon
from chameleon_core.demo import make_chameleon
from chameleon_core.serving import SharedChameleon
from chameleon_serve import ServeOptions, make_app
from chameleon_serve.loading import limit_engine
from chameleon_serve.runner import Runner
from chameleon_serve.server import Server, bind, uvicorn_config

SIDE = 8
"""Of the pictures, in pixels: 16 codes each."""
CONTEXT = 256


@dataclass
class Served:
    """A server that runs."""

    address: str
    chameleon: Any
    runner: Runner

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def client(self, **headers: str) -> httpx2.Client:
        return httpx2.Client(base_url=self.address, timeout=60, headers=headers)

    def post(self, path: str, **body: Any) -> httpx2.Response:
        with self.client() as client:
            return client.post(path, json=body)

    def settled(self, seconds: float = 20) -> bool:
        """Wait until nothing runs or waits, and say whether it came to that."""
        engine = self.chameleon.shared
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            gate = self.runner.gate
            if (
                not engine.num_running
                and not engine.positions
                and not gate.rows
                and not gate.num_waiting
                and not self.runner._running
            ):
                return True
            time.sleep(0.02)
        return False


def small_pipeline() -> Chameleon:
    """A small model in double precision, so that rounding, which depends on the batch, decides nothing."""
    return make_chameleon(resolution=SIDE, context_length=CONTEXT).to(dtype=torch.float64)


@contextlib.contextmanager
def serving(alone: Chameleon, *, shared: Chameleon | None = None, **changes: Any) -> Iterator[Served]:
    """Serve a pipeline's model with some options changed, on the toolkit's engine unless ``shared`` has another."""
    options = ServeOptions(model="small", port=0, **changes)
    if shared is None:
        shared = own = SharedChameleon(alone.model, alone.processor, alone.image_tokenizer)
        limit_engine(own, options)
    app = make_app(shared, options)
    listening = bind(options)
    is_ready = threading.Event()
    server = Server(uvicorn_config(app, options), app.state.runner, is_ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    assert is_ready.wait(20)
    try:
        yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}", shared, app.state.runner)
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
        assert not thread.is_alive()


def picture(seed: int = 0, side: int = SIDE) -> PIL.Image.Image:
    """A picture of four colours."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return PIL.Image.fromarray(colours.repeat(side // 2, 0).repeat(side // 2, 1))


def url_of(image: PIL.Image.Image, kind: str = "PNG") -> str:
    """A picture as a data URL."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def picture_of(url: str) -> PIL.Image.Image:
    """The picture of a data URL, or of base64 alone."""
    return PIL.Image.open(io.BytesIO(base64.b64decode(url.rpartition(",")[2])))


def events_of(response: httpx2.Response) -> Iterator[tuple[str, str]]:
    """The events of a stream: name and data."""
    name = "message"
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, line.removeprefix("data: ")
            name = "message"
