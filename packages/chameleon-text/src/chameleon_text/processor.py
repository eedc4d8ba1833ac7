"""The processor: prompts and documents to the ids that a model reads, and what it generated back to documents.

    document → template → segments → codecs → ids        ids → codecs → segments → document

A picture becomes real ids through an image tokenizer, or the reference's placeholders, which a model replaces by the
ids of the ``pixel_values`` that an image processor makes beside them.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from .batch import IGNORED, PaddingSide, ProcessorBatch, TensorKind, make_batch
from .codec_table import CodecTable
from .codecs import NO_IMAGE_READER, CodecContext, ImageTokenizerLike, SegmentCodec
from .documents import messages_from_turns, turns_from_messages
from .errors import ConfigError, MissingPackageError
from .folder import ProcessorFolder, write_folder
from .prompts import AllowSpecial, as_pictures, as_texts, parse_prompts, place_pictures
from .registry import REGISTRY, TEMPLATES
from .segments import Document, Image, Special, Text, as_document
from .templates import ASSISTANT, USER, Piece, Template, Turn
from .tokenizer import TextTokenizer
from .vocabulary import IMAGE_PLACEHOLDER, Vocabulary

PUBLISHED_SEQUENCE_LENGTH = 1024

Labels: TypeAlias = Literal["answer", "all"]


class ImageProcessorLike(Protocol):
    """What this package needs of an image processor; ``chameleon_vq.ChameleonImageProcessor`` is one."""

    def preprocess(self, images: list[Any], *, return_tensors: Any = None) -> Mapping[str, Any]:
        """``{"pixel_values": B C H W}`` of a list of pictures, as arrays ("np") or tensors ("pt")."""


class TrainingExample(msgspec.Struct, frozen=True):
    """One sequence to train on: ids, and for each the label, which is the id itself or -100."""

    input_ids: list[int]
    labels: list[int]


class ChameleonProcessor:
    """Text and pictures to ids and back.

    With ``image_tokenizer`` pictures become their real ids; with ``image_processor`` alone, prompts get placeholders
    and ``pixel_values``. ``image_seq_length`` is the number of ids of one picture: the image tokenizer's, 1,024
    without one. ``image_token`` stands for a picture in a prompt's text. ``template`` is the format of prompts and
    conversations; ``segment_codecs`` are codecs that the caller made, by name, which take the place of the installed
    ones.
    """

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
    ) -> None:
        """Raise ``VocabularyError`` for missing tokens, ``ConfigError`` for parts that don't fit together."""
        self.tokenizer = tokenizer
        self.vocabulary = Vocabulary.from_token_ids(
            tokenizer.token_ids, special_ids=tokenizer.special_ids, image_token=image_token
        )
        if self.vocabulary.image_placeholder_id not in tokenizer.special_ids:
            raise ConfigError(f"image_token {image_token!r} is text in this tokenizer, not a special token.")
        self.image_tokenizer = image_tokenizer
        self.image_processor = image_processor
        self.image_seq_length = _sequence_length(image_seq_length, image_tokenizer)
        if image_tokenizer is not None and image_tokenizer.num_codes != self.vocabulary.num_codes:
            raise ConfigError(
                f"the image tokenizer has {image_tokenizer.num_codes} codes and the vocabulary names "
                f"{self.vocabulary.num_codes}: they belong to different models."
            )
        self.image_token = image_token
        self.padding_side: PaddingSide = _one_of("padding_side", padding_side, ("left", "right"))
        self.template = template
        self._template(template)  # an unknown name is an error here, not at the first prompt
        context = CodecContext(
            tokenizer=tokenizer,
            vocabulary=self.vocabulary,
            image_tokenizer=image_tokenizer,
            image_seq_length=self.image_seq_length,
        )
        self._codecs = CodecTable(context, segment_codecs or {})
        # A file without a post-processor of its own gets the <s> that every stream begins with all the same.
        self._prefix = tokenizer.prefix_ids or (() if tokenizer.suffix_ids else (self.vocabulary.bos_id,))
        self._configs: Mapping[str, Mapping[str, Any]] = {}

    # Prompts, as in the reference.

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
        """A batch of prompts: ``input_ids``, ``attention_mask``, and what was asked for or is needed beside them.

        Each ``<image>`` in the prompts takes the next of ``images``, one list for the whole batch (or one list per
        prompt). ``allow_special`` names the other specials that a prompt may spell; else they are text.
        Prompts are rendered by the processor's template, or as they are with ``return_for_text_completion``.

        To train, ``answers`` are appended to the prompts, with what ends an answer, and ``labels`` is ``"answer"``
        (prompts are masked with -100) or ``"all"``; padding and placeholders are always masked.

        ``input_ids``, ``attention_mask`` and ``labels`` are B T, int64, or lists without ``return_tensors``;
        ``pixel_values`` is what the image processor makes. Raises ``ImageCountError`` where pictures and placeholders
        differ in number.
        """
        prompts = as_texts("text", text)
        replies = None if answers is None else as_texts("answers", answers)
        if replies is not None and len(replies) != len(prompts):
            raise ConfigError(f"{len(prompts)} prompts and {len(replies)} answers.")
        _one_of("labels", labels, ("answer", "all", None))
        _one_of("padding", padding, (True, False, "longest"))
        if labels == "answer" and replies is None:
            raise ConfigError("labels='answer' needs the answers: pass answers=[...].")
        parsed = parse_prompts(prompts, self.tokenizer, self.image_token, allow_special)
        documents = place_pictures(parsed, images)
        pictures = as_pictures(images)
        entries: dict[str, Any] = {}
        if pictures and self.image_tokenizer is None:
            entries["pixel_values"] = self._pixel_values(pictures, return_tensors)
            documents = parsed  # whose placeholders stay placeholders
        template = self._template("completion" if return_for_text_completion else self.template)
        rendered = []
        for row, document in enumerate(documents):
            turns = [Turn(USER, tuple(document))]
            if replies is not None:
                turns.append(Turn(ASSISTANT, (Text(replies[row]),)))
            rendered.append(template.render(turns))
        encoded = self._encoded(rendered, prefix=self._prefix, suffix=self.tokenizer.suffix_ids)
        return ProcessorBatch(
            make_batch(
                [each.ids for each in encoded],
                pad_id=self.vocabulary.pad_id,
                labels=None if labels is None else [self._labels(each, labels) for each in encoded],
                padding=bool(padding),
                padding_side=padding_side or self.padding_side,
                return_tensors=return_tensors,
            )
            | entries
        )

    # Documents and conversations.

    def encode(self, document: object, *, template: str = "completion", add_bos: bool = True) -> list[int]:
        """The ids of a document: text, pictures and segments, or one of them alone.

        ``template`` says what is put around it; ``completion`` is nothing. Pictures are read as one batch.
        """
        rendered = self._template(template).render([Turn(USER, tuple(as_document(document)))])
        return self._encoded([rendered], prefix=(self.vocabulary.bos_id,) if add_bos else ())[0].ids

    def decode_document(self, ids: Any) -> Document:
        """The document of a row of ids: text, pictures as their codes, and segments of installed types.

        Specials are left out. What was generated may begin or end within a picture or a character: an unfinished
        picture has the codes that are there. ``draw`` paints the pictures.
        """
        return [segment for segment in self._codecs.decode(_row(ids)) if not isinstance(segment, Special)]

    def encode_messages(
        self,
        messages: Iterable[Mapping[str, Any] | Turn],
        *,
        images: Iterable[Any] = (),
        template: str | None = None,
        add_bos: bool = True,
    ) -> list[int]:
        """The ids of a conversation in the ecosystem's chat messages (or turns), by the processor's template.

        ``images`` are for the parts that are only ``{"type": "image"}``.
        """
        rendered = self._rendered(messages, images, template)
        return self._encoded([rendered], prefix=(self.vocabulary.bos_id,) if add_bos else ())[0].ids

    def decode_turns(self, ids: Any, *, template: str | None = None) -> list[Turn]:
        """The turns of a conversation, as the template tells them apart."""
        return self._template(template or self.template).parse(self._codecs.decode(_row(ids)))

    def decode_messages(self, ids: Any, *, template: str | None = None) -> list[dict[str, Any]]:
        """The chat messages of a conversation, all plain JSON."""
        return messages_from_turns(self.decode_turns(ids, template=template))

    def encode_for_training(
        self,
        messages: Iterable[Mapping[str, Any] | Turn],
        *,
        images: Iterable[Any] = (),
        template: str | None = None,
        labels: Labels = "answer",
    ) -> TrainingExample:
        """A conversation with its labels: the assistant's turns alone (``"answer"``) or everything (``"all"``).

        ``pad`` makes a batch of the examples. Placeholders are never trained on.
        """
        _one_of("labels", labels, ("answer", "all"))
        rendered = self._rendered(messages, images, template)
        encoded = self._encoded([rendered], prefix=(self.vocabulary.bos_id,))[0]
        return TrainingExample(encoded.ids, self._labels(encoded, labels))

    def pad(
        self,
        rows: Sequence[Sequence[int]] | Sequence[TrainingExample],
        *,
        padding_side: PaddingSide | None = None,
        return_tensors: TensorKind | None = None,
    ) -> ProcessorBatch:
        """A batch of rows of ids, or of training examples, whose labels are padded with -100."""
        examples = [row for row in rows if isinstance(row, TrainingExample)]
        if examples and len(examples) != len(rows):
            raise ConfigError("rows are either all training examples or all ids.")
        return ProcessorBatch(
            make_batch(
                [example.input_ids for example in examples] if examples else [_row(row) for row in rows],
                pad_id=self.vocabulary.pad_id,
                labels=[example.labels for example in examples] if examples else None,
                padding=True,
                padding_side=padding_side or self.padding_side,
                return_tensors=return_tensors,
            )
        )

    def draw(self, document: object) -> Document:
        """The document with every whole picture that has only codes painted by the image tokenizer."""
        segments = as_document(document)
        wanted = {
            index: segment.codes
            for index, segment in enumerate(segments)
            if isinstance(segment, Image)
            and segment.image is None
            and segment.codes is not None
            and len(segment.codes) == self.image_seq_length
        }
        if not wanted:
            return segments
        if self.image_tokenizer is None:
            raise MissingPackageError(NO_IMAGE_READER)
        painted = self.image_tokenizer.decode(list(wanted.values()))
        for (index, codes), picture in zip(wanted.items(), painted, strict=True):
            segments[index] = Image(picture, codes)
        return segments

    # Text of ids.

    def decode(self, ids: Any, *, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = False) -> str:
        """The text of one row of ids; specials and pictures by their names, or left out.

        ``clean_up_tokenization_spaces`` is there for callers of the reference and can only be False: text comes back
        as it was.
        """
        if clean_up_tokenization_spaces:
            raise ConfigError("clean_up_tokenization_spaces=True would change the text; leave it out.")
        return self.tokenizer.decode(_row(ids), skip_special_tokens=skip_special_tokens)

    def batch_decode(
        self, ids: Any, *, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = False
    ) -> list[str]:
        """The text of each row of ids, as ``decode`` gives it."""
        return [
            self.decode(
                row,
                skip_special_tokens=skip_special_tokens,
                clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            )
            for row in ids
        ]

    # Files.

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
    ) -> ChameleonProcessor:
        """The processor of a model's folder: ``tokenizer.json``, and the two configs where they are.

        What the configs say beyond this class is kept and written back by ``save_pretrained``.
        """
        files = ProcessorFolder(folder)
        if image_seq_length is None and image_tokenizer is None:
            image_seq_length = files.image_seq_length
        processor = cls(
            files.tokenizer,
            image_tokenizer=image_tokenizer,
            image_processor=image_processor,
            image_seq_length=image_seq_length,
            image_token=files.image_token,
            padding_side=padding_side or files.padding_side or "left",
            template=template,
            segment_codecs=segment_codecs,
        )
        processor._configs = files.configs
        return processor

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the files that ``from_pretrained`` and the reference read; each replaces its old one whole.

        The image processor's ``preprocessor_config.json`` is written with them where it gives one (``to_dict``).
        """
        write_folder(
            folder,
            tokenizer=self.tokenizer,
            image_token=self.tokenizer.names[self.vocabulary.image_placeholder_id],
            image_seq_length=self.image_seq_length,
            padding_side=self.padding_side,
            image_processor=self.image_processor,
            configs=self._configs,
        )

    # Within.

    def _template(self, name: str) -> Template:
        spec = REGISTRY.get(TEMPLATES, name)
        template: Template = spec.factory()
        return template

    def _rendered(
        self, messages: Iterable[Mapping[str, Any] | Turn], images: Iterable[Any], template: str | None
    ) -> list[Piece]:
        conversation = list(messages)
        turns = [each for each in conversation if isinstance(each, Turn)]
        if len(turns) != len(conversation):
            turns = turns_from_messages(conversation, images=images)  # type: ignore[arg-type]
        return self._template(template or self.template).render(turns)

    def _encoded(
        self, rendered: Sequence[Sequence[Piece]], *, prefix: tuple[int, ...], suffix: tuple[int, ...] = ()
    ) -> list[_Encoded]:
        """The ids of each row of pieces; the segments of all rows go through their codecs together."""
        rows = [_joined(pieces) for pieces in rendered]
        ids_of_segments = iter(self._codecs.encode([piece.segment for row in rows for piece in row]))
        result = []
        for row in rows:
            ids: list[int] = []
            answers: list[bool] = []
            for piece in row:
                segment_ids = next(ids_of_segments)
                ids += segment_ids
                answers += [piece.answer] * len(segment_ids)
            # A prompt that spells out the <s> it was allowed doesn't get another.
            begin = () if prefix and tuple(ids[: len(prefix)]) == prefix else prefix
            in_full = [*begin, *ids, *suffix]
            result.append(_Encoded(in_full, [False] * len(begin) + answers + [False] * len(suffix)))
        return result

    def _labels(self, encoded: _Encoded, labels: Labels) -> list[int]:
        placeholder = self.vocabulary.image_placeholder_id
        return [
            token_id if token_id != placeholder and (answer or labels == "all") else IGNORED
            for token_id, answer in zip(encoded.ids, encoded.answers, strict=True)
        ]

    def _pixel_values(self, pictures: list[Any], return_tensors: TensorKind | None) -> Any:
        if self.image_processor is None:
            raise MissingPackageError(NO_IMAGE_READER)
        return self.image_processor.preprocess(pictures, return_tensors=return_tensors or "np")["pixel_values"]


class _Encoded(msgspec.Struct, frozen=True):
    """The ids of a row, and which of them a model is trained to say."""

    ids: list[int]
    answers: list[bool]


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces with adjacent texts as one, so that their ids don't depend on how the caller cut them."""
    result: list[Piece] = []
    for piece in pieces:
        last = result[-1] if result else None
        if (
            last is not None
            and isinstance(last.segment, Text)
            and isinstance(piece.segment, Text)
            and last.answer == piece.answer
        ):
            result[-1] = Piece(Text(last.segment.text + piece.segment.text), piece.answer)
        else:
            result.append(piece)
    return result


def _sequence_length(given: int | None, image_tokenizer: ImageTokenizerLike | None) -> int:
    if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 1):
        raise ConfigError(f"image_seq_length is {given!r}, expected an integer from 1.")
    if image_tokenizer is None:
        return PUBLISHED_SEQUENCE_LENGTH if given is None else given
    if given is not None and given != image_tokenizer.tokens_per_image:
        raise ConfigError(
            f"image_seq_length is {given}, but the image tokenizer makes {image_tokenizer.tokens_per_image} codes of "
            "a picture. Leave it out, and it is the tokenizer's."
        )
    return image_tokenizer.tokens_per_image


def _one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> Any:
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}, expected {' or '.join(map(repr, allowed))}.")
    return value


def _row(ids: Any) -> list[int]:
    """One row of ids from a list, an array or a tensor."""
    try:
        return [operator.index(each) for each in (ids.tolist() if hasattr(ids, "tolist") else ids)]
    except TypeError as error:
        raise ConfigError(
            "expected one row of integer ids; a batch is decoded row by row, or by batch_decode."
        ) from error
