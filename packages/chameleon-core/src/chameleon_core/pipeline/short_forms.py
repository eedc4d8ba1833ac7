"""The short forms of the pipeline: one call to draw a picture, to draw a part of it anew, or to ask about it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast, overload

from .._boundary import translates_errors
from ..errors import GenerationError
from ..generation.options import PipelineChanges
from ..layout import TokenLayout
from ..model import ChameleonForConditionalGeneration
from ..optional_packages import text_package
from ..picture_grammars import Grid
from ..protocols import ImageTokenizerLike, ProcessorLike
from .editing import Mask, keep_outside, keep_some, read_codes
from .prompts import Picture, Prompt

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from chameleon_text import Document, Image, Results

CAPTION_QUESTION = "what is this?"


class ShortForms:
    """The methods of ``Chameleon`` that are short for ``generate``."""

    model: ChameleonForConditionalGeneration
    processor: ProcessorLike
    layout: TokenLayout

    if TYPE_CHECKING:

        @property
        def image_tokenizer(self) -> ImageTokenizerLike:
            """What reads and draws pictures."""

        def generate_batch(self, *args: Any, **kwargs: Any) -> Results[Document]:
            """Continue several prompts."""

    @overload
    def draw(
        self, prompt: Prompt, *, num_images: None = None, template: str = "chat", **changes: Unpack[PipelineChanges]
    ) -> PILImage: ...
    @overload
    def draw(
        self, prompt: Prompt, *, num_images: int, template: str = "chat", **changes: Unpack[PipelineChanges]
    ) -> Results[PILImage]: ...
    @translates_errors
    def draw(
        self,
        prompt: Prompt,
        *,
        num_images: int | None = None,
        template: str = "chat",
        **changes: Unpack[PipelineChanges],
    ) -> PILImage | Results[PILImage]:
        """Draw one picture of what a prompt asks for, or ``num_images`` of them, which are returned as a list.

        ``draw("a red apple")`` is short for ``generate`` with modality "image"; ``changes`` are its options. Several
        pictures of one prompt differ where ids are sampled; a notebook shows them beside each other.
        """
        _check_no_modality("draw() draws one picture", changes)
        if num_images is not None and num_images < 1:
            raise GenerationError(f"num_images must be at least 1, or None for one picture; got {num_images}.")
        prompts = [prompt] * (num_images or 1)
        documents = self.generate_batch(prompts, modality="image", template=template, **changes)
        images = [each.image for document in documents for each in document if isinstance(each, text_package().Image)]
        return text_package().Results(images) if num_images is not None else cast("PILImage", images[0])

    @translates_errors
    def inpaint(
        self,
        picture: Picture,
        mask: Mask,
        prompt: Prompt,
        *,
        template: str = "chat",
        **changes: Unpack[PipelineChanges],
    ) -> PILImage:
        """Draw the masked part of a picture anew, after a prompt, and return the picture.

        ``mask`` has the picture's size: a PIL image that isn't black, or a bool or uint8 array [H, W] that isn't 0,
        where the picture is drawn anew. Codes whose pixels are all outside stay. The result is what the image tokenizer
        draws of all codes.
        """
        codes, grid = read_codes(picture, self.image_tokenizer, self.layout)
        kept = keep_outside(mask, picture, codes, grid, self.image_tokenizer, self.layout)
        return self._draw_rest(prompt, kept, grid, template, changes)

    @translates_errors
    def vary(
        self,
        picture: Picture,
        prompt: Prompt,
        *,
        strength: float = 0.5,
        template: str = "chat",
        **changes: Unpack[PipelineChanges],
    ) -> PILImage:
        """Draw a share of a picture's codes anew, after a prompt, and return the picture.

        ``strength`` is the share, in (0, 1]. Which codes they are is drawn by the options' ``seed``.
        """
        codes, grid = read_codes(picture, self.image_tokenizer, self.layout)
        options = self.model.generation_options.replace(**changes)
        return self._draw_rest(prompt, keep_some(codes, grid, strength, options.seed), grid, template, changes)

    def prompt_ids(self, prompt: Prompt, *, template: str = "chat") -> tuple[int, ...]:
        """Return the ids of a prompt, for ``negative_prompt_ids``."""
        return tuple(self.processor.encode(text_package().as_document(prompt), template=template))

    @translates_errors
    def caption(
        self,
        image: str | Picture | Image,
        question: str = CAPTION_QUESTION,
        *,
        template: str = "chat",
        **changes: Unpack[PipelineChanges],
    ) -> str:
        """Answer a question about a picture, and return the text without spaces around it.

        ``caption("cat.png")`` is short for ``generate`` with modality "text". ``image`` is a path (a str, too), a PIL
        image, a uint8 array or an ``Image`` segment. ``changes`` are options: the answer is the likeliest one unless
        they have ``do_sample=True``.
        """
        _check_no_modality("caption() answers in text", changes)
        # In a prompt a str is text.
        picture = Path(image) if isinstance(image, str) else image
        likeliest: PipelineChanges = {"do_sample": False, **changes}
        (document,) = self.generate_batch([[picture, question]], modality="text", template=template, **likeliest)
        return "".join(segment.text for segment in document if isinstance(segment, text_package().Text)).strip()

    def _draw_rest(
        self, prompt: Prompt, kept: tuple[int | None, ...], grid: Grid, template: str, changes: PipelineChanges
    ) -> PILImage:
        if self.layout.pictures.has_sizes:
            changes = {**changes, "image_size": self.layout.pictures.pixels(grid)}
        changes = {**changes, "fixed_codes": kept}
        return self.draw(prompt, template=template, **changes)


def _check_no_modality(does: str, changes: Mapping[str, object]) -> None:
    if "modality" in changes:
        raise GenerationError(
            f"{does} and has no modality; got modality={changes['modality']!r}. Use generate(prompt, modality=...)."
        )
