"""The small valid things that are broken: an image tokenizer, a text tokenizer, a model, a pipeline, pictures.

A few thousand weights each, so that reading one takes milliseconds.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from chameleon_core import Chameleon, ChameleonConfig, ChameleonForConditionalGeneration, Quantization, quantize_model
from chameleon_core.testing import randomize
from chameleon_text import ChameleonProcessor, TextTokenizer
from chameleon_text.testing import make_tokenizer
from chameleon_vq import ChameleonVQVAE, ChameleonVQVAEConfig, ImageTokenizer

from ..engine import Files

NUM_CODES = 16
RESOLUTION = 8
TOKENS_PER_IMAGE = 16


def words(text: str) -> tuple[str, ...]:
    """Keys and values of a format."""
    return tuple(text.split())


def written(save: Callable[[Path], object]) -> Files:
    """The files that something writes into a folder."""
    # Without the bars of progress.
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(name)
        save(folder)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def resaved(data: bytes, **changes: object) -> bytes:
    """A file of ``torch.save`` with some entries changed, and without the name of the file that it was written to."""
    buffer = io.BytesIO()
    torch.save({**torch.load(io.BytesIO(data), weights_only=True), **changes}, buffer)
    return buffer.getvalue()


@cache
def image_tokenizer(quantizer: str = "codebook", **options: object) -> ImageTokenizer:
    """16 codes a picture of 8 × 8, out of 16."""
    config = ChameleonVQVAEConfig(
        resolution=RESOLUTION,
        base_channels=32,
        channel_multiplier=(1, 1),
        num_res_blocks=1,
        latent_channels=4,
        embed_dim=4,
        num_embeddings=NUM_CODES,
        attn_type="none",
        quantizer=quantizer,
        quantizer_options=options,
        initializer_range=0.1,
    )
    torch.manual_seed(0)
    return ImageTokenizer(ChameleonVQVAE(config))


@cache
def tokenizer() -> TextTokenizer:
    """16 picture names, all bytes, a few words."""
    return make_tokenizer(NUM_CODES)


def processor() -> ChameleonProcessor:
    """The text tokenizer with the image tokenizer."""
    return ChameleonProcessor(tokenizer(), image_tokenizer=image_tokenizer())


def model() -> ChameleonForConditionalGeneration:
    """Two layers of width 32; a new one each time, since pipelines and runs change it."""
    vocabulary = processor().vocabulary
    config = ChameleonConfig(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        rope_scaling={"type": "linear", "factor": 2.0},
        bos_token_id=vocabulary.bos_id,
        eos_token_id=vocabulary.eos_id,
        pad_token_id=vocabulary.pad_id,
        vocabulary_map=tokenizer().token_ids,
        vq_config=image_tokenizer().config_dict(),
    )
    torch.manual_seed(0)
    return randomize(ChameleonForConditionalGeneration(config)).eval()


@cache
def model_files(max_shard_size: str = "5GB") -> Files:
    """The model alone."""
    return written(lambda folder: model().save_pretrained(folder, max_shard_size=max_shard_size))


@cache
def pipeline_files() -> Files:
    """Everything that a pipeline's folder has."""
    return written(Chameleon(model(), processor()).save_pretrained)


@cache
def quantized_files(method: str) -> Files:
    """The model quantized."""

    def save(folder: Path) -> None:
        quantized = model()
        quantize_model(quantized, Quantization(method, {"group_size": 32} if method == "int4" else {}))
        quantized.save_pretrained(folder)

    return written(save)


@cache
def pictures() -> dict[str, bytes]:
    """A small picture in each of the formats and modes that people have, and in some that they hardly have."""
    values = np.arange(12 * 10 * 4, dtype=np.uint8).reshape(12, 10, 4)
    rgba = Image.fromarray(values)
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray((np.arange(120, dtype=np.uint16) * 500).reshape(12, 10))
    made: dict[str, tuple[Image.Image, dict[str, object]]] = {
        "PNG": (rgb, {}),
        "PNG RGBA": (rgba, {}),
        "PNG palette": (rgb.quantize(16), {"transparency": 3}),
        "PNG grey": (grey, {"transparency": 7}),
        "PNG 16 bits": (deep, {}),
        "PNG 1 bit": (grey.convert("1"), {}),
        "PNG EXIF": (rgb, {"exif": exif}),
        "PNG animated": (rgb, {"save_all": True, "append_images": [rgb.rotate(180)]}),
        "JPEG": (rgb, {}),
        "JPEG EXIF": (rgb, {"exif": exif, "progressive": True}),
        "JPEG CMYK": (rgb.convert("CMYK"), {}),
        "WEBP": (rgba, {"lossless": True}),
        "WEBP EXIF": (rgb, {"exif": exif}),
        "GIF": (rgb.quantize(8), {"save_all": True, "append_images": [rgb.quantize(8)]}),
        "BMP": (rgb, {}),
        "TIFF": (rgb, {}),
        "TIFF deflate": (rgba, {"compression": "tiff_deflate"}),
        "TIFF 16 bits": (deep, {}),
        "TIFF float": (grey.convert("F"), {}),
        "PPM": (rgb, {}),
        "TGA": (rgba, {}),
        "PCX": (rgb, {}),
        "ICO": (rgba, {}),
        "SGI": (rgb, {}),
        "JPEG2000": (rgb, {}),
        "AVIF": (rgb, {}),
        "DDS": (rgba, {}),
        "EPS": (rgb, {}),
    }
    files = {}
    for name, (image, options) in made.items():
        buffer = io.BytesIO()
        image.save(buffer, format=name.split()[0], **options)
        files[name] = buffer.getvalue()
    return files
