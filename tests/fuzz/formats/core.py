"""What chameleon-core reads of models: folders, and files of the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import torch
from typer.main import get_command

from chameleon_backends import QuantizedLinear
from chameleon_core import (
    Chameleon,
    ChameleonConfig,
    ChameleonCoreError,
    ChameleonForConditionalGeneration,
    TokenLayout,
)
from chameleon_core.cli.app import app

from ..engine import Files, Format, Mutate, check_finite, check_within
from ..mutations import mutate_folder, mutate_json, mutate_safetensors
from . import seeds
from .seeds import words
from .text import CONFIG_WORDS, NAMES
from .text import WORDS as TOKENIZER_WORDS
from .vq import IMAGE_WORDS
from .vq import WORDS as VQ_WORDS

CONFIG, GENERATION, INDEX = "config.json", "generation_config.json", "model.safetensors.index.json"
WORDS = (
    *ChameleonConfig.__struct_fields__,
    *words(
        """
        rope_parameters rope_type linear dynamic default factor
        """
    ),
)
RECORD_WORDS = words(
    """
    quantization_config quant_method int8 int4 bnb-nf4 bitsandbytes torchao
    """
)
GENERATION_WORDS = words(
    """
    do_sample temperature top_k top_p min_p max_new_tokens max_length eos_token_id seed repetition_penalty
    stop_strings stop_ids modality image interleaved guidance_text num_beams suppress_tokens image_top_k
    image_temperature max_images guidance_image _from_model_config typical_p no_repeat_ngram_size bad_words_ids
    min_new_tokens logits_processors name top-k forbidden_ids forbidden_sequences
    """
)


def read_model(folder: Path) -> None:
    """Load, compute logits and generate two ids."""
    model = ChameleonForConditionalGeneration.from_pretrained(folder)
    if model.config.max_position_embeddings < 8:
        return
    bos_id = model.layout.bos_id if model.config.vocabulary_map is not None else 0
    input_ids = torch.tensor([[bos_id, min(70, model.config.vocab_size - 1)]])
    with torch.no_grad():
        logits = model(input_ids).logits
        # Weights that are finite may still overflow; generation then says so.
        quantized = [layer.dequantize() for layer in model.modules() if isinstance(layer, QuantizedLinear)]
        weights = [*quantized, *model.state_dict().values()]
        if all(tensor.abs().max() < 1e9 for tensor in weights if tensor.is_floating_point()):
            check_finite("logits", logits)
    if model.config.vocabulary_map is not None:
        ids = model.generate(input_ids, max_new_tokens=2)
        check_within("generated ids", ids, model.config.vocab_size)


def _read_config(folder: Path) -> None:
    ChameleonConfig.from_pretrained(folder).to_dict()


def _read_layout(folder: Path) -> None:
    TokenLayout.from_config(ChameleonConfig.from_pretrained(folder))


def _read_pipeline(folder: Path) -> None:
    chameleon = Chameleon.from_pretrained(folder)
    chameleon.generate("the red", max_new_tokens=2)


def _command(*arguments: str) -> Callable[[Path], None]:
    """A command of ``chameleon`` on a good model and a broken file; ``{}`` in its arguments is the folder."""

    def read(folder: Path) -> None:
        good = folder / "model"
        good.mkdir(exist_ok=True)
        for name, data in seeds.pipeline_files().items():
            (good / name).write_bytes(data)
        # Errors of ours end it with status 1; all others come through.
        get_command(app).main([each.format(folder) for each in arguments], "chameleon", standalone_mode=False)

    return read


def _mutate_any(random: Random, files: Files) -> list[str]:
    """One of the JSON files of a pipeline's folder."""
    name = random.choice(sorted(each for each in files if each.endswith(".json")))
    words = (*WORDS, *GENERATION_WORDS, *CONFIG_WORDS, *IMAGE_WORDS, *NAMES)
    return mutate_json(name, words)(random, files)


def _in_vocabulary_map(random: Random, files: Files) -> list[str]:
    """A change within ``vocabulary_map`` or ``vq_config``, the rest being right."""
    data = json.loads(files[CONFIG])
    part = random.choice(("vocabulary_map", "vocabulary_map", "vq_config"))
    nested = {part: json.dumps(data.pop(part)).encode()}
    notes = mutate_json(part, NAMES if part == "vocabulary_map" else VQ_WORDS)(random, nested)
    rest = json.dumps(data).encode().rstrip(b"}")
    files[CONFIG] = rest + b', "' + part.encode() + b'": ' + nested[part] + b"}"
    return notes


