"""The processor: prompts as in ``transformers``, padded batches, and the files of a model's folder.

Shapes: B rows, T ids of the longest row, C channels, H W pixels.
"""

from __future__ import annotations

import difflib
import inspect
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ._moved import moved_names
from .batch import PaddingSide, ProcessorBatch, TensorKind, choice, make_batch, one_row
from .codecs import NO_IMAGE_READER, ImageTokenizerLike, PictureFormatLike, SegmentCodec
from .document_processor import DocumentProcessor
from .errors import ConfigError, MissingPackageError, TokenizerWarning, VocabularyError
from .folder import ProcessorFolder, write_folder
from .prompts import AllowSpecial, as_pictures, as_texts, parse_prompts, place_pictures
from .segments import Text
from .template_calls import render
from .templates import ASSISTANT, USER, Turn
from .tokenizer import TextTokenizer
from .training import Labels, TrainingExample, encode_rows
from .vocabulary import IMAGE_PLACEHOLDER


class ImageProcessorLike(Protocol):
    """What this package needs of an image processor; ``chameleon_vq.ChameleonImageProcessor`` is one."""

    def preprocess(self, images: list[Any], *, return_tensors: Any = None) -> Mapping[str, Any]:
        """Return ``{"pixel_values": pixels_BCHW}`` of a list of pictures, as arrays ("np") or tensors ("pt")."""


