"""The processor: prompts as in ``transformers``, padded batches, and the files of a model's folder.

Shapes: B rows, T ids of the longest row, C channels, H W pixels.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ._hub import IMAGE_WEIGHTS, push_saved
from ._moved import moved_names
from .batch import PaddingSide, ProcessorBatch, TensorKind, choice, make_batch, one_row
from .codecs import ImageProcessorLike, ImageTokenizerLike, PictureFormatLike, SegmentCodec
from .compat.chat import Conversation, with_pictures
from .compat.image_arguments import as_pictures, in_order, split_arguments
from .compat.loading import SETTINGS, requested_folder, save, settings_of_parts
from .compat.processor_calls import ProcessorCalls, in_places, tokenizer_json
from .document_processor import DocumentProcessor
from .errors import ConfigError, TokenizerWarning, VocabularyError
from .folder import MODEL_CONFIG, ProcessorFolder, write_folder
from .optional_packages import image_processor_of, image_tokenizer_of, no_image_reader, reads_pictures
from .prompts import AllowSpecial, as_texts, parse_prompts, place_pictures
from .rows import ProcessorArguments, batch_of_rows, processor_arguments, without_pixels
from .segments import Special, Text
from .template_calls import render
from .templates import ASSISTANT, USER, Piece, Turn
from .tokenizer import TextTokenizer
from .training import Labels, TrainingExample, encode_rows
from .vocabulary import BEGIN_OF_STREAM, IMAGE_PLACEHOLDER, SEPARATOR


class ChameleonProcessor(ProcessorCalls, DocumentProcessor):
    """Text and pictures to ids and back.

    Call it with prompts as in ``transformers``, or with conversations (``apply_chat_template``); ``encode`` and
    ``encode_messages`` take documents and conversations, and ``decode_document`` returns what a model wrote.

    - ``tokenizer`` is the text tokenizer, usually of a ``tokenizer.json``.
    - ``image_tokenizer`` reads pictures as their real ids, and draws them from ids.
    - ``image_processor`` alone gives prompts placeholders and ``pixel_values``, which the model replaces by ids.
    - ``image_seq_length`` is the number of ids of one picture: the image tokenizer's, or 1,024 without one.
    - ``image_token`` stands for a picture in a prompt's text.
    - ``padding_side`` is ``"left"``, where generation needs it, or ``"right"``; by default the tokenizer's.
    - ``template`` is the format of prompts and conversations: ``"chat"``, ``"completion"`` or a plugin's.
    - ``chat_template`` is a template in Jinja for ``apply_chat_template``; by default the tokenizer's.
    - ``segment_codecs`` are codecs by name, used in place of the installed ones.
    - ``picture_format`` says how pictures of several sizes are written: ``model.layout.pictures`` of chameleon-core.

    By position, the image processor comes before the tokenizer, as in ``transformers``; the tokenizer alone may come
    first. Raises ``VocabularyError`` for missing tokens, ``ConfigError`` for parts that don't fit together, and
    ``UnknownPluginError`` for a template that isn't installed.
    """

    _image_processor: Any = None
    _elsewhere: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("pad_token", "eos_token", "bos_token"), "special tokens are processor.tokenizer's."),
    }

    def __init__(
        self,
        *parts: Any,
        image_processor: ImageProcessorLike | None = None,
        tokenizer: TextTokenizer | None = None,
        image_seq_length: int | None = None,
        image_token: str | None = None,
        image_tokenizer: ImageTokenizerLike | None = None,
        padding_side: PaddingSide | None = None,
        template: str = "chat",
        chat_template: str | None = None,
        segment_codecs: Mapping[str, SegmentCodec] | None = None,
        picture_format: PictureFormatLike | None = None,
    ) -> None:
        named: dict[str, Any] = {"image_processor": image_processor, "tokenizer": tokenizer}
        named |= {"image_seq_length": image_seq_length, "image_token": image_token}
        image_processor, tokenizer, image_seq_length, image_token = in_places(parts, named)
        super().__init__(
            as_tokenizer(tokenizer),
            image_tokenizer=image_tokenizer,
            image_seq_length=image_seq_length,
            image_token=IMAGE_PLACEHOLDER if image_token is None else image_token,
            template=template,
            segment_codecs=segment_codecs,
            picture_format=picture_format,
        )
        self.image_processor = image_processor
        if padding_side is not None:
            self.padding_side = padding_side
        if chat_template is not None:
            self.chat_template = chat_template
        self._configs: Mapping[str, Mapping[str, Any]] = {}
        self._folder: Path | None = None
        self._seal(ChameleonProcessor)

    @property
    def padding_side(self) -> PaddingSide:
        """``left`` or ``right``: the tokenizer's, which may be assigned here or there."""
        side: PaddingSide = self.tokenizer.padding_side
        return side

    @padding_side.setter
    def padding_side(self, side: PaddingSide) -> None:
        self.tokenizer.padding_side = side

    @property
    def image_processor(self) -> Any:
        """What gives prompts ``pixel_values`` where there is no image tokenizer; it may be assigned.

        A processor from a folder loads the folder's when it is first needed, if chameleon-vq is installed.
        """
        if self._image_processor is None and self._folder is not None and reads_pictures():
            self._image_processor = image_processor_of(self._folder, self._configs.get(MODEL_CONFIG, {}))
        return self._image_processor

    @image_processor.setter
    def image_processor(self, image_processor: ImageProcessorLike | None) -> None:
        if image_processor is not None and not callable(getattr(image_processor, "preprocess", None)):
            raise ConfigError(
                f"image_processor is a {type(image_processor).__name__} without a method preprocess, expected one such "
                "as chameleon_vq.ChameleonImageProcessor()."
            )
        self._image_processor = image_processor

    def __repr__(self) -> str:
        reader = self._image_processor if self.image_tokenizer is None else self.image_tokenizer
        pictures = "not read" if reader is None else f"read by {type(reader).__name__}"
        if reader is None and self._folder is not None:
            pictures = "read when the first comes"
        return (
            f"ChameleonProcessor(\n"
            f"  tokenizer: {self.tokenizer!r}\n"
            f"  pictures: {pictures}, {self.image_seq_length:,} ids each, {self.image_token!r} in a prompt\n"
            f"  template: {self.template!r}, padding on the {self.padding_side}\n"
            f")"
        )

    def __call__(
        self,
        *inputs: Any,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        answers: str | Sequence[str] | None = None,
        labels: Labels | None = None,
        return_for_text_completion: bool | None = None,
        allow_special: AllowSpecial = (),
        **arguments: Any,
    ) -> ProcessorBatch:
        """Return a batch of prompts: ``input_ids``, ``attention_mask``, and ``labels`` and ``pixel_values`` if needed.

        Each ``<image>`` in the prompts takes the next of ``images``, one list for the whole batch (or one list per
        prompt). ``allow_special`` names the other special tokens that a prompt may spell; else they are text.
        Prompts are rendered by the processor's template, or left as they are with ``return_for_text_completion``.

        To train, ``answers`` are appended to the prompts, with what ends an answer, and ``labels`` is ``"answer"``
        (prompts are masked with -100) or ``"all"``. Padding and placeholders are always masked.

        ``arguments`` are those of ``transformers``: ``padding``, ``truncation``, ``max_length``, ``return_tensors`` and
        the other fields of ``TextArguments``, ``return_mm_token_type_ids``, and those of the image processor. By
        position, pictures come before text.

        ``input_ids``, ``attention_mask`` and ``labels`` are [B, T], int64: tensors where PyTorch is installed, arrays
        with ``return_tensors="np"``, lists with None. ``pixel_values`` is what the image processor makes. Raises
        ``ImageCountError`` where the numbers of pictures and placeholders differ, and ``ConfigError`` for arguments
        that aren't understood.
        """
        images, text = in_order(inputs, images, text, self.image_token)
        texts, about_images = split_arguments(arguments)
        options = processor_arguments(texts, return_for_text_completion)
        pictures = as_pictures(images)
        if text is None and pictures:
            return ProcessorBatch(
                {"pixel_values": self._pixel_values(pictures, options.text.return_tensors, about_images)}
            )
        prompts = as_texts("text", text)
        replies = None if answers is None else as_texts("answers", answers)
        if replies is not None and len(replies) != len(prompts):
            raise ConfigError(
                f"there are {len(prompts)} prompts and {len(replies)} answers. Pass one answer per prompt."
            )
        choice("labels", labels, ("answer", "all", None))
        if labels == "answer" and replies is None:
            raise ConfigError("labels='answer' needs the answers: pass answers=[...].")
        parsed = parse_prompts(prompts, self.tokenizer, self.image_token, allow_special)
        documents = place_pictures(parsed, images)
        template = "completion" if options.return_for_text_completion else self.template
        rendered = []
        for index, document in enumerate(documents):
            turns = [Turn(USER, tuple(document))]
            if replies is not None:
                turns.append(Turn(ASSISTANT, (Text(replies[index]),)))
            rendered.append(render(template, turns))
        return self._batch(rendered, pictures, options, about_images, labels=labels)

    def _batch(
        self,
        rendered: list[list[Piece]],
        pictures: list[Any],
        options: ProcessorArguments,
        about_images: Mapping[str, Any],
        *,
        labels: Labels | None = None,
        assistant_masks: bool = False,
    ) -> ProcessorBatch:
        """Return rendered prompts, with their pictures in them, as a batch."""
        pixels: dict[str, Any] = {}
        if pictures and self.image_tokenizer is None:
            pixels["pixel_values"] = self._pixel_values(pictures, options.text.return_tensors, about_images)
            rendered = [without_pixels(pieces) for pieces in rendered]
        elif about_images:
            raise ConfigError(
                f"{next(iter(about_images))} has no effect here: "
                + ("the image tokenizer reads pictures as it was trained to." if pictures else "there are no pictures.")
                + " Leave it out."
            )
        around = options.text.add_special_tokens
        rows = encode_rows(
            rendered,
            self._codecs,
            prefix=self._prefix if around else (),
            suffix=self.tokenizer.suffix_ids if around else (),
        )
        return ProcessorBatch(
            batch_of_rows(rows, self, options, labels=labels, assistant_masks=assistant_masks) | pixels
        )

    def _batch_of_conversations(
        self,
        prompts: Sequence[Conversation],
        pictures: Sequence[Sequence[Any]],
        call: Mapping[str, Any],
        *,
        continued: bool,
        assistant_masks: bool,
    ) -> ProcessorBatch:
        texts, about_images = split_arguments(call)
        options = processor_arguments({**texts, "add_special_tokens": False}, None)
        separator = Special(SEPARATOR)
        ends = [] if continued or options.return_for_text_completion else [Piece(separator)]
        first = Piece(Special(BEGIN_OF_STREAM))
        rendered = [
            [first, *with_pictures(prompt.pieces, of_one), *ends]
            for prompt, of_one in zip(prompts, pictures, strict=True)
        ]
        every = [picture for of_one in pictures for picture in of_one]
        return self._batch(rendered, every, options, about_images, assistant_masks=assistant_masks)

    def pad(
        self,
        rows: Sequence[Sequence[int]] | Sequence[TrainingExample],
        *,
        padding_side: PaddingSide | None = None,
        return_tensors: TensorKind | None = None,
    ) -> ProcessorBatch:
        """Return a batch of rows of ids, or of training examples, whose labels are padded with -100."""
        if not isinstance(rows, Sequence) and not hasattr(rows, "tolist"):
            raise ConfigError(f"rows is a {type(rows).__name__}, expected a list of rows of ids, or of examples.")
        examples = [row for row in rows if isinstance(row, TrainingExample)]
        if examples and len(examples) != len(rows):
            raise ConfigError("rows must be either all training examples or all ids.")
        ids = [one_row(row.input_ids if isinstance(row, TrainingExample) else row) for row in rows]
        for number, row in enumerate(ids):
            unknown = next((each for each in row if each not in self.tokenizer.names), None)
            if unknown is not None:
                raise VocabularyError(f"row {number} has the id {unknown}, which has no name in this vocabulary.")
        for number, example in enumerate(examples):
            if len(example.labels) != len(ids[number]):
                raise ConfigError(
                    f"example {number} has {len(ids[number])} ids and {len(example.labels)} labels. Each id has one."
                )
        return ProcessorBatch(
            make_batch(
                ids,
                pad_id=self.tokenizer.pad_token_id,
                labels=[example.labels for example in examples] if examples else None,
                padding=True,
                padding_side=self.padding_side if padding_side is None else padding_side,
                return_tensors=return_tensors,
            )
        )

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str] | None = None,
        *,
        image_tokenizer: ImageTokenizerLike | bool | None = None,
        image_processor: ImageProcessorLike | None = None,
        image_seq_length: int | None = None,
        padding_side: PaddingSide | None = None,
        template: str = "chat",
        chat_template: str | None = None,
        segment_codecs: Mapping[str, SegmentCodec] | None = None,
        picture_format: PictureFormatLike | None = None,
        **arguments: Any,
    ) -> ChameleonProcessor:
        """Load the processor of a folder, a registered name or a Hub id: ``tokenizer.json``, and the two configs.

        The named arguments are those of the class, and win over the configs; the others are settings of the tokenizer
        and of the image processor, and say where in the Hub (``revision``, ``subfolder``, …). Pictures are read by the
        folder's image processor, which chameleon-vq loads with the first of them, as placeholders and
        ``pixel_values``; ``image_tokenizer=True`` loads the folder's image tokenizer, so that prompts have the real
        ids. What the configs say beyond that is kept, and written back by ``save_pretrained``; a ``TokenizerWarning``
        says what they ask for and isn't done. Raises ``MissingFileError`` without a folder or its ``tokenizer.json``,
        ``FileFormatError`` for a broken file, ``FileAccessError`` where one can't be read, and ``MissingPackageError``
        where a Hub id needs the extra ``hub``.
        """
        about_text, about_images = settings_of_parts(arguments, image_processor or image_tokenizer)
        path = requested_folder(
            folder,
            arguments,
            what="the processor",
            known=inspect.signature(cls.from_pretrained).parameters.keys() - {"folder", "arguments"} | SETTINGS,
            weights=IMAGE_WEIGHTS if image_tokenizer is True else None,
        )
        files = ProcessorFolder(path)
        if isinstance(image_tokenizer, bool):
            image_tokenizer = image_tokenizer_of(files.path) if image_tokenizer else None
        if image_seq_length is None and image_tokenizer is None:
            image_seq_length = files.image_seq_length
        processor = cls(
            image_processor,
            TextTokenizer.of_folder(files),
            image_tokenizer=image_tokenizer,
            image_seq_length=image_seq_length,
            image_token=files.image_token,
            padding_side=padding_side,
            template=template,
            chat_template=chat_template,
            segment_codecs=segment_codecs,
            picture_format=picture_format,
        )
        processor._configs, processor._folder = files.configs, files.path
        processor.tokenizer.configure(about_text)
        if about_images:
            processor.image_processor = image_processor_of(path, files.configs[MODEL_CONFIG], about_images)
        not_done = (*files.not_done(processor.tokenizer), *(files.sized_pictures() if picture_format is None else ()))
        if not_done:
            warnings.warn(f"{path}: {'; '.join(not_done)}.", TokenizerWarning, stacklevel=2)
        return processor

    def save_pretrained(self, folder: str | os.PathLike[str] | None = None, **arguments: Any) -> None:
        """Write the files that ``from_pretrained`` and ``transformers`` read.

        An image processor that has ``to_dict``, the image tokenizer's too, gets its ``preprocessor_config.json`` beside
        them; without one, what the folder already says of pictures stays. All files replace their predecessors in one
        commit. ``push_to_hub=True`` uploads them, too, to ``repo_id`` or the folder's name. Raises ``FileAccessError``
        where the system doesn't let them be written.
        """
        save(self._write, folder, arguments)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the files to a repository of the Hub, and return the commit's address."""
        return push_saved(self._write, repo_id, options)

    def _write(self, folder: str | os.PathLike[str]) -> None:
        write_folder(
            folder,
            tokenizer=self.tokenizer,
            image_token=self.tokenizer.names[self.vocabulary.image_placeholder_id],
            image_seq_length=self.image_seq_length,
            image_processor=self._image_processor or getattr(self.image_tokenizer, "image_processor", None),
            chat_template=self.chat_template,
            configs=self._configs,
        )

    @property
    def _prefix(self) -> tuple[int, ...]:
        tokenizer = self.tokenizer
        if tokenizer.prefix_ids or tokenizer.suffix_ids or tokenizer.leaves_bos_out:
            return tokenizer.prefix_ids
        # Every stream begins with <s>, also where the file has no post-processor that says so.
        return (self.vocabulary.bos_id,)

    def _pixel_values(self, pictures: list[Any], return_tensors: TensorKind | None, about: Mapping[str, Any]) -> Any:
        if self.image_processor is None:
            raise no_image_reader()
        processed = self.image_processor.preprocess(pictures, return_tensors=return_tensors or "np", **about)
        if not isinstance(processed, Mapping) or "pixel_values" not in processed:
            raise ConfigError(
                f"the image processor returned a {type(processed).__name__} without 'pixel_values', expected a mapping."
            )
        return processed["pixel_values"]


def as_tokenizer(tokenizer: Any) -> Any:
    """Return a tokenizer of ours: the one that is given, or one of the same file as a fast one of ``transformers``."""
    data = tokenizer_json(tokenizer)
    return tokenizer if data is None else TextTokenizer(data, source="the tokenizer")


if not TYPE_CHECKING:  # or type checkers would believe that the module has every name
    __getattr__ = moved_names(
        __name__, {"PUBLISHED_SEQUENCE_LENGTH": "chameleon_text.document_processor:PUBLISHED_SEQUENCE_LENGTH"}
    )
