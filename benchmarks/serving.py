"""The server under load: requests per second, waiting times, equal ids, clients that hang up, a long queue.

    python benchmarks/serving.py [--requests 240] [--hang-ups 1000] [--queued 10000] [--json FILE] [-- SERVER OPTIONS]

``chameleon serve emoji`` runs in a process of its own, with one thread, and the clients in this one. Requests are
mixed: a caption of a picture, a drawing, an interleaved document, all sampled with fixed seeds, streamed. Each number
of clients sends the same requests, and each request's ids are compared with those that the pipeline writes alone.
With ``-- --engine vllm --dtype float32 --engine-option enforce_eager=true`` it is the server on vLLM.
"CPU" is the time on all cores that the server takes for a request, on average.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import torch
from rows.machine import machine

from chameleon_core import Chameleon, Finished
from chameleon_text import document_from_parts

THINGS = ("a red apple", "a blue heart", "a green leaf", "a yellow star", "a panda", "a tulip", "a train", "a fox")
CLIENTS = (1, 8, 32)
GOAL = 4.0
"""How many times the sequential rate 8 clients should get."""
HEAD = "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"


def mixed(count: int, picture: str) -> list[dict[str, Any]]:
    """Return the bodies of the requests."""
    bodies = []
    for number in range(count):
        thing = THINGS[number % len(THINGS)]
        options: dict[str, Any] = {"do_sample": True, "seed": number, "guidance_text": 1.0}
        if number % 3 == 0:
            shown = [{"type": "image", "url": picture}, {"type": "text", "text": "what is this?"}]
            body: dict[str, Any] = {"prompt": shown, "modality": "text"}
            options["max_new_tokens"] = 24
        elif number % 3 == 1:
            body = {"prompt": thing, "modality": "image"}
        else:
            body = {"prompt": thing, "modality": "interleaved"}
            options["max_new_tokens"] = 100
        bodies.append({**body, "options": options})
    return bodies


class Server:
    """``chameleon serve emoji``, in a process of its own."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "chameleon_core", "serve", "emoji", "--port", "0", *options]
        self.folder = tempfile.TemporaryDirectory()
        log = Path(self.folder.name) / "log"
        with log.open("w") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output)
        found = None
        while found is None:
            time.sleep(0.1)
            said = log.read_text()
            if self.process.poll() is not None:
                raise SystemExit(f"the server doesn't run: {said[-5000:]}")
            found = re.search(r"emoji is served at \S+:(\d+)$", said, re.MULTILINE)
        self.port = int(found[1])

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *raised: object) -> None:
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()

    @property
    def processes(self) -> list[int]:
        """The server's process and those that it has started."""
        found = [self.process.pid]
        for each in found:
            for tasks in Path(f"/proc/{each}/task").glob("*/children"):
                with contextlib.suppress(OSError):  # a thread that has just ended
                    found += map(int, tasks.read_text().split())
        return found

    @property
    def megabytes(self) -> float:
        """The memory of the processes, in MB; nan where the system doesn't say."""
        try:
            pages = sum(int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in self.processes)
        except OSError:
            return float("nan")
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    @property
    def cpu_seconds(self) -> float:
        """The time that the processes have had on all cores; nan where the system doesn't say."""
        try:
            stats = [Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split() for each in self.processes]
        except OSError:
            return float("nan")
        return sum(int(fields[11]) + int(fields[12]) for fields in stats) / os.sysconf("SC_CLK_TCK")

    @property
    def files(self) -> int:
        """The open files of the processes; 0 where the system doesn't say."""
        try:
            return sum(len(os.listdir(f"/proc/{each}/fd")) for each in self.processes)
        except OSError:
            return 0

    async def counts(self) -> dict[str, float]:
        """Return the server's own counters."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("chameleon_")]
        return {name: float(value) for name, value in lines}

    async def idle(self) -> bool:
        """Wait until no row runs and no request waits; return whether it came to that within a minute."""
        for _ in range(600):
            counts = await self.counts()
            names = ("running_rows", "waiting_requests", "cached_positions")
            if not any(counts.get(f"chameleon_{name}") for name in names):
                return True
            await asyncio.sleep(0.1)
        return False


async def ask(port: int, body: dict[str, Any], path: str = "/v1/documents") -> AsyncIterator[tuple[str, Any, float]]:
    """Send a streamed request, and yield its events with the seconds since; one named "status" where it is refused."""
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    try:
        content = json.dumps({**body, "stream": True}).encode()
        writer.write(f"{HEAD.format(path=path, length=len(content))}Connection: close\r\n\r\n".encode() + content)
        status = int((await reader.readline()).split()[1])
        if status != 200:
            yield "status", status, time.perf_counter() - start
            return
        name = ""
        while line := (await reader.readline()).decode():
            if line.startswith("event: "):
                name = line.removeprefix("event: ").strip()
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: ")), time.perf_counter() - start
    finally:
        writer.close()


async def answered(port: int, body: dict[str, Any]) -> tuple[list[int] | None, float, float]:
    """Return the ids of a request, None where it was lost, with the seconds to its first output and to its end."""
    ids, first, end = None, float("nan"), float("nan")
    async for name, data, seconds in ask(port, body):
        if name in ("TextDelta", "ImageStarted") and first != first:
            first = seconds
        if name == "Finished":
            ids, end = data["ids"], seconds
    return ids, first, end


async def load(port: int, bodies: list[dict[str, Any]], clients: int) -> tuple[list[Any], float]:
    """Let so many clients send the requests, and return the answers in their order, and the seconds."""
    answers: list[Any] = [None] * len(bodies)
    left = iter(enumerate(bodies))

    async def client() -> None:
        for number, body in left:
            answers[number] = await answered(port, body)

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return answers, time.perf_counter() - start


def written_alone(bodies: list[dict[str, Any]]) -> list[list[int]]:
    """Return the ids of each request as the pipeline writes them alone, in float32."""
    chameleon = Chameleon.from_pretrained("emoji")
    found = []
    for body in bodies:
        prompt = body["prompt"] if isinstance(body["prompt"], str) else document_from_parts(body["prompt"])
        events = chameleon.stream(prompt, modality=body["modality"], template="chat", **body["options"])
        found += [list(event.new_ids) for event in events if isinstance(event, Finished)]
    return found


async def throughput(server: Server, bodies: list[dict[str, Any]], alone: list[list[int]]) -> list[dict[str, Any]]:
    """Print a row for each number of clients."""
    await load(server.port, bodies[:6], 2)  # what is made at the first request
    rows: list[dict[str, Any]] = []
    print(
        f"{'clients':>8}{'requests/s':>12}{'× 1 client':>12}{'CPU, ms':>9}"
        f"{'first, ms':>24}{'whole, ms':>24}{'differ':>8}{'lost':>6}"
    )
    for clients in CLIENTS:
        before = server.cpu_seconds
        answers, seconds = await load(server.port, bodies, clients)
        firsts = [1000 * first for _, first, _ in answers if first == first]
        ends = [1000 * end for _, _, end in answers if end == end]
        rate = len(bodies) / seconds
        row = {
            "clients": clients,
            "requests_per_second": rate,
            "to_sequential": rate / rows[0]["requests_per_second"] if rows else 1.0,
            "cpu_ms": 1000 * (server.cpu_seconds - before) / len(bodies),
            "first_ms": quantiles(firsts),
            "whole_ms": quantiles(ends),
            "differ": sum(ids is not None and ids != own for (ids, _, _), own in zip(answers, alone, strict=True)),
            "lost": sum(ids is None for ids, _, _ in answers),
        }
        rows.append(row)
        shown = "".join(f"{'p50 {:.0f}, p95 {:.0f}'.format(*row[name]):>24}" for name in ("first_ms", "whole_ms"))
        print(
            f"{clients:>8}{rate:>12.2f}{row['to_sequential']:>12.2f}{row['cpu_ms']:>9.0f}{shown}"
            f"{row['differ']:>8}{row['lost']:>6}"
        )
    print(f"goal: {GOAL:g} times the sequential rate at 8 clients; found {rows[1]['to_sequential']:.2f}")
    return rows


def quantiles(values: list[float]) -> tuple[float, float]:
    """Return the median, and what 19 of 20 are below."""
    return statistics.median(values), statistics.quantiles(values, n=20)[-1]


async def hang_ups(server: Server, bodies: list[dict[str, Any]], count: int) -> dict[str, Any]:
    """Let clients go away at random moments, and print what they leave behind."""
    chance = random.Random(0)
    moments = [chance.random() * 1.5 for _ in range(count)]
    slots = asyncio.Semaphore(64)

    async def client(number: int) -> None:
        async with slots:
            events = ask(server.port, bodies[number % len(bodies)])
            try:
                async with asyncio.timeout(moments[number]):
                    async for _ in events:
                        pass
            except TimeoutError:
                pass
            finally:
                await events.aclose()

    async def round_of(numbers: range) -> tuple[float, int]:
        await asyncio.gather(*(client(number) for number in numbers))
        settled = await server.idle()
        await asyncio.sleep(0.5)
        return (server.megabytes if settled else float("nan")), server.files

    first = await round_of(range(count // 5))
    last = await round_of(range(count // 5, count))
    counts = await server.counts()
    found = {
        "clients": count,
        "running_rows": counts["chameleon_running_rows"],
        "waiting": counts["chameleon_waiting_requests"],
        "positions": counts.get("chameleon_cached_positions"),  # of the toolkit's engine alone
        "megabytes": (first[0], last[0]),
        "files": (first[1], last[1]),
    }
    print(
        f"{count} clients that hang up: {found['running_rows']:.0f} rows run, {found['waiting']:.0f} requests wait and "
        f"{found['positions']} positions are cached afterwards; memory {first[0]:.0f} MB after a fifth of them, "
        f"{last[0]:.0f} MB after all; open files {first[1]} and {last[1]}"
    )
    return found


async def queue(server: Server, count: int) -> dict[str, Any]:
    """Let many requests wait at once, and print whether each was answered."""
    before = server.megabytes
    body = {"prompt": "a red apple", "modality": "text", "options": {"max_new_tokens": 1, "do_sample": False}}
    most = 0.0
    start = time.perf_counter()
    tasks = [asyncio.create_task(answered(server.port, body)) for _ in range(count)]

    async def watch() -> None:
        nonlocal most
        while True:
            counts = await server.counts()
            most = max(most, counts["chameleon_waiting_requests"])
            await asyncio.sleep(0.5)

    watching = asyncio.create_task(watch())
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    watching.cancel()
    seconds = time.perf_counter() - start
    ids = [each[0] for each in answers if isinstance(each, tuple) and each[0] is not None]
    found = {
        "requests": count,
        "answered": len(ids),
        "different": len({tuple(each) for each in ids}),
        "most_waiting": most,
        "seconds": seconds,
        "megabytes": (before, server.megabytes),
    }
    print(
        f"{count} requests at once: {len(ids)} answered in {seconds:.1f} s, with {found['different']} kinds of ids; "
        f"{most:.0f} seen waiting; memory {before:.0f} MB before and {found['megabytes'][1]:.0f} MB after"
    )
    return found


async def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=240, help="requests for each number of clients")
    parser.add_argument("--hang-ups", type=int, default=1000, help="clients that go away")
    parser.add_argument("--queued", type=int, default=10_000, help="requests that wait at once")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("server", nargs="*", help="options of the server, after --; by default --threads 1")
    given = parser.parse_args()
    torch.set_num_threads(1)
    here = machine()
    print(f"{here['processor']}, {os.cpu_count()} cores, torch {here['versions']['torch']}")
    picture = Chameleon.from_pretrained("emoji").draw("a red apple", seed=0)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    bodies = mixed(given.requests, f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}")
    alone = written_alone(bodies)
    found: dict[str, Any] = {"machine": here}
    with Server("--max-waiting", str(given.queued + 1), *(given.server or ("--threads", "1"))) as server:
        found["throughput"] = await throughput(server, bodies, alone)
        if given.hang_ups:
            found["hang_ups"] = await hang_ups(server, bodies, given.hang_ups)
        if given.queued:
            found["queue"] = await queue(server, given.queued)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
