"""``generate`` with the arguments of ``transformers``, run by the engine of this package.

A call is read into options, which the engine knows, and settings of the call; the prompts are read; the engine writes;
and what it wrote is returned as a tensor or as a ``GenerateOutput``.

Shapes: B batch, T prompt length, X new ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, ChameleonCoreError, GenerationError
from ..generation import Engine, ExtraProcessors, GenerationOptions, Request, RequestHandle, TextDecoder
from ..generation.stream import run_steps, with_seed
from .callables import AllowedIds, BatchProcessors, Criteria, ScoreRecorder, listed_callables
from .decoders import EmbeddedPrompts, PassedCache, Uncached
from .generation_arguments import Call, id_field, num_rows_each, read_call, with_lengths
from .generation_inputs import Prompts, read_prompts
from .generation_outputs import GenerateOutput, replay


def generate(
    model: Any,
    arguments: Mapping[str, Any],
    *,
    options: GenerationOptions | None = None,
    tokenizer: TextDecoder | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Tensor | GenerateOutput:
    """Continue prompts as the arguments of ``ChameleonForConditionalGeneration.generate`` ask for."""
    call = read_call(model, options, arguments)
    vocab_size = model.config.vocab_size
    asked = id_field(call, "pad_token_id", vocab_size)
    pad_id = model.pad_token_id if asked is None else asked
    ends = model.config.eos_token_ids if call.options.eos_token_ids is None else call.options.eos_token_ids
    prompts = read_prompts(
        model,
        {**call.prompts, "bos_token_id": id_field(call, "bos_token_id", vocab_size)},
        pad_id=model._known_pad_id if asked is None else asked,
        fill_id=pad_id,
        ends=ends,
    )
    call.options = with_seed(with_lengths(call, prompts.width))
    times = num_rows_each(call)
    if call.num_beams > 1:
        return _Run(model, call, prompts, pad_id, tokenizer).search(times, should_stop)
    return _Run(model, call, prompts.repeated(times), pad_id, tokenizer).run(should_stop)


def positional_arguments(second: object, third: object) -> dict[str, Any]:
    """Return the second and third positional arguments of ``generate`` by name.

    They are the mask and the pixels here, and in ``transformers`` the options and a list of logits processors.
    """
    named = {}
    for value, ours, theirs in (
        (second, "attention_mask", "generation_config"),
        (third, "pixel_values", "logits_processor"),
    ):
        if value is not None:
            named[ours if isinstance(value, Tensor) else theirs] = value
    return named


class _Run:
    """One call while it runs."""

    def __init__(self, model: Any, call: Call, prompts: Prompts, pad_id: int, tokenizer: TextDecoder | None) -> None:
        self.model = model
        self.call = call
        self.prompts = prompts
        self.pad_id = pad_id
        self.written: list[list[int]] = [[] for _ in prompts.rows]
        self.streamer = call.callables["streamer"]
        self.criteria = Criteria(listed_callables("stopping_criteria", call.callables["stopping_criteria"]))
        self.given = self._given_processors()
        self.watermark = self._watermark()
        self.recorder = self._recorder()
        self.engine = self._engine(tokenizer)

    def run(self, should_stop: Callable[[], bool] | None) -> Tensor | GenerateOutput:
        """Write until every row has ended, and return the result."""
        self._write(should_stop or (lambda: False))
        written_BX = self._written_ids()
        sequences = torch.cat((self.prompts.ids_BT, written_BX), dim=1)
        if not self.call.is_on("return_dict_in_generate"):
            if self.call.past_key_values is not None:
                self._replay(written_BX)
            return sequences
        return self._output(sequences, written_BX)

    def search(self, count: int, should_stop: Callable[[], bool] | None) -> Tensor | GenerateOutput:
        """Search until the best texts are known, and return the best ``count`` of each prompt."""
        handles = self._write(should_stop or (lambda: False))
        for row, handle in enumerate(handles):
            if len(handle.hypotheses) < count:
                raise GenerationError(
                    f"row {row}: the search found {len(handle.hypotheses)} texts, and num_return_sequences is {count}. "
                    "Lower it."
                )
        best = [each for handle in handles for each in handle.hypotheses[:count]]
        self.prompts = self.prompts.repeated(count)
        self.written = [list(each.ids) for each in best]
        sequences = torch.cat((self.prompts.ids_BT, self._written_ids()), dim=1)
        if not self.call.is_on("return_dict_in_generate"):
            return sequences
        scores = torch.tensor([each.score for each in best], device=sequences.device)
        return GenerateOutput(
            sequences=sequences, sequences_scores=scores if self.call.is_on("output_scores") else None
        )

    def _write(self, should_stop: Callable[[], bool]) -> list[RequestHandle]:
        """Run the engine until every row has ended. What a function of the caller raises is raised as it was."""
        try:
            return self._run_engine(should_stop)
        except ChameleonCoreError:
            for each in (self.given, self.watermark):
                if each is not None and each.error is not None:
                    raise each.error from None
            raise

    def _run_engine(self, should_stop: Callable[[], bool]) -> list[RequestHandle]:
        last = tuple(each for each in (self.watermark, self.recorder) if each is not None)
        inner = () if self.given is None else (self.given,)
        extra = ExtraProcessors(inner, last) if inner or last else None
        handles = [
            self.engine.submit(Request(prompt=ids, options=options, index=row, processors=extra))
            for row, (ids, options) in enumerate(zip(self.prompts.rows, self._options(), strict=True))
        ]
        if self.streamer is not None:
            self.streamer.put(self.prompts.shown_BT.cpu())
        ended = [False] * len(handles)
        for step in run_steps(self.engine, handles, should_stop):
            for row, token_id in enumerate(step.ids):
                if token_id is not None and not ended[row]:
                    self.written[row].append(token_id)
            if self.streamer is not None and any(each is not None for each in step.ids):
                ids = [self.pad_id if each is None or ended[row] else each for row, each in enumerate(step.ids)]
                self.streamer.put(torch.tensor(ids))
            if self.criteria.criteria:
                for row, ends in enumerate(self.criteria.ended(self._ids_so_far(), self._scores())):
                    if ends and not ended[row]:
                        handles[row].cancel()
                        ended[row] = True
        if self.streamer is not None:
            self.streamer.end()
        return handles

    def _options(self) -> Sequence[GenerationOptions]:
        """Return the options of each row, which differ where each has a negative prompt of its own."""
        options, prompts = self.call.options, self.call.negative_prompts
        if prompts is None:
            return [options] * len(self.prompts.rows)
        mask = torch.ones_like(prompts) if self.call.negative_mask is None else self.call.negative_mask
        times, left_over = divmod(len(self.prompts.rows), max(len(prompts), 1))
        if left_over or mask.shape != prompts.shape:
            raise GenerationError(
                f"negative_prompt_ids {list(prompts.shape)} must have a row for each of the prompts, and its mask "
                f"{list(mask.shape)} the same shape."
            )
        rows = [ids[real].tolist() for ids, real in zip(prompts, mask.bool(), strict=True)]
        return [options.replace(negative_prompt_ids=tuple(ids)) for ids in rows for _ in range(times)]

    def _engine(self, tokenizer: TextDecoder | None) -> Engine[Any]:
        decoder, options, cache = self.model, self.call.options, self.call.past_key_values
        is_cached = self.call.fields.get("use_cache") is not False
        if not is_cached and (cache is not None or self.prompts.embeddings):
            raise ArgumentError("use_cache=False can't be used with past_key_values or inputs_embeds; leave it out.")
        if self.prompts.embeddings:
            decoder = EmbeddedPrompts(self.model, self.prompts.embeddings)
        elif not is_cached:
            decoder = Uncached(self.model)
        engine: Engine[Any] = Engine(
            decoder,
            tokenizer=tokenizer,
            cache_implementation=options.cache_implementation,
            prompt_chunk=self.call.fields.get("prefill_chunk_size"),
        )
        if cache is not None and cache.length:
            engine.prefixes = PassedCache(cache, self.prompts.rows, engine.cache)  # type: ignore[assignment]
        return engine

    def _given_processors(self) -> BatchProcessors | None:
        """Return the processors that were passed as callables, as one."""
        allowed = self.call.callables["prefix_allowed_tokens_fn"]
        given = listed_callables("logits_processor", self.call.callables["logits_processor"])
        found = [*([] if allowed is None else [AllowedIds(allowed)]), *given]
        return self._batch_processors(found) if found else None

    def _watermark(self) -> BatchProcessors | None:
        config = self.call.fields.get("watermarking_config")
        if config is None:
            return None
        if not hasattr(config, "construct_processor"):
            raise ArgumentError(
                f"watermarking_config is {config!r:.80}; expected an object with construct_processor, as "
                "transformers.WatermarkingConfig."
            )
        return self._batch_processors([config.construct_processor(self.model.config.vocab_size, self.model.device)])

    def _batch_processors(self, processors: Sequence[Any]) -> BatchProcessors:
        return BatchProcessors(
            processors, self.prompts.ids_BT.to(self.model.device), self.pad_id, self.model.config.vocab_size
        )

    def _recorder(self) -> ScoreRecorder | None:
        is_asked = self.call.is_on("return_dict_in_generate") and self.call.is_on("output_scores")
        if not is_asked or self.call.num_beams > 1:
            return None
        return ScoreRecorder(self.model.config.vocab_size, normalized=self.call.is_on("renormalize_logits"))

    def _scores(self) -> tuple[Tensor, ...] | None:
        if self.recorder is None:
            return None
        return self.recorder.scores(self.written, self.pad_id, self.model.device)

    def _written_ids(self) -> Tensor:
        """Return what each row wrote, int64 [B, X], the shorter rows filled with padding."""
        width = max(map(len, self.written), default=0)
        padded = [ids + [self.pad_id] * (width - len(ids)) for ids in self.written]
        device = self.prompts.ids_BT.device
        return torch.tensor(padded, dtype=torch.int64, device=device).reshape(len(padded), width)

    def _ids_so_far(self) -> Tensor:
        return torch.cat((self.prompts.ids_BT, self._written_ids()), dim=1)

    def _replay(self, written_BX: Tensor, cache: Any = None, **asked: bool) -> Any:
        return replay(
            self.model,
            self.prompts.rows,
            written_BX.to(self.model.device),
            embeddings=self.prompts.embeddings,
            cache=self.call.past_key_values if cache is None else cache,
            **asked,
        )

    def _output(self, sequences: Tensor, written_BX: Tensor) -> GenerateOutput:
        cache = None
        if self.call.fields.get("use_cache") is not False and self.call.past_key_values is None:
            cache = self.model.new_cache(len(sequences), capacity=sequences.shape[1])
        asked = {name: self.call.is_on(f"output_{name}") for name in ("logits", "attentions", "hidden_states")}
        if not written_BX.shape[1] or not (any(asked.values()) or cache or self.call.past_key_values is not None):
            return GenerateOutput(sequences=sequences, scores=self._scores())
        shown = self._replay(written_BX, cache, **asked)
        logits = shown.logits
        if logits is not None and self.model.config.vocabulary_map is not None and self.call.options.modality == "text":
            codes_Z = self.model.layout.code_to_id_Z.to(self.model.device)
            lowest = torch.tensor(torch.finfo(self.model.dtype).min, dtype=self.model.dtype).float().item()
            logits = tuple(each_BV.index_fill(-1, codes_Z, lowest) for each_BV in logits)
        return GenerateOutput(
            sequences=sequences,
            scores=self._scores(),
            logits=logits,
            attentions=shown.attentions,
            hidden_states=shown.hidden_states,
            past_key_values=shown.cache,
        )
