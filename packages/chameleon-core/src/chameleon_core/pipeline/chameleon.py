"""The pipeline: documents in, documents out.

A prompt's pictures become codes, the prompt becomes ids, the model goes on with them, and what it wrote becomes a
document again, whole or as events while it is written.

Shapes: B rows, T length of the longest prompt, N codes a picture.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .._boundary import translates_errors
from .._files import read_json, write_json
from ..checkpoints.quantization_plan import Quantization
from ..errors import ConfigError, GenerationError, VocabularyError
from ..generation import GenerationOptions, Step
from ..generation.options import Modality
from ..generation.rows import start_row
from ..layout import PLACEHOLDERS
from ..model import ChameleonForConditionalGeneration
from ..optional_packages import load_processor, text_package
from ..protocols import ImageTokenizerLike, ProcessorLike
from .events import Event, Finished
from .row_reader import RowReader

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from chameleon_text import Document

PREPROCESSOR_FILE = "preprocessor_config.json"

CAPTION_QUESTION = "what is this?"

# How many wrong names an error lists.
LISTED = 5


class Chameleon:
    """A model, a processor and an image tokenizer that belong together.

    A prompt is a str, a picture (PIL image, uint8 array, ``Path``), a segment of chameleon-text, or a list of these.
    ``image_tokenizer`` reads and draws pictures; without one it is the processor's, else the one in the folder that the
    model came from, loaded when the first picture needs it. It is attached to the model, too.

    Raises ``ConfigError`` or ``VocabularyError`` where the parts don't fit each other.
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
        _check_vocabularies(model, processor)
        model.attach_tokenizer(processor.tokenizer)
        self.layout = model.layout
        self._image_tokenizer = processor.image_tokenizer if image_tokenizer is None else image_tokenizer
        if self._image_tokenizer is not None:
            self._check_image_tokenizer(self._image_tokenizer)
            model.image_tokenizer = self._image_tokenizer

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
        **unknown: object,
    ) -> Chameleon:
        """Load the model and the processor of a folder, of an installed model's name or of a Hub id.

        The arguments and errors are those of ``ChameleonForConditionalGeneration.from_pretrained``.
        """
        model = ChameleonForConditionalGeneration.from_pretrained(
            name_or_folder,
            dtype=dtype,
            device=device,
            attn_implementation=attn_implementation,
            quantization=quantization,
            **unknown,
        )
        assert model.source is not None
        return cls(model, load_processor(model.source))

    @translates_errors
    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write everything that ``from_pretrained`` reads, in the reference's layout."""
        folder = Path(folder)
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        if self._image_tokenizer is not None:
            self._image_tokenizer.image_processor.save_pretrained(folder)
        elif self.model.source is not None and (self.model.source / PREPROCESSOR_FILE).is_file():
            # The weights of an image tokenizer that was never needed are passed on, and so are its constants.
            write_json(folder / PREPROCESSOR_FILE, read_json(self.model.source / PREPROCESSOR_FILE))

    @property
    def image_tokenizer(self) -> ImageTokenizerLike:
        """What reads and draws pictures.

        Raises ``MissingPackageError`` where it needs chameleon-vq and that isn't installed, ``ConfigError`` where there
        is none, or one of another model.
        """
        if self._image_tokenizer is None:
            image_tokenizer = self.model.image_tokenizer
            self._check_image_tokenizer(image_tokenizer)
            self._image_tokenizer = image_tokenizer
        return self._image_tokenizer

    @translates_errors
    def generate(
        self,
        prompt: Any,
        *,
        modality: Modality | None = None,
        options: GenerationOptions | None = None,
        template: str = "completion",
        should_stop: Callable[[], bool] | None = None,
        **changes: Any,
    ) -> Document:
        """Go on with a prompt and return what was written, without the prompt.

        ``modality`` is "text", "image" or "interleaved". ``options`` are the model's own unless given, and ``changes``
        are single fields of them (``max_new_tokens=50``). ``template`` "chat" makes the prompt the user's turn.
        ``should_stop`` is asked before each id; once it is true, what there is comes back.

        Pictures come back drawn, with their codes. Raises ``ContextLengthError`` before any work where the positions
        don't suffice.
        """
        (document,) = self.generate_batch(
            [prompt], modality=modality, options=options, template=template, should_stop=should_stop, **changes
        )
        return document

    @translates_errors
    def generate_batch(
        self,
        prompts: Sequence[Any],
        *,
        modality: Modality | None = None,
        options: GenerationOptions | None = None,
        template: str = "completion",
        should_stop: Callable[[], bool] | None = None,
        **changes: Any,
    ) -> list[Document]:
        """The same for several prompts at once; the documents are in the prompts' order."""
        events = self.stream_batch(
            prompts, modality=modality, options=options, template=template, should_stop=should_stop, **changes
        )
        documents = {event.row: event.document for event in events if isinstance(event, Finished)}
        return [documents[row] for row in range(len(prompts))]

    @translates_errors
    def stream(
        self,
        prompt: Any,
        *,
        modality: Modality | None = None,
        options: GenerationOptions | None = None,
        template: str = "completion",
        preview_every: int | None = None,
        should_stop: Callable[[], bool] | None = None,
        **changes: Any,
    ) -> Iterator[Event]:
        """The same as ``generate``, as events while it is written; the last is ``Finished`` with the document.

        ``preview_every`` is after how many codes of a picture ``ImageProgress`` shows it as far as it is drawn; None
        shows none. Closing the iterator ends the work.
        """
        return self.stream_batch(
            [prompt],
            modality=modality,
            options=options,
            template=template,
            preview_every=preview_every,
            should_stop=should_stop,
            **changes,
        )

    @translates_errors
    def stream_batch(
        self,
        prompts: Sequence[Any],
        *,
        modality: Modality | None = None,
        options: GenerationOptions | None = None,
        template: str = "completion",
        preview_every: int | None = None,
        should_stop: Callable[[], bool] | None = None,
        **changes: Any,
    ) -> Iterator[Event]:
        """The same for several prompts at once; each event says its row, and each row ends with ``Finished``.

        Prompts and options are checked at once, before the first event is asked for.
        """
        if isinstance(prompts, str):
            raise GenerationError("stream_batch and generate_batch take a list of prompts, and got one str.")
        if preview_every is not None and preview_every < 0:
            raise GenerationError(
                f"preview_every must be a number of codes, 0 or None for no previews; got {preview_every}."
            )
        if modality is not None:
            changes["modality"] = modality
        options = (options or self.model.generation_options).replace(**changes)
        rows = self._encode(prompts, template, options)
        if not rows:
            return iter(())
        width = max(map(len, rows))
        padded = [[self.layout.pad_id] * (width - len(ids)) + ids for ids in rows]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in rows]
        steps = self.model.stream_ids(
            torch.tensor(padded, device=self.model.device),
            torch.tensor(mask, device=self.model.device),
            options=options,
            tokenizer=self.processor.tokenizer,
            should_stop=should_stop,
        )
        readers = [
            RowReader(
                row,
                layout=self.layout,
                decoder=self.processor.tokenizer.stream_decoder(),
                draw=self._draw,
                preview=self._preview,
                document=text_package().as_document([]),
                preview_every=preview_every or 0,
            )
            for row in range(len(rows))
        ]
        return _events(steps, readers)

    @translates_errors
    def draw(self, prompt: Any, *, template: str = "chat", **changes: Any) -> PILImage:
        """One picture of what the prompt asks for.

        ``draw("a red apple")`` is short for ``generate`` with modality "image": ``changes`` are its options.
        """
        document = self.generate(prompt, modality="image", template=template, **changes)
        (image,) = (segment.image for segment in document if isinstance(segment, text_package().Image))
        return image

    @translates_errors
    def caption(self, image: Any, question: str = CAPTION_QUESTION, *, template: str = "chat", **changes: Any) -> str:
        """What the model answers to a question about a picture.

        ``caption("cat.png")`` is short for ``generate`` with modality "text", without spaces around the answer.
        ``image`` is a path (a str, too), a PIL image, a uint8 array or an ``Image`` segment. ``changes`` are options:
        the answer is the likeliest one unless they have ``do_sample=True``.
        """
        # In a prompt a str is text.
        picture = Path(image) if isinstance(image, str) else image
        changes = {"do_sample": False, **changes}
        document = self.generate([picture, question], modality="text", template=template, **changes)
        return "".join(segment.text for segment in document if isinstance(segment, text_package().Text)).strip()

    def _encode(self, prompts: Sequence[Any], template: str, options: GenerationOptions) -> list[list[int]]:
        """The ids of each prompt, once it is sure that they fit and that what may be asked for can be drawn.

        All pictures that have no codes yet are read as one batch.
        """
        text = text_package()
        documents = [text.as_document(prompt) for prompt in prompts]
        unread: list[tuple[list[Any], int]] = []
        for row, document in enumerate(documents):
            for place, segment in enumerate(document):
                if isinstance(segment, text.Image) and segment.codes is not None:
                    self._check_whole(row, len(segment.codes))
                elif isinstance(segment, text.Image) and segment.image is not None:
                    unread.append((document, place))
        pictures = [document[place].image for document, place in unread]
        # Any codes will do to see whether the prompts fit the context, which reading pictures should wait for.
        for document, place in unread:
            document[place] = text.Image(codes=(0,) * self.layout.tokens_per_image)
        rows = [self.processor.encode(document, template=template) for document in documents]
        for row, ids in enumerate(rows):
            self._check_length(row, ids, options)
        if options.modality != "text":
            # No picture at all, so that what can't draw says so now and not after the first picture's codes.
            self.image_tokenizer.decode(torch.empty(0, self.layout.tokens_per_image, dtype=torch.int64))
        if not pictures:
            return rows
        codes_BN = self.image_tokenizer.encode(pictures)
        for (document, place), codes in zip(unread, codes_BN.tolist(), strict=True):
            document[place] = text.Image(codes=codes)
        return [self.processor.encode(document, template=template) for document in documents]

    def _check_length(self, row: int, ids: Sequence[int], options: GenerationOptions) -> None:
        context_length = self.model.config.context_length
        start_row(row, ids, options, layout=self.layout, context_length=context_length, stop_ids=frozenset())

    def _check_whole(self, row: int, num_codes: int) -> None:
        if num_codes != self.layout.tokens_per_image:
            raise GenerationError(
                f"a picture of prompt {row} has {num_codes} codes; this model's pictures have "
                f"{self.layout.tokens_per_image}. (One whose generation was stopped can't be part of a prompt.)"
            )

    def _check_image_tokenizer(self, image_tokenizer: ImageTokenizerLike) -> None:
        theirs = (image_tokenizer.num_codes, image_tokenizer.tokens_per_image)
        ours = (self.layout.num_codes, self.layout.tokens_per_image)
        if theirs != ours:
            raise ConfigError(
                f"the image tokenizer has {theirs[0]} codes and takes {theirs[1]} for a picture; the model has "
                f"{ours[0]} (picture names in vocabulary_map) and takes {ours[1]} (resolution in vq_config). "
                "Use the image tokenizer that the model was trained with, and its config_dict() as vq_config."
            )

    def _draw(self, codes: Sequence[int]) -> PILImage:
        (image,) = self.image_tokenizer.decode(torch.tensor([codes]))
        return image

    def _preview(self, codes: Sequence[int]) -> PILImage:
        return self.image_tokenizer.preview(torch.tensor(codes, dtype=torch.int64))


