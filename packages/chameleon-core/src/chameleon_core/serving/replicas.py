"""Replicas of a model on Ray Serve, which answer requests in JSON over HTTP.

``serve run chameleon_core.serving:app model=emoji replicas=2`` starts them.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from .._boundary import translates_errors
from .._files import parse_json
from ..errors import ArgumentError, ChameleonCoreError, ConfigError, EngineFullError
from ..optional_packages import text_package
from ..pipeline import Chameleon, Finished
from ..training.errors import requires_extra
from .options import ReplicaOptions

FIELDS = ("prompt", "modality", "template", "options")
"""What a request may have."""


def app(arguments: Mapping[str, Any]) -> Any:
    """Return the application of Ray Serve; ``arguments`` are fields of ``ReplicaOptions``, as ``serve run`` has them.

    Raises ``ConfigError`` for unknown or impossible arguments and ``MissingPackageError`` without Ray.
    """
    with requires_extra("serving replicas", extra="ray"):
        from ray import serve
    options = ReplicaOptions.from_texts(arguments)
    deployment = serve.deployment(
        name="chameleon",
        num_replicas=options.replicas,
        max_ongoing_requests=options.requests,
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
    )(Replica)
    return deployment.bind(options.to_dict())


class Replica:
    """One process with the model. A request is a JSON object with the fields ``FIELDS``, of which one is needed.

    ``prompt`` is a text or a list of the parts of a document, ``options`` has fields of ``GenerationOptions``. The
    answer has ``document``, whose pictures have their codes, ``ids`` and ``finish_reason``, and ``pictures``, which are
    PNG in base64.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = ReplicaOptions(**options)
        # What Ray sets for its processes is how many processors are reserved.
        torch.set_num_threads(max(1, int(self.options.cpus)))
        self.chameleon = engine_class(self.options.engine).from_pretrained(
            self.options.model, **self.options.engine_options
        )
        self._threads = ThreadPoolExecutor(self.options.requests, thread_name_prefix="chameleon-request")

    async def __call__(self, request: Any) -> Any:
        """Answer a request over HTTP: 200 with the answer, 400 for what can't be met, 503 where too many wait."""
        from starlette.responses import JSONResponse

        stop = threading.Event()
        try:
            wanted = parse_json(await request.body(), "the request", an_object=True)
            return JSONResponse(await self._answered(wanted, stop))
        except asyncio.CancelledError:  # the client went away
            stop.set()
            raise
        except EngineFullError as error:
            return JSONResponse({"error": str(error)}, status_code=503)
        except ChameleonCoreError as error:
            return JSONResponse({"error": str(error)}, status_code=400)

    async def generate(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a request of a program that has a handle. Raises ``ChameleonCoreError``."""
        return await self._answered(wanted, threading.Event())

    async def _answered(self, wanted: Mapping[str, Any], stop: threading.Event) -> dict[str, Any]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, answer, self.chameleon, wanted, stop)


@translates_errors
def answer(chameleon: Chameleon, wanted: Mapping[str, Any], stop: threading.Event) -> dict[str, Any]:
    """Return the answer to a request, what there is of it once ``stop`` is set. Raises ``ChameleonCoreError``."""
    text = text_package()
    unknown = sorted(wanted.keys() - set(FIELDS))
    if unknown or "prompt" not in wanted:
        found = f"has {', '.join(map(repr, unknown))}" if unknown else "has no 'prompt'"
        raise ArgumentError(f"the request {found}; it may have {', '.join(FIELDS)}.")
    prompt, options = wanted["prompt"], wanted.get("options") or {}
    if not isinstance(options, dict):
        raise ArgumentError(f"the options of the request are a {type(options).__name__}, expected an object.")
    parts = [{"type": "text", "text": prompt}] if isinstance(prompt, str) else prompt
    events = chameleon.stream(
        text.document_from_parts(parts),
        modality=wanted.get("modality"),
        template=wanted.get("template", "completion"),
        options=chameleon.model.generation_options.replace(**options),
        should_stop=stop.is_set,
    )
    (end,) = [event for event in events if isinstance(event, Finished)]
    pictures = [part.image for part in end.document if isinstance(part, text.Image) and part.image is not None]
    return {
        "document": text.document_to_parts(end.document),
        "ids": list(end.new_ids),
        "finish_reason": end.reason,
        "pictures": [text.document_to_parts([text.Image(each)])[0]["base64"] for each in pictures],
    }


def engine_class(name: str) -> Any:
    """Return the class of pipelines that ``module:name`` names. Raises ``ConfigError``."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"ReplicaOptions.engine is {name!r}, which can't be imported: {error}. Expected a class as module:name, "
            "such as chameleon_vllm:VLLMChameleon."
        ) from error
