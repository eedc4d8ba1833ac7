"""Stream a document of text and pictures, and keep each picture's previews as a strip.

The model has random weights, so it writes noise.
"""

from __future__ import annotations

from PIL import Image as PILImage

from chameleon_core import Finished, ImageFinished, ImageProgress, ImageStarted, TextDelta
from chameleon_core.demo import make_chameleon

chameleon = make_chameleon(resolution=16)
side = 96
frames: list[PILImage.Image] = []
strips = 0

events = chameleon.stream(
    "A chameleon says ",
    modality="interleaved",
    max_new_tokens=200,
    max_images=2,
    do_sample=True,
    seed=3,
    preview_every=16,
)
for event in events:
    match event:
        case TextDelta(text=text):
            print(text, end="", flush=True)
        case ImageStarted(num_codes=num_codes):
            print(f"\n[a picture of {num_codes} codes begins]", end="", flush=True)
            frames = []
        case ImageProgress(preview=preview, codes_done=done) if preview is not None:
            print(f" {done}", end="", flush=True)
            frames.append(preview)
        case ImageFinished(image=image):
            strips += 1
            strip = PILImage.new("RGB", (side * (len(frames) + 1), side))
            for column, frame in enumerate([*frames, image]):
                strip.paste(frame.resize((side, side), PILImage.Resampling.NEAREST), (column * side, 0))
            strip.save(f"strip-{strips}.png")
            print(f" [done: strip-{strips}.png]")
        case Finished(reason=reason, document=document):
            print(f"\n\n{len(document)} segments; ended by {reason}")