def _events(steps: Generator[Step], readers: Sequence[RowReader]) -> Iterator[Event]:
    running = dict(enumerate(readers))
    with contextlib.closing(steps):
        for step in steps:
            for row, reader in list(running.items()):
                token_id, reason = step.ids[row], step.finish_reasons[row]
                if token_id is not None:
                    yield from reader.push(token_id)
                if reason is not None:
                    yield from running.pop(row).finish(reason)
    for reader in running.values():
        yield from reader.finish("cancelled")


def _check_vocabularies(model: ChameleonForConditionalGeneration, processor: ProcessorLike) -> None:
    """Every id that the model may write must have the same name in the processor, and its ids a place in the model."""
    of_model = _named_as_now(model.config.vocabulary_map or {})
    of_processor = _named_as_now(processor.tokenizer.token_ids)
    wrong = [
        f"{name!r} ({id_} and {of_processor.get(name, 'none')})"
        for name, id_ in of_model.items()
        if of_processor.get(name) != id_
    ]
    if wrong:
        more = f" and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
        raise VocabularyError(
            f"the model and the processor don't belong together: {len(wrong)} of the {len(of_model)} names in the "
            f"model's vocabulary_map have another id in the processor's tokenizer: {', '.join(wrong[:LISTED])}{more}. "
            "Load both from one folder, or build the config with vocabulary_map=processor.tokenizer.token_ids."
        )
    beyond = max(of_processor.values())
    if beyond >= model.config.vocab_size:
        raise VocabularyError(
            f"the processor's tokenizer has ids up to {beyond}, the model's vocabulary ends at "
            f"{model.config.vocab_size - 1}. Resize it: model.resize_token_embeddings({beyond + 1})."
        )


def _named_as_now(token_ids: Mapping[str, int]) -> dict[str, int]:
    # Meta's file and the reference's call the placeholder differently.
    return {PLACEHOLDERS[0] if name in PLACEHOLDERS else name: id_ for name, id_ in token_ids.items()}
