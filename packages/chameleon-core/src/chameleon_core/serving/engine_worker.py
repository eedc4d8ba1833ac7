"""The engine in a process of its own: it takes calls from a connection, makes steps, and sends what they write.

One thread does all of it, so that nothing in the process waits for the interpreter's lock.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .._workers import picklable
from ..config import ChameleonConfig
from ..generation import Engine, FinishReason, GenerationOptions, Hypothesis, NewIds, Request, RequestHandle
from ..generation.calls import submit_together
from ..generation.shared_engine import HAND_OVER_SECONDS, REST_SECONDS
from ..model import ChameleonForConditionalGeneration
from ..pipeline.chameleon import COMPILED_ROWS
from ..threads import default_threads


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the model that the engine's process has."""

    config: ChameleonConfig
    """Its configuration, as it was loaded."""
    generation_options: GenerationOptions
    """Its own options of generation."""
    source: Path | None
    """The folder that it came from."""
    num_bytes: int
    """The memory of its weights, in bytes."""
    device: str
    """Where it runs."""
    compile_seconds: dict[int, float]
    """How long its steps took to compile, for each number of rows; none where they aren't compiled."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What the engine's process loads."""

    name: Any
    """A folder, the name of an installed model or a Hub id."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of ``ChameleonForConditionalGeneration.from_pretrained``, and ``compile``."""
    bounds: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of ``Engine``."""
    threads: int | None = None
    """Threads on the CPU; None for what suits the model."""

    def load(self) -> tuple[ChameleonForConditionalGeneration, Facts]:
        """Return the model and what is known of it. Raises as ``from_pretrained`` and ``compile_decoding`` do."""
        arguments = dict(self.arguments)
        compiles = arguments.pop("compile", False)
        model = ChameleonForConditionalGeneration.from_pretrained(self.name, **arguments)
        num_bytes, device = model.get_memory_footprint(), str(model.device)
        threads = self.threads or default_threads(num_bytes, device)
        if threads is not None:
            torch.set_num_threads(threads)
        seconds = model.compile_decoding(COMPILED_ROWS) if compiles else {}
        return model, Facts(model.config, model.generation_options, model.source, num_bytes, device, seconds)


class Written(NamedTuple):
    """What a step gave one request of a call."""

    call: int
    """The number of the call."""
    row: int
    """The index of the request in it."""
    ids: tuple[int, ...]
    """Its new ids, none where it ended without one."""
    finish_reason: FinishReason | None
    """Why it ended; None while it runs."""
    hypotheses: tuple[Hypothesis, ...]
    """What a search found, best first; none without one, and while it runs."""
    error: Exception | None
    """What went wrong where the reason is "error"."""


class Counts(NamedTuple):
    """How busy the engine is."""

    num_running: int = 0
    """How many requests run."""
    positions: int = 0
    """How many positions the cache has room for."""


def run_worker(connection: Connection, source: ModelSource) -> None:
    """Load a model and run its engine, until the other end of the connection closes or says "stop".

    The first message sent is the model's ``Facts``; the first received, ("words", text tokenizer, segment grammars). A
    message None then says that the engine runs. What goes wrong before is sent in its place.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # the other process decides when this one ends
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):  # the other process is gone
        engine = _engine(connection, source)
        if engine is None:
            return
        connection.send(None)
        gc.collect()
        gc.freeze()  # a full collection of the libraries' objects would hold up the steps
        EngineWorker(engine, connection).run()


def _engine(connection: Connection, source: ModelSource) -> Engine[Any] | None:
    """Return the engine of what is loaded and received; None where there is none, after what went wrong was sent."""
    try:
        model, facts = source.load()
    except Exception as error:
        connection.send(picklable(error))
        return None
    connection.send(facts)
    match connection.recv():
        case ("words", tokenizer, grammars):
            pass
        case _:  # told to stop before it has begun
            return None
    try:
        model.attach_tokenizer(tokenizer, grammars)
        return Engine(model, tokenizer=tokenizer, **source.bounds)
    except Exception as error:
        connection.send(picklable(error))
        return None


class EngineWorker:
    """Steps an engine for the calls that come over a connection.

    Messages to it are ("begin", call, requests), ("cancel", call), ("leave", call) and ("stop",). Its own are ("begun",
    call, an error or None), ("wrote", steps, counts), where a step is a list of ``Written``, and ("failed", call,
    error).
    """

    def __init__(self, engine: Engine[Any], connection: Connection) -> None:
        self._engine = engine
        self._connection = connection
        self._calls: dict[int, list[RequestHandle]] = {}
        self._owners: dict[RequestHandle, tuple[int, int]] = {}
        self._silent: set[int] = set()
        self._is_stopped = False
        self._steps: list[list[Written]] = []
        self._sent = 0.0
        self._counts = Counts()

    def run(self) -> None:
        """Take messages and make steps until told to stop. Raises ``EOFError`` where the other end is gone."""
        while True:
            while self._engine.is_idle or self._connection.poll():
                if self._engine.is_idle:
                    self._send()
                self._take(self._connection.recv())
                if self._is_stopped:
                    return
            try:
                events = self._engine.step()
            except Exception as error:
                self._fail(error)
            else:
                self._add(events)

    def _take(self, message: Any) -> None:
        match message:
            case ("begin", call, requests):
                self._begin(call, requests)
            case ("cancel", call):
                for handle in self._calls.get(call, ()):
                    handle.cancel()
            case ("leave", call):
                for handle in self._calls.pop(call, ()):
                    handle.cancel()
                    self._owners.pop(handle, None)
                self._silent.discard(call)
            case ("stop",):
                self._is_stopped = True
            case _:
                raise ValueError(f"unknown message {message!r:.100}")

    def _begin(self, call: int, requests: Sequence[Request]) -> None:
        """Submit the requests of a call, all or none."""
        try:
            handles = submit_together(self._engine, requests)
        except Exception as error:
            self._connection.send(("begun", call, picklable(error)))
            return
        self._calls[call] = handles
        self._owners.update((handle, (call, row)) for row, handle in enumerate(handles))
        self._silent.add(call)
        self._connection.send(("begun", call, None))

    def _add(self, events: Sequence[NewIds]) -> None:
        """Keep what a step gave until it is sent, which it is soon where somebody waits for a beginning or an end."""
        step = []
        is_urgent = False
        for event in events:
            if event.handle not in self._owners:  # its caller has left
                continue
            call, row = self._owners[event.handle]
            error: Any = None if event.handle.error is None else picklable(event.handle.error)
            step.append(Written(call, row, event.ids, event.finish_reason, event.handle.hypotheses, error))
            is_urgent = is_urgent or event.finish_reason is not None or call in self._silent
            self._silent.discard(call)
        if step:
            self._steps.append(step)
        if self._steps and (is_urgent or time.monotonic() - self._sent >= HAND_OVER_SECONDS):
            self._send()

    def _send(self) -> None:
        counts = Counts(self._engine.num_running, self._engine.cache.positions)
        if self._steps or counts != self._counts:
            self._connection.send(("wrote", self._steps, counts))
            self._steps, self._counts, self._sent = [], counts, time.monotonic()

    def _fail(self, error: Exception) -> None:
        """Let all calls end with the error of a step, which left rows nobody knows how far."""
        self._send()
        for call, handles in self._calls.items():
            for handle in handles:
                handle.cancel()
            self._connection.send(("failed", call, picklable(error)))
        self._calls.clear()
        self._owners.clear()
        self._silent.clear()
        self._connection.poll(REST_SECONDS)
