"""The pipeline ``Chameleon``: pictures to codes, the prompt to ids, the continuation to a document.

Shapes: B rows, T length of the longest prompt, N codes a picture.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Self, Unpack, cast

import torch

from .._boundary import translates_errors
from .._commits import committing
from .._files import write_json, writing
from ..checkpoints.load import usable_device
from ..checkpoints.quantization_plan import Quantization
from ..errors import ConfigError, GenerationError
from ..folder_parts import picture_settings
from ..generation import GenerationOptions, Step, generate_ids
from ..generation.options import Modality, PipelineChanges
from ..model import ChameleonForConditionalGeneration
from ..optional_packages import text_package
from ..picture_grammars import Grid
from ..protocols import ImageTokenizerLike, ProcessorLike
from .attach import attach_image_tokenizer, find_processor
from .description import described
from .events import Event, Finished
from .parts import DeferredImageTokenizer, check_image_tokenizer, check_picture_format, check_vocabularies, sized
from .prompts import Prompt, encode_prompts
from .row_reader import RowReader
from .short_forms import ShortForms
from .written import Written, written_ids

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from chameleon_text import Document, Results

PREPROCESSOR_FILE = "preprocessor_config.json"
PROCESSOR_FILES = ("tokenizer.json", "tokenizer_config.json", "processor_config.json", PREPROCESSOR_FILE)
"""The files of a processor, which belong to the model that they are saved with."""
NO_LOADING_INFO = "from_pretrained of a pipeline returns it alone: leave output_loading_info out."
COMPILED_ROWS = (1, 2, 4)
"""The numbers of rows for which ``compile`` compiles steps at once: a row, and one with its branches of guidance."""


class Chameleon(ShortForms):
    """A model, a processor and an image tokenizer that belong together.

    A prompt is a str, a picture (PIL image, uint8 array, ``Path``), a segment of chameleon-text, or a list of these.
    ``image_tokenizer`` reads and draws pictures; without one it is the processor's, else the one in the folder that the
    model came from, loaded when the first picture needs it. It is attached to the model, too.

    Raises ``ConfigError`` or ``VocabularyError`` where the parts don't fit each other. Every error of its methods is a
    ``ChameleonCoreError``.
    """

    @translates_errors
    def __init__(
        self,
        model: ChameleonForConditionalGeneration,
        processor: ProcessorLike,
        image_tokenizer: ImageTokenizerLike | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.compile_seconds: dict[int, float] = {}
        check_vocabularies(model, processor)
        model.attach_tokenizer(processor.tokenizer, getattr(processor, "segment_grammars", None))
        self.layout = model.layout
        check_picture_format(processor, self.layout)
        given = processor.image_tokenizer if image_tokenizer is None else image_tokenizer
        self._image_tokenizer: ImageTokenizerLike | None = None
        if given is not None and not isinstance(given, DeferredImageTokenizer):
            check_image_tokenizer(given, self.layout)
            self._image_tokenizer = model.image_tokenizer = given

    @classmethod
    @translates_errors
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str],
        *,
        dtype: torch.dtype | str | None = "auto",
        device: torch.device | str = "cpu",
        attn_implementation: str = "sdpa",
        quantization: str | Quantization | None = None,
        check_finite: bool = True,
        tensor_parallel: int = 1,
        image_tokenizer: str | os.PathLike[str] | ImageTokenizerLike | None = None,
        processor: str | os.PathLike[str] | ProcessorLike | None = None,
        compile: bool = False,  # noqa: A002  # the word of torch
        **unknown: object,
    ) -> Self:
        """Load the model and the processor of a folder, of an installed model's name or of a Hub id.

        The arguments and errors are those of ``ChameleonForConditionalGeneration.from_pretrained``. The processor reads
        pictures with the folder's image tokenizer, which is loaded when the first picture needs it.

        ``image_tokenizer`` is another one: a folder, a registered name, a Hub id, or a folder with Meta's
        ``vqgan.yaml`` and ``vqgan.ckpt``. It is for folders that have none, or none that draws; where the model's
        folder has one, encoder and codebook must be the same. ``processor`` is that of another folder, for folders
        without a tokenizer; one beside the image tokenizer is found without it.

        ``compile`` compiles the steps of generation, as ``chameleon.model.compile_decoding(COMPILED_ROWS)`` does, which
        takes from seconds to minutes: ``compile_seconds`` says how long. Raises ``ConfigError`` where torch can't.
        """
        if unknown.pop("output_loading_info", False):
            raise ConfigError(NO_LOADING_INFO)
        model = ChameleonForConditionalGeneration.from_pretrained(
            name_or_folder,
            dtype=dtype,
            device=device,
            attn_implementation=attn_implementation,
            quantization=quantization,
            check_finite=check_finite,
            tensor_parallel=tensor_parallel,
            **unknown,
        )
        reader = cast(ImageTokenizerLike, DeferredImageTokenizer(model))
        if image_tokenizer is not None:
            reader = attach_image_tokenizer(model, image_tokenizer, check_finite=check_finite)
        chameleon = cls(model, find_processor(model, processor, reader, image_tokenizer))
        if compile:
            chameleon.compile_seconds = model.compile_decoding(COMPILED_ROWS)
        return chameleon

    @translates_errors
    def save_pretrained(self, folder: str | os.PathLike[str], *, checkpoint_format: str = "hf") -> None:
        """Write everything that ``from_pretrained`` reads, in one commit.

        ``checkpoint_format`` is an installed format: "hf", the layout of ``transformers``, "meta" or a plugin's; the
        processor's files are beside the weights in each. A process that dies while it saves leaves the pipeline that
        was in the folder or the new one, whole.
        """
        with writing(folder), committing(folder, replaces=PROCESSOR_FILES) as save:
            self.processor.save_pretrained(save)
            if self._image_tokenizer is not None:
                self._image_tokenizer.image_processor.save_pretrained(save)
            elif self.model.source is not None:
                # The weights of an image tokenizer that was never needed are copied, and so are its constants.
                constants = picture_settings(self.model.source)
                if constants is not None:
                    write_json(save / PREPROCESSOR_FILE, constants)
            self.model.save_pretrained(save, checkpoint_format=checkpoint_format)

    @translates_errors
    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move the model to a device, a dtype or both, and the image tokenizer to the device; return the pipeline.

        The image tokenizer keeps its dtype, because codes depend on it. Raises ``ConfigError``, before anything moves,
        where torch can't use the device here.
        """
        if device is not None:
            usable_device(device)
        self.model.to(device=device, dtype=dtype)
        move = getattr(self._loaded_image_tokenizer, "to", None)
        if device is not None and move is not None:
            move(device)
        return self

    @property
    def image_tokenizer(self) -> ImageTokenizerLike:
        """What reads and draws pictures.

        Raises ``MissingPackageError`` where it needs chameleon-vq and that isn't installed, ``ConfigError`` where there
        is none, or one of another model.
        """
        if self._image_tokenizer is None:
            self._image_tokenizer = DeferredImageTokenizer(self.model).load()
        return self._image_tokenizer

    @translates_errors
    def generate(
        self,
        prompt: Prompt,
        *,
        modality: Modality | None = None,
        options: GenerationOptions | None = None,
        template: str = "completion",
        written: Written | None = None,
        should_stop: Callable[[], bool] | None = None,
        **changes: Unpack[PipelineChanges],
    ) -> Document:
        """Continue a prompt and return what was written as a document, without the prompt.

        ``modality`` is "text", "image", "interleaved" or the name of a segment codec that has a grammar, of which one
        segment is written. ``options`` are the model's own unless given, and ``changes``
        are single fields of them (``max_new_tokens=50``). ``template`` "chat" makes the prompt the user's turn.
        ``should_stop`` is called before each step; once it returns true, the partial document is returned.

        ``written`` goes on from what an interrupted run of this prompt returned: a document whose last text or picture
        may be unfinished, or the ``new_ids`` of ``Finished``. The whole document is returned, and ``max_new_tokens``
        counts what was written, too; with the same seed, ids are those of a run that was never interrupted.

        Pictures are returned drawn, with their codes. Raises ``ContextLengthError`` before any work where the context
        is too short.
        """
        (document,) = self.generate_batch(
            [prompt],
            modality=modality,
            options=options,
            template=template,
            written=[written],
            should_stop=should_stop,
            **changes,
        )
        return document

    @translates_errors
    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        *,
        modality: Modality | None = None,
        options: GenerationOptions | None = None,
        template: str = "completion",
        written: Sequence[Written | None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        **changes: Unpack[PipelineChanges],
    ) -> Results[Document]:
        """Continue several prompts in one batch and return a list of a document for each, in the prompts' order.

        A notebook shows the documents beside each other. The arguments are those of ``generate``; ``written`` has an
        entry for each prompt, None where nothing was.
        """
        events = self.stream_batch(
            prompts,
            modality=modality,
            options=options,
            template=template,
            written=written,
            should_stop=should_stop,
            **changes,
        )
        documents = {event.row: event.document for event in events if isinstance(event, Finished)}
        return text_package().Results(documents[row] for row in range(len(prompts)))

    @translates_errors
    def stream(
        self,
        prompt: Prompt,
        *,
        modality: Modality | None = None,
        options: GenerationOptions | None = None,
        template: str = "completion",
        written: Written | None = None,
        preview_every: int | None = None,
        should_stop: Callable[[], bool] | None = None,
        **changes: Unpack[PipelineChanges],
    ) -> Generator[Event]:
        """Continue a prompt and yield events while the document is written; the last, ``Finished``, has the document.

        Every ``preview_every`` codes of a picture, ``ImageProgress`` has the picture as far as it is drawn; None or 0
        gives no such previews. The other arguments are those of ``generate``; of what was ``written``, only a picture
        that is still open has an event, ``ImageStarted``. Closing the iterator stops generation.
        """
        return self.stream_batch(
            [prompt],
            modality=modality,
            options=options,
            template=template,
            written=[written],
            preview_every=preview_every,
            should_stop=should_stop,
            **changes,
        )

    @translates_errors
    def stream_batch(
        self,
        prompts: Sequence[Prompt],
        *,
        modality: Modality | None = None,
        options: GenerationOptions | None = None,
        template: str = "completion",
        written: Sequence[Written | None] | None = None,
        preview_every: int | None = None,
        should_stop: Callable[[], bool] | None = None,
        **changes: Unpack[PipelineChanges],
    ) -> Generator[Event]:
        """Continue several prompts in one batch and yield the events of all; a row's last event is ``Finished``.

        Prompts and options are checked eagerly, before the first event is requested. The arguments are those of
        ``stream``.
        """
        if isinstance(prompts, str):
            raise GenerationError(
                "stream_batch and generate_batch take a list of prompts; got one str. Use stream or generate for it."
            )
        if preview_every is not None and preview_every < 0:
            raise GenerationError(
                f"preview_every must be a number of codes, or 0 or None for no previews; got {preview_every}."
            )
        options = options or self.model.generation_options
        # Together, because some options go with one modality.
        options = options.replace(**changes) if modality is None else options.replace(modality=modality, **changes)
        rows = encode_prompts(
            prompts,
            template=template,
            options=options,
            processor=self.processor,
            layout=self.layout,
            context_length=self.model.config.context_length,
            image_tokenizer=lambda: self.image_tokenizer,
        )
        earlier = [[] if each is None else written_ids(each, self.processor, self.layout) for each in written or []]
        earlier = earlier or [[] for _ in rows]
        if len(earlier) != len(rows):
            raise GenerationError(f"written has {len(earlier)} entries for {len(rows)} prompts; give one for each.")
        readers = [
            RowReader(
                row,
                layout=self.layout,
                decoder=self.processor.tokenizer.stream_decoder(),
                draw=self._draw,
                preview=self._preview,
                decode=self.processor.decode_document,
                document=text_package().as_document([]),
                preview_every=preview_every or 0,
            )
            for row in range(len(rows))
        ]
        # None where there is nothing to run.
        steps = self.run_rows(rows, options, written=earlier, should_stop=should_stop) if rows else None
        return _events(steps, readers, earlier)

    @translates_errors
    def run_rows(
        self,
        rows: Sequence[Sequence[int]],
        options: GenerationOptions,
        *,
        written: Sequence[Sequence[int]],
        should_stop: Callable[[], bool] | None = None,
    ) -> Generator[Step]:
        """Run prompts of ids, at least one, until every row has ended or ``should_stop()`` is true; yield each step.

        ``written`` are the ids that each row has written in an earlier run. Prompts and options are checked eagerly.
        All that the pipeline generates comes from here, so a subclass that has another engine overrides it.
        """
        width = max(map(len, rows))
        ids_BT = [[self.layout.pad_id] * (width - len(ids)) + list(ids) for ids in rows]
        mask_BT = [[0] * (width - len(ids)) + [1] * len(ids) for ids in rows]
        return generate_ids(
            self.model,
            torch.tensor(ids_BT, device=self.model.device),
            torch.tensor(mask_BT, device=self.model.device),
            options,
            written=written,
            tokenizer=self.processor.tokenizer,
            should_stop=should_stop,
        )

    @property
    def _loaded_image_tokenizer(self) -> ImageTokenizerLike | None:
        # The processor loads the model's without this object.
        return self.model._image_tokenizer if self._image_tokenizer is None else self._image_tokenizer

    def _draw(self, codes: Sequence[int], grid: Grid | None) -> PILImage:
        codes_1N = torch.tensor([codes])
        if grid is None:
            (image,) = self.image_tokenizer.decode(codes_1N)
        else:
            (image,) = sized(self.image_tokenizer).decode(codes_1N, latent_size=grid)
        return image

    def _preview(self, codes: Sequence[int], grid: Grid | None) -> PILImage:
        codes_n = torch.tensor(codes, dtype=torch.int64)
        if grid is None:
            return self.image_tokenizer.preview(codes_n)
        return sized(self.image_tokenizer).preview(codes_n, latent_size=grid)

    def __repr__(self) -> str:
        return described(self.model, self.layout, self.processor, self._loaded_image_tokenizer)


def _events(
    steps: Generator[Step] | None, readers: Sequence[RowReader], earlier: Sequence[Sequence[int]]
) -> Generator[Event]:
    for reader, ids in zip(readers, earlier, strict=True):
        yield from reader.resume(ids)
    running = dict(enumerate(readers))
    with contextlib.ExitStack() as stack:
        for step in () if steps is None else stack.enter_context(contextlib.closing(steps)):
            for row, reader in list(running.items()):
                token_id, reason = step.ids[row], step.finish_reasons[row]
                if token_id is not None:
                    yield from reader.push(token_id)
                if reason is not None:
                    yield from running.pop(row).finish(reason)
    for reader in running.values():
        yield from reader.finish("cancelled")
