"""The image tokenizer at full size: pictures to codes beside ``transformers``, codes to pixels beside the machine.

Rows named "model" leave out the image processor. Weights are random, and both sides have the same.

Shapes: B pictures, C channels, H W pixels, h w latent grid, Z codes, D latent width, M
positions.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import ChameleonVQVAE as PeerVQVAE
from transformers import ChameleonVQVAEConfig as PeerConfig
from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil

from chameleon_vq import ChameleonVQVAE, ChameleonVQVAEConfig, ImageTokenizer

from .comparing import TOLERANCES, require_near
from .pictures import photograph
from .rates import convolving
from .row import Contest, DifferentResultsError, Goal, LatestOnly, Row, Scale, milliseconds

TINY = {"base_channels": 32, "channel_multiplier": [1, 2], "num_res_blocks": 1, "num_embeddings": 256}


@LatestOnly
def sides(dtype: torch.dtype, scale: Scale) -> tuple[ImageTokenizer, Any, int]:
    """Return our tokenizer and the model of ``transformers``, of the same weights, and their resolution."""
    torch.manual_seed(0)
    resolution = scale.pick(512, 192, 32)
    fields = {"resolution": resolution, **scale.pick({}, {}, TINY)}
    ours = ChameleonVQVAE(ChameleonVQVAEConfig(**fields)).eval().to(dtype)
    with torch.device("meta"):
        theirs = PeerVQVAE(PeerConfig(**fields)).eval()
    weights = ours.state_dict()
    theirs.load_state_dict({name: weights[name] for name in theirs.state_dict()}, assign=True)
    return ImageTokenizer(ours), theirs, resolution


def encode(dtype: torch.dtype, alone: bool, scale: Scale) -> Contest:
    """Return a contest over a picture's codes, of the model ``alone`` or from a picture."""
    tokenizer, theirs, resolution = sides(dtype, scale)
    size = {"size": {"shortest_edge": resolution}, "crop_size": {"height": resolution, "width": resolution}}
    processor = ChameleonImageProcessorPil(**size)
    picture = photograph(resolution, resolution)
    pixels_BCHW = tokenizer.pixels(picture)

    @torch.inference_mode()
    def our_model() -> Any:
        return tokenizer.model.encode(pixels_BCHW.to(dtype))

    @torch.inference_mode()
    def their_model() -> Any:
        return theirs.encode(pixels_BCHW.to(dtype))

    @torch.inference_mode()
    def their_codes() -> Tensor:
        return theirs.encode(processor(picture, return_tensors="pt")["pixel_values"].to(dtype)).image_tokens

    def compare() -> None:
        encoding, expected = our_model(), their_model()
        with torch.inference_mode():
            latents_BDhw = theirs.quant_conv(expected.last_hidden_state)
        require_near(encoding.latents_BDhw, latents_BDhw, dtype, "latents")
        for codes in (encoding.codes_Bhw, tokenizer.encode(picture)):
            require_nearest(codes, latents_BDhw, tokenizer.model, dtype)

    limit = convolving(encoder_flops(tokenizer.model, resolution), dtype, scale)
    if alone:
        return Contest(milliseconds(our_model), milliseconds(their_model), limit, compare)
    return Contest(milliseconds(partial(tokenizer.encode, picture)), milliseconds(their_codes), limit, compare)


def decode(dtype: torch.dtype, scale: Scale) -> Contest:
    """Return a contest over a picture's pixels, which ``transformers`` doesn't decode."""
    tokenizer, _, resolution = sides(dtype, scale)
    model = tokenizer.model
    grid = resolution // model.config.stride
    codes_Bhw = torch.randint(tokenizer.num_codes, (1, grid, grid), generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def ours() -> Tensor:
        return model.decode(codes_Bhw)

    def compare() -> None:
        # With gradients the decoder is computed as it is defined.
        require_near(ours(), model.decode(codes_Bhw).detach(), dtype, "pixels")

    return Contest(
        milliseconds(ours), limit=convolving(decoder_flops(model, resolution), dtype, scale), compare=compare
    )


def require_nearest(codes: Tensor, latents_BDhw: Tensor, model: ChameleonVQVAE, dtype: torch.dtype) -> None:
    """Raise ``DifferentResultsError`` unless each code is the nearest to the other side's latents, or a near-tie.

    The other side's own codes are no measure in bfloat16, in which it computes distances, too: most of them are equal
    there. A tie is near where moving a latent by three times what ``TOLERANCES`` allows would decide it.
    """
    latents_MD = latents_BDhw.double().movedim(1, -1).flatten(0, 2)
    entries_ZD = model.state_dict()["quantize.embedding.weight"].double()
    nearest_M = torch.cdist(latents_MD, entries_ZD, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
    chosen_MD, nearest_MD = entries_ZD[codes.flatten()], entries_ZD[nearest_M]
    gap_M = (latents_MD - chosen_MD).square().sum(1) - (latents_MD - nearest_MD).square().sum(1)
    moved_M = 3 * TOLERANCES[dtype] * latents_MD.norm(dim=1)
    wrong = float((gap_M > 2 * moved_M * (chosen_MD - nearest_MD).norm(dim=1)).double().mean())
    if wrong:
        raise DifferentResultsError(f"{wrong:.1%} of the codes aren't nearest to the other side's latents.")


def encoder_flops(model: ChameleonVQVAE, resolution: int) -> float:
    """Return the operations of encoding a picture as it is defined."""
    with torch.device("meta"):
        copy = ChameleonVQVAE(model.config, with_decoder=False)
        with FlopCounterMode(display=False) as counter:
            copy.quant_conv(copy.encoder(torch.empty(1, 3, resolution, resolution)))
    return float(counter.get_total_flops())


def decoder_flops(model: ChameleonVQVAE, resolution: int) -> float:
    """Return the operations of decoding a picture as it is defined: doubled grids are convolved as others are."""
    grid = resolution // model.config.stride
    with torch.device("meta"):
        copy = ChameleonVQVAE(model.config)
        with FlopCounterMode(display=False) as counter:
            copy.decode_latents(torch.empty(1, model.config.embed_dim, grid, grid))
    return float(counter.get_total_flops())


def _rows(dtype: torch.dtype, encoding: Goal, decoding: Goal) -> list[Row]:
    name, what = str(dtype).removeprefix("torch."), "512², full size"
    return [
        Row(f"vq-encode-{name}", f"a picture to codes, {what}", partial(encode, dtype, False), goal=encoding),
        Row(f"vq-encode-{name}-model", f"pixels to codes, {what}", partial(encode, dtype, True), goal=encoding),
        Row(f"vq-decode-{name}", f"codes to pixels, {what}", partial(decode, dtype), goal=decoding),
    ]


ROWS = [
    *_rows(torch.float32, Goal(peer=1.6, limit=0.8), Goal(limit=0.85)),
    *_rows(torch.bfloat16, Goal(peer=3.3, limit=0.8), Goal(limit=0.85)),
]