def _quantized(method: str, *, json_tensors: bool = False) -> tuple[Callable[[], Files], Mutate]:
    files = partial(seeds.quantized_files, method)

    def mutate(random: Random, broken: Files) -> list[str]:
        if random.random() < 0.4:
            return mutate_json(CONFIG, RECORD_WORDS)(random, broken)
        shard = random.choice(sorted(name for name in broken if name.endswith(".safetensors")))
        names = [name for name in _header(broken[shard]) if "quant_state" in name] if json_tensors else []
        return mutate_safetensors(shard, json_tensors=names)(random, broken)

    return files, mutate


def _header(data: bytes) -> dict[str, object]:
    header: dict[str, object] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header


def _mutate_weights(random: Random, files: Files) -> list[str]:
    shard = random.choice(sorted(name for name in files if name.endswith(".safetensors")))
    return mutate_safetensors(shard)(random, files)


core = partial(Format, error=ChameleonCoreError)
LOAD = "ChameleonForConditionalGeneration.from_pretrained, forward, .generate"
FORMATS = (
    core(
        "core-config",
        lambda: {CONFIG: seeds.model_files()[CONFIG]},
        mutate_json(CONFIG, WORDS),
        _read_config,
        what=f"{CONFIG}: ChameleonConfig.from_pretrained",
        share=5,
    ),
    core(
        "core-layout",
        lambda: {CONFIG: seeds.model_files()[CONFIG]},
        _in_vocabulary_map,
        _read_layout,
        what="vocabulary_map and vq_config: TokenLayout.from_config",
        share=3,
    ),
    core(
        "core-model",
        seeds.model_files,
        mutate_json(CONFIG, (*WORDS, *RECORD_WORDS)),
        read_model,
        what=f"{CONFIG} of a model: {LOAD}",
        share=0.6,
    ),
    core(
        "core-weights",
        seeds.model_files,
        _mutate_weights,
        read_model,
        what=f"safetensors of a model: {LOAD}",
        share=0.6,
    ),
    core(
        "core-index",
        partial(seeds.model_files, "20KB"),
        mutate_json(INDEX, ("..", CONFIG)),
        read_model,
        what=f"{INDEX}: {LOAD}",
        share=0.4,
    ),
    core(
        "core-generation",
        seeds.model_files,
        mutate_json(GENERATION, GENERATION_WORDS),
        read_model,
        what=f"{GENERATION}: {LOAD}",
        share=0.6,
    ),
    core(
        "core-folder",
        seeds.model_files,
        mutate_folder(),
        read_model,
        what=f"files that aren't there, or no files: {LOAD}",
        share=0.05,
    ),
    *(
        core(
            f"core-{method}",
            *_quantized(method, json_tensors=method == "bnb-nf4"),
            read_model,
            what=what,
            share=0.3,
            needs="bitsandbytes" * method.startswith("bnb"),
        )
        for method, what in (
            ("int8", f"a model of int8, record and tensors: {LOAD}"),
            ("int4", f"a model of int4, record and tensors: {LOAD}"),
            ("bnb-nf4", f"a model of bnb-nf4, record, tensors and their JSON: {LOAD}"),
            ("bnb-int8", f"a model of bnb-int8, record and tensors: {LOAD}"),
        )
    ),
    core(
        "core-pipeline",
        seeds.pipeline_files,
        _mutate_any,
        _read_pipeline,
        what="every JSON file of a pipeline's folder: Chameleon.from_pretrained, .generate",
        share=0.4,
    ),
    core(
        "core-pipeline-words",
        seeds.pipeline_files,
        mutate_json("tokenizer.json", (*TOKENIZER_WORDS, *NAMES)),
        _read_pipeline,
        what="tokenizer.json of a pipeline's folder: Chameleon.from_pretrained, .generate",
        share=0.3,
    ),
    core(
        "core-ids",
        lambda: {"ids.json": json.dumps([0, *range(4, 20), 50, 60, 70]).encode()},
        mutate_json("ids.json"),
        _command("detokenize", "{}/model", "{}/ids.json"),
        what="a file of ids: chameleon detokenize",
        share=0.2,
    ),
    core(
        "core-prompt",
        lambda: {
            "document.json": json.dumps(
                [{"type": "text", "text": "A cat: "}, {"type": "image", "codes": list(range(16))}]
            ).encode()
        },
        mutate_json("document.json", ("codes", "path", "url", "image", "base64", "text", "type")),
        _command("tokenize", "{}/model", "--document", "{}/document.json"),
        what="a document: chameleon tokenize --document",
        share=0.2,
    ),
)
