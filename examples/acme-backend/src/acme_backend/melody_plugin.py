"""Registers a third modality, beside text and pictures."""

from __future__ import annotations

from chameleon_text import HOOK_API_VERSION, CodecContext, SegmentCodecSpec, hookimpl

from .melody import TOKENS, Melody, MelodyCodec, melody_fields, melody_of_fields


def unsupported(context: CodecContext) -> str | None:
    """Return why a vocabulary can't hold melodies, in a sentence; None where it can."""
    missing = [name for name in TOKENS if name not in context.tokenizer.token_ids]
    return f"the vocabulary lacks {len(missing)} of its tokens, {missing[0]!r} first" if missing else None


@hookimpl
def chameleon_text_segment_codecs() -> list[SegmentCodecSpec]:
    """What this package adds."""
    return [
        SegmentCodecSpec(
            name="melody",
            segment=Melody,
            factory=MelodyCodec,
            dump=melody_fields,
            load=melody_of_fields,
            api_version=HOOK_API_VERSION,
            summary="a tune, one token for each note",
            unsupported=unsupported,
        )
    ]
