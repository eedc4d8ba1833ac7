"""The segment codecs and templates of this package, registered through the same hooks as any plugin."""

from __future__ import annotations

from .codecs import TextCodec
from .hookspecs import HOOK_API_VERSION, SegmentCodecSpec, hookimpl
from .pictures import image_fields, image_of_fields
from .plugins import PluginSpec
from .segments import Image, Text
from .sized_codec import image_codec
from .templates import Chat, Completion


@hookimpl
def chameleon_text_segment_codecs() -> list[SegmentCodecSpec]:
    """Return the built-in segment types."""
    return [
        SegmentCodecSpec(
            name="text",
            segment=Text,
            factory=TextCodec,
            api_version=HOOK_API_VERSION,
            summary="the tokenizer's byte-level BPE",
        ),
        SegmentCodecSpec(
            name="image",
            segment=Image,
            factory=image_codec,
            dump=image_fields,
            load=image_of_fields,
            api_version=HOOK_API_VERSION,
            summary="begin-image, the ids of the codes, end-image",
        ),
    ]


@hookimpl
def chameleon_text_templates() -> list[PluginSpec]:
    """Return the built-in templates."""
    return [
        PluginSpec(
            name="chat",
            factory=Chat,
            api_version=HOOK_API_VERSION,
            summary="a user's turn ends with the separator, an assistant's with </s>",
        ),
        PluginSpec(
            name="completion",
            factory=Completion,
            api_version=HOOK_API_VERSION,
            summary="the document as it is, for the model to continue",
        ),
    ]
