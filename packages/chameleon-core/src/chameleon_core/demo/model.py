"""A small untrained model: an image tokenizer whose weights are set by hand, and a random transformer.

Shapes: C channels of the VQ-VAE, N codes.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from chameleon_text import ChameleonProcessor
from chameleon_text.testing import make_tokenizer
from chameleon_vq import ChameleonImageProcessor, ChameleonVQVAE, ChameleonVQVAEConfig, ImageTokenizer

from ..config import ChameleonConfig
from ..model.conditional_generation import ChameleonForConditionalGeneration
from ..pipeline import Chameleon

# The tokenizer's words; every prefix of one is a token, too.
SAMPLE = """
A chameleon sees the whole room at once: one eye rests on the window, the other follows a fly along the wall. It reads
what is there, line by line, and then it answers with its own skin. Green for the leaf, brown for the branch, and a red
that nobody asked for. Words and pictures are one to it. What it has seen it can say, and what it says it can show.
"""

# Levels of red, green and blue that the codes distinguish; most for green, to which eyes are most sensitive.
LEVELS = (8, 16, 8)

# Every GroupNorm of the VQ-VAE has 32 groups; four channels each are what `_set_by_hand` needs.
CHANNELS = 128
ANCHOR = 1000.0
SHIFT = 16.0

# The additional logit of begin-image, with which a picture begins about once in 25 ids.
PICTURE_LOGIT = 3.0


def make_chameleon(*, resolution: int = 64, seed: int = 0, context_length: int = 4096) -> Chameleon:
    """Return a pipeline in which pictures of ``resolution`` × ``resolution`` pixels are ``(resolution / 2)²`` codes.

    The transformer's weights are random, so that it writes noise; for pictures, see ``make_image_tokenizer``.
    """
    image_tokenizer = make_image_tokenizer(resolution)
    tokenizer = make_tokenizer(
        image_tokenizer.num_codes, words=re.findall(r"\s?\w+|[^\w\s]", SAMPLE.replace("\n", " "))
    )
    processor = ChameleonProcessor(tokenizer, image_tokenizer=image_tokenizer)
    config = ChameleonConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context_length,
        bos_token_id=processor.vocabulary.bos_id,
        eos_token_id=processor.vocabulary.eos_id,
        pad_token_id=processor.vocabulary.pad_id,
        vocabulary_map=tokenizer.token_ids,
        vq_config=image_tokenizer.config_dict(),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ChameleonForConditionalGeneration(config).eval()
    _make_likelier(model, processor.vocabulary.begin_image_id)
    return Chameleon(model, processor)


def make_image_tokenizer(resolution: int = 64) -> ImageTokenizer:
    """Return an image tokenizer whose 1,024 codes are colours: each is the mean of 2 × 2 pixels.

    It is an ordinary ``ChameleonVQVAE`` with weights that are set instead of trained. Encoding a decoded picture gives
    the same codes.
    """
    config = ChameleonVQVAEConfig(
        resolution=resolution,
        base_channels=CHANNELS,
        channel_multiplier=(1, 1),
        num_res_blocks=1,
        embed_dim=3,
        latent_channels=3,
        num_embeddings=LEVELS[0] * LEVELS[1] * LEVELS[2],
        attn_type="none",
    )
    model = ChameleonVQVAE(config)
    _set_by_hand(model)
    return ImageTokenizer(model, ChameleonImageProcessor.meta(resolution))


@torch.no_grad()
def _set_by_hand(model: ChameleonVQVAE) -> None:
    """Set weights that pass three colours through the network unchanged.

    Residual branches are zero. A group of four channels holds a colour, its negative and two anchors, so that for every
    picture the group's mean is 0 and its deviation that of the anchors: the norm is a constant factor, which its weight
    cancels. A shift moves values to where swish is the identity.
    """
    weights = dict(model.named_parameters())
    for weight in weights.values():
        weight.zero_()
    spread_C3 = torch.zeros(CHANNELS, 3)
    for colour in range(3):
        spread_C3[4 * colour, colour] = 1
        spread_C3[4 * colour + 1, colour] = -1
    gather_3C = spread_C3.clamp(min=0).T
    for half in ("encoder", "decoder"):
        _set_centre(weights[f"{half}.conv_in.weight"], spread_C3)
        weights[f"{half}.conv_in.bias"][2::4] = ANCHOR
        weights[f"{half}.conv_in.bias"][3::4] = -ANCHOR
        weights[f"{half}.norm_out.weight"].fill_(ANCHOR / 2**0.5)
        weights[f"{half}.norm_out.bias"].fill_(SHIFT)
        _set_centre(weights[f"{half}.conv_out.weight"], gather_3C)
        weights[f"{half}.conv_out.bias"].fill_(-SHIFT)
    identity_CC = torch.eye(CHANNELS)
    weights["encoder.down.0.downsample.conv.weight"][:, :, :2, :2] = identity_CC[:, :, None, None] / 4
    _set_centre(weights["decoder.up.1.upsample.conv.weight"], identity_CC)
    for name in ("quant_conv", "post_quant_conv"):
        _set_centre(weights[f"{name}.weight"], torch.eye(3))
    colours_N3 = torch.cartesian_prod(*(torch.linspace(-1, 1, levels) for levels in LEVELS))
    weights["quantize.embedding.weight"].copy_(colours_N3)


def _set_centre(weight: Tensor, matrix: Tensor) -> None:
    """Make a convolution multiply each position by a matrix, independent of its neighbours."""
    middle = weight.shape[-1] // 2
    weight[:, :, middle, middle] = matrix


@torch.no_grad()
def _make_likelier(model: ChameleonForConditionalGeneration, token_id: int) -> None:
    """Make an id likelier everywhere; with random weights alone, a picture would begin once in a thousand ids."""
    # One hidden dimension is reserved for it. It outweighs the others, so that the final norm scales it to √width.
    width = model.config.hidden_size
    model.get_input_embeddings().weight[:, 0] = 1
    model.lm_head.weight[:, 0] = 0
    model.lm_head.weight[token_id, 0] = PICTURE_LOGIT / width**0.5
