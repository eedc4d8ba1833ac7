"""The plugins that come with this package, through the same hooks as anybody's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .hookspecs import HOOK_API_VERSION, SegmentCodecSpec, hookimpl
from .pictures import image_fields, image_of_fields
from .plugins import PluginSpec
from .segments import Image, Text

if TYPE_CHECKING:
    from .codecs import CodecContext, ImageCodec, TextCodec
    from .templates import Chat, Completion


def _text(context: CodecContext) -> TextCodec:
    from .codecs import TextCodec

    return TextCodec(context)


def _image(context: CodecContext) -> ImageCodec:
    from .codecs import ImageCodec

    return ImageCodec(context)


def _chat() -> Chat:
    from .templates import Chat

    return Chat()


def _completion() -> Completion:
    from .templates import Completion

    return Completion()


@hookimpl
def chameleon_text_segment_codecs() -> list[SegmentCodecSpec]:
    """Segment types that come with this package."""
    return [
        SegmentCodecSpec(
            name="text",
            segment=Text,
            factory=_text,
            api_version=HOOK_API_VERSION,
            summary="the tokenizer's byte-level BPE",
        ),
        SegmentCodecSpec(
            name="image",
            segment=Image,
            factory=_image,
            dump=image_fields,
            load=image_of_fields,
            api_version=HOOK_API_VERSION,
            summary="begin-image, the ids of the codes, end-image",
        ),
    ]


@hookimpl
def chameleon_text_templates() -> list[PluginSpec]:
    """Templates that come with this package."""
    return [
        PluginSpec(
            name="chat",
            factory=_chat,
            api_version=HOOK_API_VERSION,
            summary="a user's turn ends with the separator, an assistant's with </s>",
        ),
        PluginSpec(
            name="completion",
            factory=_completion,
            api_version=HOOK_API_VERSION,
            summary="the document as it is, for the model to go on with",
        ),
    ]
