"""Ranks that have slices of a model generate what one process does. This file is also their program, under torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from chameleon_core import ChameleonForConditionalGeneration, ConfigError, leading, quantize_model
from chameleon_core.generation import Engine, GenerationOptions, Request
from chameleon_core.testing import make_config, make_model
from chameleon_core.training import add_lora, load_lora

MODELS: dict[str, dict[str, Any]] = {
    "mha": {},
    "gqa": {"num_key_value_heads": 2},
    "swin_norm": {"swin_norm": True, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
}
PROMPTS = [[0, 40, 41, 42], [0, 44, 45, 46]]
# Options of each generation.
RUNS: dict[str, dict[str, Any]] = {
    "text": {"max_new_tokens": 20, "modality": "text"},
    "picture": {"modality": "image"},
    "guided": {"modality": "image", "guidance_text": 3.0, "guidance_image": 1.2},
    "beams": {"max_new_tokens": 12, "modality": "text", "num_beams": 3},
    "sampled": {"max_new_tokens": 20, "modality": "interleaved", "do_sample": True, "seed": 3},
    "int8": {"max_new_tokens": 20, "modality": "text", "cache_implementation": "int8"},
}


def run(model: ChameleonForConditionalGeneration) -> dict[str, Any]:
    """Return the ids of all runs."""
    prompts = torch.tensor(PROMPTS)
    found = {name: model.generate(prompts, **options).tolist() for name, options in RUNS.items()}
    # Rows wait for room, are computed again, and share the beginnings of their prompts.
    engine = Engine(model, max_rows=2, max_positions=200, prompt_chunk=7, prefix_positions=64)
    options = GenerationOptions(max_new_tokens=40)
    handles = [engine.submit(Request(prompt=[0, *range(40, 60), end], options=options)) for end in (41, 42, 43)]
    for _ in engine.run():
        pass
    found["engine"] = [list(handle.new_ids) for handle in handles]
    steps = model.stream_ids(prompts, max_new_tokens=5)
    next(iter(steps))
    steps.close()  # the followers wait for what comes next
    found["streamed"] = [list(step.ids) for step in model.stream_ids(prompts, max_new_tokens=5)]
    return found


def main(folder: Path) -> None:
    """Generate with all models, as one of several ranks."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name in MODELS:
        model = ChameleonForConditionalGeneration.from_pretrained(folder / name, tensor_parallel=2)
        with leading(model) as leads:
            assert leads == (dist.get_rank() == 0)
            if leads:
                found[name] = run(model)
    sizes: list[Any] = [None, None]
    dist.all_gather_object(sizes, {name: weight.numel() for name, weight in model.named_parameters()})
    refused = []
    for refuse in (
        lambda: model(torch.tensor(PROMPTS)),
        lambda: model.model(inputs_embeds=torch.zeros(1, 2, 32)),
        lambda: model.save_pretrained(folder / "saved"),
        lambda: model.compile_decoding([1]),
        lambda: add_lora(model),
        lambda: load_lora(model, folder / "mha"),
        lambda: quantize_model(model, "int8"),
        lambda: model.generate(torch.tensor(PROMPTS), cache_implementation="static"),
        lambda: ChameleonForConditionalGeneration.from_pretrained(folder / "mha", tensor_parallel=3),
        lambda: ChameleonForConditionalGeneration.from_pretrained(folder / "one head", tensor_parallel=2),
        lambda: ChameleonForConditionalGeneration.from_pretrained(folder / "int8", tensor_parallel=2),
        lambda: ChameleonForConditionalGeneration.from_pretrained(
            folder / "mha", tensor_parallel=2, quantization="int8"
        ),
        lambda: ChameleonForConditionalGeneration.from_pretrained(
            folder / "mha", tensor_parallel=2, device_map={"": "cpu"}
        ),
    ):
        with pytest.raises(ConfigError) as error:
            refuse()
        refused.append(str(error.value))
    if dist.get_rank() == 0:
        (folder / "found.json").write_text(json.dumps({"found": found, "sizes": sizes, "refused": refused}))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("leading")
    for name, fields in MODELS.items():
        make_model(make_config(**fields)).save_pretrained(folder / name)
    make_model(make_config(num_key_value_heads=1)).save_pretrained(folder / "one head")
    quantized = ChameleonForConditionalGeneration.from_pretrained(folder / "mha", quantization="int8")
    quantized.save_pretrained(folder / "int8")
    return folder


@pytest.fixture(scope="module")
def led(folder: Path) -> Mapping[str, Any]:
    command = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
    }
    ran = subprocess.run(
        [*command, __file__, str(folder)], capture_output=True, text=True, timeout=300, env=environment
    )
    assert ran.returncode == 0, ran.stderr[:6000]
    found: Mapping[str, Any] = json.loads((folder / "found.json").read_text())
    return found


@pytest.mark.parametrize("name", MODELS)
def test_two_ranks_generate_the_ids_of_one(led: Mapping[str, Any], folder: Path, name: str) -> None:
    expected = run(ChameleonForConditionalGeneration.from_pretrained(folder / name))
    assert led["found"][name] == expected


def test_a_rank_has_its_slices_alone(led: Mapping[str, Any], folder: Path) -> None:
    whole = ChameleonForConditionalGeneration.from_pretrained(folder / "swin_norm")
    everywhere = ("layernorm.weight", "model.norm.weight", "o_proj.bias", "down_proj.bias")
    for name, weight in whole.named_parameters():
        assert [sizes[name] for sizes in led["sizes"]] == [
            weight.numel() // (1 if name.endswith(everywhere) else 2)
        ] * 2


def test_what_ranks_cannot_do_is_refused(led: Mapping[str, Any], folder: Path) -> None:
    forward, bare, save, compiled, added, loaded, quantized, static, count, heads, stored, quantization, placement = (
        led["refused"]
    )
    assert "A forward pass of one's own isn't available with tensor_parallel" in forward
    assert bare == forward
    assert "save_pretrained() isn't available with tensor_parallel" in save
    assert "compile_decoding() isn't available with tensor_parallel" in compiled
    assert "add_lora() isn't available with tensor_parallel" in added
    assert "load_lora() isn't available with tensor_parallel" in loaded
    assert "quantize_model() isn't available with tensor_parallel" in quantized
    assert "cache_implementation 'static' is for a model that one process has" in static
    assert "tensor_parallel is 3, and the number of processes 2" in count
    assert "2 ranks can't divide the layers: num_key_value_heads is 1" in heads
    assert "is quantized, and ranks can't divide quantized layers" in stored
    assert "is quantized, and ranks can't divide quantized layers" in quantization
    assert "pass device and no device_map" in placement
    with pytest.raises(ConfigError, match="tensor_parallel is 2, and the number of processes 1"):
        ChameleonForConditionalGeneration.from_pretrained(folder / "mha", tensor_parallel=2)


def test_one_process_leads_no_one(folder: Path) -> None:
    with leading(ChameleonForConditionalGeneration.from_pretrained(folder / "mha")) as leads:
        assert leads


if __name__ == "__main__":
    main(Path(sys.argv[1]))
