"""A client of vLLM's HTTP server: text and pictures, whole or while they are written, through ``/v1/completions``.

The processor and the image tokenizer run in the client; what goes over the wire are ids.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import threading
import urllib.parse
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NoReturn, Self

import torch

from chameleon_core import Chameleon, ConfigError, GenerationError, GenerationOptions, Step
from chameleon_core.pipeline.description import described_at
from chameleon_core.protocols import ImageTokenizerLike

from .errors import EngineError
from .following import Following
from .parts import Front, rows_of
from .row_parts import KEY, RowPart, Signals, options_of

Found = tuple[int, int | Exception | None]
"""The number of a row, and an id that was written, None at the end, or what went wrong."""


class CompletionsClient(Chameleon):
    """``Chameleon`` whose transformer is on a server of vLLM: the same methods and events, without guidance.

    ``from_pretrained`` makes one; its ``model`` has the configuration and the options, and no weights.
    """

    address: str
    """The address of the server, as "http://localhost:8000"."""
    timeout: float
    """Seconds after which a server that says nothing is an error."""

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        name_or_folder: str | os.PathLike[str],
        *,
        address: str,
        timeout: float = 600.0,
        image_tokenizer: ImageTokenizerLike | None = None,
        image_device: torch.device | str = "cpu",
    ) -> Self:
        """Load the processor and the image tokenizer of the model that a server has; its weights aren't read.

        Raises ``ConfigError`` where ``address`` isn't that of an HTTP server.
        """
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"address must be like 'http://localhost:8000'; got {address!r}.")
        front = Front.load(name_or_folder, image_tokenizer, image_device)
        client = cls(front.model, front.processor, front.image_tokenizer)
        client.address, client.timeout = address, timeout
        return client

    def run_rows(
        self,
        rows: Sequence[Sequence[int]],
        options: GenerationOptions,
        *,
        written: Sequence[Sequence[int]],
        should_stop: Callable[[], bool] | None = None,
    ) -> Generator[Step]:
        """Run prompts of ids on the server, each as a request of its own, and yield what any of them writes."""
        of_pictures = options.modality in ("image", "interleaved")
        names = ("guidance_text", "guidance_image") if of_pictures else ("guidance_scale",)
        guided = [name for name in names if getattr(options, name) != 1]
        if guided:
            raise GenerationError(
                f"{' and '.join(guided)} needs groups of requests in step, which the HTTP server has no way to ask "
                f"for. Set {' and '.join(guided)} to 1, or use VLLMChameleon."
            )
        if options.max_time is not None:
            raise GenerationError("max_time isn't offered through HTTP; stop with should_stop, or close the stream.")
        signals = Signals.of(self.layout)
        machines = rows_of(self, rows, options, written)
        followed = [Following(machine, signals) for machine in machines]
        return self._steps(followed, [len(ids) for ids in written], should_stop or (lambda: False))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> NoReturn:
        """Raise ``ConfigError``: the transformer is on the server."""
        raise ConfigError("the transformer is on the server; pass image_device to from_pretrained.")

    def save_pretrained(self, folder: str | os.PathLike[str], *, checkpoint_format: str = "hf") -> NoReturn:
        """Raise ``ConfigError``: the weights are on the server."""
        raise ConfigError("the weights are on the server; save them with chameleon_core.Chameleon.")

    def __repr__(self) -> str:
        return described_at(f"at {self.address}", self, super().__repr__())

    def _steps(
        self, rows: Sequence[Following], given: Sequence[int], should_stop: Callable[[], bool]
    ) -> Generator[Step]:
        for number, row in enumerate(rows):
            yield from _steps_of(rows, number, row.machine.new_ids[given[number] :])
        found: queue.Queue[Found] = queue.Queue()
        closing = threading.Event()
        running = {number for number, row in enumerate(rows) if row.machine.finish_reason is None}
        for number in running:
            rows[number].start()
            request = self._body(rows[number])
            threading.Thread(target=self._read, args=(number, request, found, closing), daemon=True).start()
        try:
            while running and not should_stop():
                with contextlib.suppress(queue.Empty):
                    number, token_id = found.get(timeout=0.1)
                    if number not in running:
                        continue  # what the server wrote beyond the row's end
                    if isinstance(token_id, Exception):
                        raise token_id
                    if token_id is None:
                        raise EngineError(f"row {number}: the server ended the request before the row's end.")
                    new = rows[number].take(token_id)
                    if rows[number].machine.finish_reason is not None:
                        running.remove(number)
                    yield from _steps_of(rows, number, new)
        finally:
            closing.set()

    def _body(self, row: Following) -> dict[str, Any]:
        machine = row.machine
        options = machine.options.replace(seed=machine.seed)
        part = RowPart(
            options=dict(options_of(options)), prompt_length=len(machine.row.prompt), index=machine.row.index
        )
        return {
            "prompt": machine.ids,
            "max_tokens": machine.row.room,
            "temperature": 0,
            "stop_token_ids": sorted({*machine.row.stop_ids, *row.signals}),
            "ignore_eos": True,
            "stream": True,
            "return_token_ids": True,
            "vllm_xargs": {KEY: part.encode()},
        }

    def _read(self, number: int, body: dict[str, Any], found: queue.Queue[Found], closing: threading.Event) -> None:
        """Put every id that the server writes for a row into a queue, then None, or what went wrong."""
        try:
            with contextlib.closing(self._ids(body)) as ids:
                for token_id in ids:
                    if closing.is_set():
                        return  # the connection is closed, by which the server ends the request
                    found.put((number, token_id))
            found.put((number, None))
        except Exception as error:
            found.put((number, error))

    def _ids(self, body: dict[str, Any]) -> Generator[int]:
        """Yield the ids of a request. Raises ``EngineError`` where the server can't be reached or refuses it."""
        parts = urllib.parse.urlsplit(self.address)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self.timeout)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", f"{parts.path.rstrip('/')}/v1/completions", json.dumps(body), headers)
            response = connection.getresponse()
            if response.status != 200:
                said = response.read(2000).decode(errors="replace")
                raise EngineError(f"the server at {self.address} answered {response.status}: {said}")
            for line in response:
                data = line.decode().removeprefix("data:").strip()
                if line.startswith(b"data:") and data != "[DONE]":
                    yield from _ids_in(data)
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"the server at {self.address} can't be used: {error}. Is it running?") from error
        finally:
            connection.close()


def _ids_in(data: str) -> Sequence[int]:
    """Return the ids of a chunk. Raises ``EngineError`` where it has none."""
    try:
        chunk = json.loads(data)
        if "error" in chunk:
            raise EngineError(f"the server ended a request: {chunk['error']}.")
        return [token_id for choice in chunk["choices"] for token_id in choice["token_ids"] or ()]
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"the server sent a chunk without token_ids: {data:.200}.") from error


def _steps_of(rows: Sequence[Following], number: int, new: Sequence[int]) -> Iterator[Step]:
    """Yield a step for each new id of one row."""
    for place, token_id in enumerate(new):
        is_last = place + 1 == len(new)
        ids = [token_id if other == number else None for other in range(len(rows))]
        reasons = [row.machine.finish_reason if is_last and other == number else None for other, row in enumerate(rows)]
        yield Step(tuple(ids), tuple(reasons))