class ChameleonProcessor(DocumentProcessor):
    """Text and pictures to ids and back.

    Call it with prompts as in ``transformers``; ``encode`` and ``encode_messages`` take documents and conversations,
    and ``decode_document`` returns what a model wrote.

    - ``tokenizer`` is the text tokenizer, usually of a ``tokenizer.json``.
    - ``image_tokenizer`` reads pictures as their real ids, and draws them from ids.
    - ``image_processor`` alone gives prompts placeholders and ``pixel_values``, which the model replaces by ids.
    - ``image_seq_length`` is the number of ids of one picture: the image tokenizer's, or 1,024 without one.
    - ``image_token`` stands for a picture in a prompt's text.
    - ``padding_side`` is ``"left"``, where generation needs it, or ``"right"``.
    - ``template`` is the format of prompts and conversations: ``"chat"``, ``"completion"`` or a plugin's.
    - ``segment_codecs`` are codecs by name, used in place of the installed ones.
    - ``picture_format`` says how pictures of several sizes are written: ``model.layout.pictures`` of chameleon-core.

    Raises ``VocabularyError`` for missing tokens, ``ConfigError`` for parts that don't fit together, and
    ``UnknownPluginError`` for a template that isn't installed.
    """

    _elsewhere = {
        **dict.fromkeys(("pad_token", "eos_token", "bos_token"), "special tokens are those of the tokenizer.json."),
        "chat_template": "conversations are rendered by the template, a plugin: processor.template = 'completion'.",
    }

    def __init__(
        self,
        tokenizer: TextTokenizer,
        *,
        image_tokenizer: ImageTokenizerLike | None = None,
        image_processor: ImageProcessorLike | None = None,
        image_seq_length: int | None = None,
        image_token: str = IMAGE_PLACEHOLDER,
        padding_side: PaddingSide = "left",
        template: str = "chat",
        segment_codecs: Mapping[str, SegmentCodec] | None = None,
        picture_format: PictureFormatLike | None = None,
    ) -> None:
        super().__init__(
            tokenizer,
            image_tokenizer=image_tokenizer,
            image_seq_length=image_seq_length,
            image_token=image_token,
            template=template,
            segment_codecs=segment_codecs,
            picture_format=picture_format,
        )
        self.image_processor = image_processor
        self.padding_side = padding_side
        # Every stream begins with <s>, also where the file has no post-processor that says so.
        self._prefix = tokenizer.prefix_ids or (() if tokenizer.suffix_ids else (self.vocabulary.bos_id,))
        self._configs: Mapping[str, Mapping[str, Any]] = {}
        self._seal(ChameleonProcessor)

    @property
    def padding_side(self) -> PaddingSide:
        """``left`` or ``right``, which may be assigned."""
        return self._padding_side

    @padding_side.setter
    def padding_side(self, side: PaddingSide) -> None:
        self._padding_side: PaddingSide = choice("padding_side", side, ("left", "right"))

    @property
    def image_processor(self) -> ImageProcessorLike | None:
        """What gives prompts ``pixel_values`` where there is no image tokenizer; it may be assigned."""
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
        reader = self.image_processor if self.image_tokenizer is None else self.image_tokenizer
        pictures = "not read" if reader is None else f"read by {type(reader).__name__}"
        return (
            f"ChameleonProcessor(\n"
            f"  tokenizer: {self.tokenizer!r}\n"
            f"  pictures: {pictures}, {self.image_seq_length:,} ids each, {self.image_token!r} in a prompt\n"
            f"  template: {self.template!r}, padding on the {self.padding_side}\n"
            f")"
        )

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images: Any = None,
        *,
        answers: str | Sequence[str] | None = None,
        labels: Labels | None = None,
        padding: bool | Literal["longest"] = False,
        padding_side: PaddingSide | None = None,
        return_tensors: TensorKind | None = None,
        return_for_text_completion: bool = False,
        allow_special: AllowSpecial = (),
    ) -> ProcessorBatch:
        """Return a batch of prompts: ``input_ids``, ``attention_mask``, and ``labels`` and ``pixel_values`` if needed.

        Each ``<image>`` in the prompts takes the next of ``images``, one list for the whole batch (or one list per
        prompt). ``allow_special`` names the other special tokens that a prompt may spell; else they are text.
        Prompts are rendered by the processor's template, or left as they are with ``return_for_text_completion``.

        To train, ``answers`` are appended to the prompts, with what ends an answer, and ``labels`` is ``"answer"``
        (prompts are masked with -100) or ``"all"``. Padding and placeholders are always masked.

        ``input_ids``, ``attention_mask`` and ``labels`` are [B, T], int64, or lists without ``return_tensors``;
        ``pixel_values`` is what the image processor makes. Raises ``ImageCountError`` where the numbers of pictures
        and placeholders differ, and ``ConfigError`` for arguments that aren't understood.
        """
        prompts = as_texts("text", text)
        replies = None if answers is None else as_texts("answers", answers)
        if replies is not None and len(replies) != len(prompts):
            raise ConfigError(
                f"there are {len(prompts)} prompts and {len(replies)} answers. Pass one answer per prompt."
            )
        choice("labels", labels, ("answer", "all", None))
        choice("padding", padding, (True, False, "longest"))
        if labels == "answer" and replies is None:
            raise ConfigError("labels='answer' needs the answers: pass answers=[...].")
        parsed = parse_prompts(prompts, self.tokenizer, self.image_token, allow_special)
        documents = place_pictures(parsed, images)
        pictures = as_pictures(images)
        entries: dict[str, Any] = {}
        if pictures and self.image_tokenizer is None:
            entries["pixel_values"] = self._pixel_values(pictures, return_tensors)
            documents = parsed  # whose placeholders stay placeholders
        template = "completion" if return_for_text_completion else self.template
        rendered = []
        for index, document in enumerate(documents):
            turns = [Turn(USER, tuple(document))]
            if replies is not None:
                turns.append(Turn(ASSISTANT, (Text(replies[index]),)))
            rendered.append(render(template, turns))
        rows = encode_rows(rendered, self._codecs, prefix=self._prefix, suffix=self.tokenizer.suffix_ids)
        placeholder_id = self.vocabulary.image_placeholder_id
        return ProcessorBatch(
            make_batch(
                [row.ids for row in rows],
                pad_id=self.vocabulary.pad_id,
                labels=None if labels is None else [row.labels(labels, placeholder_id=placeholder_id) for row in rows],
                padding=bool(padding),
                padding_side=self.padding_side if padding_side is None else padding_side,
                return_tensors=return_tensors,
            )
            | entries
        )

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
                pad_id=self.vocabulary.pad_id,
                labels=[example.labels for example in examples] if examples else None,
                padding=True,
                padding_side=self.padding_side if padding_side is None else padding_side,
                return_tensors=return_tensors,
            )
        )

    def decode(self, ids: Any, *, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = False) -> str:
        """Return the text of one row of ids, with special tokens and picture codes by their names, or left out.

        ``clean_up_tokenization_spaces`` is accepted for callers of ``transformers`` and can only be False, because text
        comes back as it was.
        """
        if clean_up_tokenization_spaces:
            raise ConfigError("clean_up_tokenization_spaces=True would change the text. Leave it out.")
        return self.tokenizer.decode(one_row(ids), skip_special_tokens=skip_special_tokens)

    def batch_decode(
        self, ids: Any, *, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = False
    ) -> list[str]:
        """Return the text of each row of ids, as ``decode`` gives it."""
        if isinstance(ids, (str, bytes, Mapping)) or not isinstance(ids, Iterable):
            raise ConfigError(f"batch_decode takes rows of ids, not a {type(ids).__name__}.")
        return [
            self.decode(
                row,
                skip_special_tokens=skip_special_tokens,
                clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            )
            for row in ids
        ]

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        image_tokenizer: ImageTokenizerLike | None = None,
        image_processor: ImageProcessorLike | None = None,
        image_seq_length: int | None = None,
        padding_side: PaddingSide | None = None,
        template: str = "chat",
        segment_codecs: Mapping[str, SegmentCodec] | None = None,
        picture_format: PictureFormatLike | None = None,
        **unknown: object,
    ) -> ChameleonProcessor:
        """Load the processor of a model's folder: ``tokenizer.json``, and the two configs where there are any.

        The arguments are those of the class, and win over the configs. What the configs say beyond it is kept, and
        written back by ``save_pretrained``; a ``TokenizerWarning`` says what they ask for and isn't done. Raises
        ``MissingFileError`` without a ``tokenizer.json``, ``FileFormatError`` for a broken file, and
        ``FileAccessError`` where the system doesn't let a file be read.
        """
        for name in unknown:
            known = inspect.signature(cls.from_pretrained).parameters.keys() - {"folder", "unknown"}
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"The arguments are {', '.join(sorted(known))}."
            raise ConfigError(f"ChameleonProcessor.from_pretrained has no argument {name!r}. {hint}")
        files = ProcessorFolder(folder)
        if image_seq_length is None and image_tokenizer is None:
            image_seq_length = files.image_seq_length
        processor = cls(
            files.tokenizer,
            image_tokenizer=image_tokenizer,
            image_processor=image_processor,
            image_seq_length=image_seq_length,
            image_token=files.image_token,
            padding_side=(files.padding_side or "left") if padding_side is None else padding_side,
            template=template,
            segment_codecs=segment_codecs,
            picture_format=picture_format,
        )
        processor._configs = files.configs
        not_done = (*files.not_done(), *(files.sized_pictures() if picture_format is None else ()))
        if not_done:
            warnings.warn(f"{os.fspath(folder)}: {'; '.join(not_done)}.", TokenizerWarning, stacklevel=2)
        return processor

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the files that ``from_pretrained`` and ``transformers`` read.

        An image processor that has ``to_dict``, the image tokenizer's too, gets its ``preprocessor_config.json`` beside
        them; without one, what the folder already says of pictures stays. All files replace their predecessors in one
        commit. Raises ``FileAccessError`` where the system doesn't let them be written.
        """
        write_folder(
            folder,
            tokenizer=self.tokenizer,
            image_token=self.tokenizer.names[self.vocabulary.image_placeholder_id],
            image_seq_length=self.image_seq_length,
            padding_side=self.padding_side,
            image_processor=self.image_processor or getattr(self.image_tokenizer, "image_processor", None),
            configs=self._configs,
        )

    def _pixel_values(self, pictures: list[Any], return_tensors: TensorKind | None) -> Any:
        if self.image_processor is None:
            raise MissingPackageError(NO_IMAGE_READER)
        processed = self.image_processor.preprocess(pictures, return_tensors=return_tensors or "np")
        if not isinstance(processed, Mapping) or "pixel_values" not in processed:
            raise ConfigError(
                f"the image processor returned a {type(processed).__name__} without 'pixel_values', expected a mapping."
            )
        return processed["pixel_values"]


if not TYPE_CHECKING:  # or type checkers would believe that the module has every name
    __getattr__ = moved_names(
        __name__, {"PUBLISHED_SEQUENCE_LENGTH": "chameleon_text.document_processor:PUBLISHED_SEQUENCE_LENGTH"}
    )
