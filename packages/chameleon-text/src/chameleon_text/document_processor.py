"""Documents and conversations to the ids that a model reads, and what it wrote back to documents.

document → template → pieces → codecs → ids        ids → codecs → segments → document
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

from .batch import choice, one_row
from .codec_table import CodecTable
from .codecs import (
    CodecContext,
    ImageTokenizerLike,
    PictureFormatLike,
    SegmentCodec,
    SizedImageTokenizerLike,
)
from .documents import messages_from_turns, turns_from_messages
from .errors import ConfigError, DocumentError
from .optional_packages import no_image_reader
from .sealed import Sealed
from .segment_grammar import CheckedGrammar
from .segments import Document, Image, Special, as_document
from .template_calls import parse, render, template_of
from .templates import USER, Piece, Turn
from .tokenizer import TextTokenizer
from .training import Labels, TrainingExample, encode_rows
from .vocabulary import IMAGE_PLACEHOLDER, Vocabulary

PUBLISHED_SEQUENCE_LENGTH = 1024
"""The ids of one picture in the published models."""
MAX_LENGTH = 2**20
"""The most ids that a picture may have: a number in a file must not fill the memory with placeholders."""


class DocumentProcessor(Sealed):
    """The part of ``ChameleonProcessor`` that needs nothing but documents: see there for the arguments."""

    def __init__(
        self,
        tokenizer: TextTokenizer,
        *,
        image_tokenizer: ImageTokenizerLike | None = None,
        image_seq_length: int | None = None,
        image_token: str = IMAGE_PLACEHOLDER,
        template: str = "chat",
        segment_codecs: Mapping[str, SegmentCodec] | None = None,
        picture_format: PictureFormatLike | None = None,
    ) -> None:
        if not isinstance(tokenizer, TextTokenizer):
            raise ConfigError(
                f"tokenizer is a {type(tokenizer).__name__}, expected a chameleon_text.TextTokenizer. "
                "TextTokenizer.from_file reads a tokenizer.json."
            )
        if not isinstance(image_token, str):
            raise ConfigError(f"image_token is a {type(image_token).__name__}, expected the name of a token.")
        if image_tokenizer is not None and not all(
            isinstance(getattr(image_tokenizer, name, None), int) for name in ("num_codes", "tokens_per_image")
        ):
            raise ConfigError(
                f"image_tokenizer is a {type(image_tokenizer).__name__}, expected one such as "
                "chameleon_vq.ImageTokenizer, with num_codes and tokens_per_image."
            )
        self.tokenizer = tokenizer
        self.image_tokenizer = image_tokenizer
        self.picture_format = picture_format
        self.image_token = image_token
        self._segment_codecs = segment_codecs or {}
        self._image_seq_length = _sequence_length(image_seq_length, image_tokenizer)
        self._build()
        if self.vocabulary.image_placeholder_id not in tokenizer.special_ids:
            raise ConfigError(
                f"image_token {image_token!r} is text in this tokenizer. Choose a special token, such as '<image>'."
            )
        if image_tokenizer is not None and image_tokenizer.num_codes != self.vocabulary.num_codes:
            raise ConfigError(
                f"the image tokenizer has {image_tokenizer.num_codes} codes and the vocabulary names "
                f"{self.vocabulary.num_codes}: they belong to different models."
            )
        self.template = template
        if type(self) is DocumentProcessor:
            self._seal(DocumentProcessor)

    @property
    def vocabulary(self) -> Vocabulary:
        """Which of the tokenizer's ids are text, special, or picture codes."""
        if self._built_for is not self.tokenizer.token_ids:
            self._build()  # words were added to the tokenizer
        return self._vocabulary

    @property
    def image_seq_length(self) -> int:
        """The number of ids of one picture, which may be assigned where there is no image tokenizer."""
        return self._image_seq_length

    @image_seq_length.setter
    def image_seq_length(self, length: int) -> None:
        self._image_seq_length = _sequence_length(length, self.image_tokenizer)
        self._build()

    @property
    def template(self) -> str:
        """The format of prompts and conversations, which may be assigned."""
        return self._template

    @template.setter
    def template(self, name: str) -> None:
        template_of(name)  # an unknown name is an error here, not at the first prompt
        self._template = name

    @property
    def segment_grammars(self) -> Mapping[str, CheckedGrammar]:
        """How a model may write the segments of codecs that have a grammar, by the codec's name."""
        return MappingProxyType(self._codecs.grammars)

    def encode(self, document: object, *, template: str = "completion", add_bos: bool = True) -> list[int]:
        """Return the ids of a document: text, pictures and segments, or one of them alone.

        ``template`` names what is put around it; ``completion`` is nothing. ``add_bos`` begins the ids with ``<s>``.
        Pictures are read as one batch.
        """
        pieces = render(template, [Turn(USER, tuple(as_document(document)))])
        return self._ids(pieces, add_bos=add_bos)

    def decode_document(self, ids: Any) -> Document:
        """Return the document of a row of ids: text, pictures as their codes, and segments of installed types.

        Special tokens are left out. A generated row may begin or end within a picture or a character: an unfinished
        picture has the codes that are there. ``draw`` paints the pictures.
        """
        return Document(segment for segment in self._codecs.decode(one_row(ids)) if not isinstance(segment, Special))

    def encode_messages(
        self,
        messages: Iterable[Mapping[str, Any] | Turn],
        *,
        images: Iterable[Any] = (),
        template: str | None = None,
        add_bos: bool = True,
        allow_files: bool = False,
    ) -> list[int]:
        """Return the ids of a conversation, given as chat messages or as turns.

        ``images`` are the pictures of the parts that are only ``{"type": "image"}``. ``template`` is the processor's
        unless given. A picture that a message gives by a path or a ``file:`` URL is an error unless ``allow_files`` is
        True; a ``Path`` object is the caller's own, and is opened.
        """
        return self._ids(self._render(messages, images, template, allow_files), add_bos=add_bos)

    def decode_turns(self, ids: Any, *, template: str | None = None) -> list[Turn]:
        """Return the turns of a conversation, as the template tells them apart."""
        return parse(self.template if template is None else template, self._codecs.decode(one_row(ids)))

    def decode_messages(self, ids: Any, *, template: str | None = None) -> list[dict[str, Any]]:
        """Return the chat messages of a conversation, all plain JSON."""
        return messages_from_turns(self.decode_turns(ids, template=template))

    def encode_for_training(
        self,
        messages: Iterable[Mapping[str, Any] | Turn],
        *,
        images: Iterable[Any] = (),
        template: str | None = None,
        labels: Labels = "answer",
        allow_files: bool = False,
    ) -> TrainingExample:
        """Return a conversation with its labels: of the assistant's turns (``"answer"``) or of everything (``"all"``).

        Placeholders are never trained on. ``ChameleonProcessor.pad`` makes a batch of the examples. ``allow_files`` is
        that of ``encode_messages``.
        """
        choice("labels", labels, ("answer", "all"))
        pieces = self._render(messages, images, template, allow_files)
        (row,) = encode_rows([pieces], self._codecs, prefix=(self.vocabulary.bos_id,))
        return TrainingExample(row.ids, row.labels(labels, placeholder_id=self.vocabulary.image_placeholder_id))

    def draw(self, document: object) -> Document:
        """Return the document with every complete picture that has only codes painted by the image tokenizer.

        Raises ``MissingPackageError`` where there is such a picture and no image tokenizer.
        """
        segments = as_document(document)
        wanted: dict[tuple[int, int] | None, dict[int, tuple[int, ...]]] = {}
        for index, segment in enumerate(segments):
            if isinstance(segment, Image) and segment.image is None and self._is_complete(segment):
                wanted.setdefault(self._grid(segment), {})[index] = segment.codes or ()
        if wanted and self.image_tokenizer is None:
            raise no_image_reader()
        for grid, codes in wanted.items():
            for index, picture in zip(codes, self._painted(list(codes.values()), grid), strict=True):
                segments[index] = Image(picture, codes[index], grid)
        return segments

    def _grid(self, segment: Image) -> tuple[int, int] | None:
        """Return the grid of a picture; None where all have one."""
        return None if self.picture_format is None else segment.grid

    def _is_complete(self, segment: Image) -> bool:
        if segment.codes is None:
            return False
        if self.picture_format is None:
            return len(segment.codes) == self.image_seq_length
        return segment.grid is not None and len(segment.codes) == self.picture_format.num_codes(segment.grid)

    def _painted(self, codes: list[tuple[int, ...]], grid: tuple[int, int] | None) -> Sequence[Any]:
        assert self.image_tokenizer is not None
        if grid is None:
            painted = self.image_tokenizer.decode(codes)
        else:
            painted = cast(SizedImageTokenizerLike, self.image_tokenizer).decode(codes, latent_size=grid)
        if len(painted) != len(codes):
            raise DocumentError(f"the image tokenizer drew {len(painted)} pictures of {len(codes)} rows of codes.")
        return painted

    def _build(self) -> None:
        tokenizer = self.tokenizer
        self._built_for = tokenizer.token_ids
        self._vocabulary = Vocabulary.from_token_ids(
            tokenizer.token_ids, special_ids=tokenizer.special_ids, image_token=self.image_token
        )
        context = CodecContext(
            tokenizer=tokenizer,
            vocabulary=self._vocabulary,
            image_tokenizer=self.image_tokenizer,
            image_seq_length=self.image_seq_length,
            picture_format=self.picture_format,
        )
        self._codec_table = CodecTable(context, self._segment_codecs)

    @property
    def _codecs(self) -> CodecTable:
        if self._built_for is not self.tokenizer.token_ids:
            self._build()
        return self._codec_table

    def _ids(self, pieces: list[Piece], *, add_bos: bool) -> list[int]:
        (row,) = encode_rows([pieces], self._codecs, prefix=(self.vocabulary.bos_id,) if add_bos else ())
        return row.ids

    def _render(
        self,
        messages: Iterable[Mapping[str, Any] | Turn],
        images: Iterable[Any],
        template: str | None,
        allow_files: bool,
    ) -> list[Piece]:
        if isinstance(messages, (str, Mapping)) or not isinstance(messages, Iterable):
            raise DocumentError(f"the messages are a {type(messages).__name__}, expected a list.")
        conversation = list(messages)
        turns = [each for each in conversation if isinstance(each, Turn)]
        if len(turns) != len(conversation):
            turns = turns_from_messages(conversation, images=images, allow_files=allow_files)  # type: ignore[arg-type]
        return render(self.template if template is None else template, turns)


def _sequence_length(given: int | None, image_tokenizer: ImageTokenizerLike | None) -> int:
    if given is not None and (isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MAX_LENGTH):
        raise ConfigError(f"image_seq_length is {given!r:.80}, expected an integer in 1…{MAX_LENGTH:,}.")
    if image_tokenizer is None:
        return PUBLISHED_SEQUENCE_LENGTH if given is None else given
    if given is not None and given != image_tokenizer.tokens_per_image:
        raise ConfigError(
            f"image_seq_length is {given}, but the image tokenizer makes {image_tokenizer.tokens_per_image} codes of "
            "a picture. Leave image_seq_length out."
        )
    return image_tokenizer.tokens_per_image
