"""What chameleon-vq reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from chameleon_vq import (
    ChameleonImageProcessor,
    ChameleonVQError,
    ChameleonVQVAE,
    ChameleonVQVAEConfig,
    ImageTokenizer,
    read_codes,
    write_codes,
)
from chameleon_vq.codes_file import picture_names
from chameleon_vq.training import TensorPictures, TrainingOptions, VQTrainer, read_log
from chameleon_vq.training_job import read_job

from ..engine import Files, Format, Unsound, check_finite, check_within
from ..mutations import (
    mutate_folder,
    mutate_json,
    mutate_lines,
    mutate_pickle,
    mutate_picture,
    mutate_safetensors,
)
from . import seeds
from .seeds import words

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
WORDS = (
    *ChameleonVQVAEConfig.__struct_fields__,
    *words(
        """
        fsq lfq ema residual codebook vector-quantize-pytorch
        """
    ),
)
QUANTIZER_WORDS = words(
    """
    quantizer_options num_quantizers levels decay entropy_weight commitment_weight class heads codebook_dim
    shared_codebook VectorQuantize ResidualVQ FSQ LFQ use_cosine_sim codebook_size
    """
)
IMAGE_WORDS = words(
    """
    do_resize size resample do_center_crop crop_size do_rescale rescale_factor do_normalize image_mean image_std
    do_convert_rgb do_exif_transpose pixel_limit rounding shortest_edge height width longest_edge meta transformers
    image_processor bicubic
    """
)


def read_tokenizer(folder: Path) -> None:
    """Load, encode a picture and decode what came of it."""
    tokenizer = ImageTokenizer.from_pretrained(folder)
    if tokenizer.tokens_per_image > 4_096:
        return
    codes_BN = tokenizer.encode(np.zeros((8, 8, 3), np.uint8))
    check_within("codes", codes_BN, tokenizer.num_codes)
    tokenizer.decode(codes_BN)


def _read_processor(folder: Path) -> None:
    pixels = ChameleonImageProcessor.from_pretrained(folder).preprocess(np.full((8, 9, 3), 200, np.uint8))
    check_finite("pixels", pixels["pixel_values"])


@seeds.cache
def _processor() -> ChameleonImageProcessor:
    return ChameleonImageProcessor().at_resolution(16)


def _read_picture(folder: Path) -> None:
    pixels = _processor().preprocess(folder / "picture", do_exif_transpose=True)["pixel_values"]
    check_finite("pixels", pixels)
    if pixels.shape[-2:] != (16, 16):
        raise Unsound(f"pixels of the shape {pixels.shape}")


def _codes_files() -> Files:
    def save(folder: Path) -> None:
        tokenizer = seeds.image_tokenizer()
        codes_BN = torch.arange(48).reshape(3, 16) % 16
        write_codes(folder / "codes.safetensors", codes_BN, names=["a.png", "b/c.jpg", "d.png"], tokenizer=tokenizer)

    data = seeds.written(save)["codes.safetensors"]
    # The metadata's order differs from run to run.
    length = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:length]), sort_keys=True).encode()
    return {"codes.safetensors": len(header).to_bytes(8, "little") + header + data[length:]}


def _read_codes(folder: Path) -> None:
    file = read_codes(folder / "codes.safetensors")
    names = picture_names(file.names)
    if len(set(names)) != len(names):
        raise Unsound(f"two pictures are written to one file: {sorted(names)[:4]}")
    seeds.image_tokenizer().decode(file.codes_BN[:2], latent_size=file.latent_size)


def _fit(folder: Path) -> None:
    torch.manual_seed(0)
    model = ChameleonVQVAE(seeds.image_tokenizer().model.config)  # of its own: training changes it
    options = TrainingOptions(steps=1, batch_size=2, kmeans_pictures=0, warmup_steps=1, checkpoint_every=0, log_every=1)
    VQTrainer(model, options, folder=folder).fit(TensorPictures(torch.rand(2, 3, 8, 8)))


def _state() -> Files:
    """The state of a finished run, without the time that it took."""
    return {"checkpoint.pt": seeds.resaved(seeds.written(_fit)["checkpoint.pt"], seconds=0.5)}


def _read_log(folder: Path) -> None:
    for record in read_log(folder / "log.jsonl"):
        if not isinstance(record, dict):
            raise Unsound(f"a record is {record!r:.40}")


def _log() -> Files:
    records = [{"step": step, "seconds": 0.1, "loss": 1.5, "psnr": 20.0} for step in range(1, 5)]
    records.append({"step": 4, "validation": {"psnr": 21.0, "l1": 0.1}})
    return {"log.jsonl": "".join(json.dumps(record) + "\n" for record in records).encode()}


def _whole(**options: object) -> Callable[[], Files]:
    return lambda: seeds.written(seeds.image_tokenizer(**options).save_pretrained)  # type: ignore[arg-type]


def _index() -> Files:
    files = seeds.written(seeds.image_tokenizer().save_pretrained)
    names = list(seeds.image_tokenizer().state_dict())
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    files["model-00001-of-00001.safetensors"] = files.pop(WEIGHTS)
    return {**files, INDEX: json.dumps(index).encode()}


def _in_model() -> Files:
    return {name: data for name, data in seeds.pipeline_files().items() if not name.startswith(("token", "generation"))}


def _job() -> Files:
    config = ChameleonVQVAEConfig(resolution=64, quantizer="ema").to_dict()
    options = TrainingOptions(steps=3, warmup_steps=1).to_dict()
    job = {"format": 1, "config": config, "options": options, "held_out": 2, "mirror": False, "pictures": "ab"}
    return {"job.json": json.dumps(job).encode()}


def _read_job(folder: Path) -> None:
    job = read_job(folder)
    check_within("the held-out pictures", [min(job.held_out, 0)], 1)
    job.config.to_dict()


vq = partial(Format, error=ChameleonVQError)
LOAD = "ImageTokenizer.from_pretrained, .encode, .decode"
FORMATS = (
    vq(
        "vq-config",
        _whole(),
        mutate_json(CONFIG, WORDS),
        read_tokenizer,
        what=f"{CONFIG} of an image tokenizer: {LOAD}",
        share=0.4,
    ),
    *(
        vq(
            f"vq-{quantizer}",
            _whole(quantizer=quantizer, **options),
            mutate_json(CONFIG, (*WORDS, *QUANTIZER_WORDS)),
            read_tokenizer,
            what=f"{CONFIG} with the quantizer {quantizer} and its options: {LOAD}",
            share=0.15,
            needs=quantizer.replace("-", "_") * (quantizer == "vector-quantize-pytorch"),
        )
        for quantizer, options in (
            ("residual", {"num_quantizers": 2}),
            ("fsq", {"levels": (2, 2, 2, 2)}),
            ("lfq", {}),
            ("ema", {}),
            ("vector-quantize-pytorch", {"class": "VectorQuantize"}),
        )
    ),
    vq("vq-weights", _whole(), mutate_safetensors(WEIGHTS), read_tokenizer, what=f"{WEIGHTS}: {LOAD}", share=0.5),
    vq(
        "vq-index",
        _index,
        mutate_json(INDEX, (WEIGHTS, CONFIG, "..")),
        read_tokenizer,
        what=f"{INDEX}: {LOAD}",
        share=0.3,
    ),
    vq(
        "vq-in-model",
        _in_model,
        mutate_json(CONFIG, WORDS),
        read_tokenizer,
        what=f"a model's {CONFIG}: {LOAD}",
        share=0.3,
    ),
    vq(
        "vq-folder",
        _index,
        mutate_folder(),
        read_tokenizer,
        what=f"files that aren't there, or no files: {LOAD}",
        share=0.05,
    ),
    vq(
        "vq-preprocessor",
        _whole(),
        mutate_json("preprocessor_config.json", IMAGE_WORDS),
        _read_processor,
        what="preprocessor_config.json: ChameleonImageProcessor.from_pretrained, .preprocess",
        share=4,
    ),
    vq(
        "vq-processor",
        lambda: {
            "processor_config.json": json.dumps(
                {"image_processor": json.loads(_whole()()["preprocessor_config.json"]), "image_seq_length": 16}
            ).encode()
        },
        mutate_json("processor_config.json", IMAGE_WORDS),
        _read_processor,
        what="processor_config.json: ChameleonImageProcessor.from_pretrained, .preprocess",
        share=2,
    ),
    vq(
        "vq-picture",
        lambda: {"picture": seeds.pictures()["PNG"]},
        mutate_picture("picture", seeds.pictures),
        _read_picture,
        what="a picture file: ChameleonImageProcessor.preprocess",
        share=6,
    ),
    vq(
        "vq-codes",
        _codes_files,
        mutate_safetensors("codes.safetensors", json_metadata=("names", "latent_size", "fingerprint")),
        _read_codes,
        what="a file of codes: read_codes, picture_names, ImageTokenizer.decode",
        share=4,
    ),
    vq(
        "vq-state",
        _state,
        mutate_pickle("checkpoint.pt"),
        _fit,
        what="checkpoint.pt of a finished run: VQTrainer.fit",
        share=0.3,
    ),
    vq("vq-job", _job, mutate_json("job.json", ("quantizer",)), _read_job, what="job.json: read_job", share=0.5),
    vq("vq-log", _log, mutate_lines("log.jsonl", ("step",)), _read_log, what="log.jsonl: read_log", share=2),
)
