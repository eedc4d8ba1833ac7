"""The examples of the documentation of Chameleon in transformers run here, with nothing changed but the import lines.

The machine has no GPU and no network: "cuda" and 0 are "cpu", flash attention is torch's, the checkpoint is a folder
that transformers saved or the name of the embedded model, and ``requests`` is a stand-in whose pictures are drawn here.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from .probes.checkpoint import save_checkpoint

CHECKPOINTS = ("a folder saved by transformers", "emoji")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(path)
    return path


@pytest.fixture(params=CHECKPOINTS)
def checkpoint(request: pytest.FixtureRequest, folder: Path) -> str:
    return "emoji" if request.param == "emoji" else str(folder)


@pytest.fixture(autouse=True)
def requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module ``requests`` that answers each address with a picture of its own."""

    def get(url: str, *, stream: bool = False) -> SimpleNamespace:
        assert stream
        pixels = np.random.default_rng(len(url)).integers(0, 256, (48, 64, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(file := io.BytesIO(), format="PNG")
        return SimpleNamespace(raw=io.BytesIO(file.getvalue()))

    module = ModuleType("requests")
    module.get = get  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "requests", module)


SINGLE = """
from chameleon_core import ChameleonProcessor, ChameleonForConditionalGeneration
import torch
from PIL import Image
import requests

processor = ChameleonProcessor.from_pretrained("facebook/chameleon-7b")
model = ChameleonForConditionalGeneration.from_pretrained("facebook/chameleon-7b", torch_dtype=torch.bfloat16, device_map="cuda")

# prepare image and text prompt
url = 'http://images.cocodataset.org/val2017/000000039769.jpg'
image = Image.open(requests.get(url, stream=True).raw)
prompt = "What do you see in this image?<image>"

inputs = processor(images=image, text=prompt, return_tensors="pt").to(model.device, dtype=torch.bfloat16)

# autoregressively complete prompt
output = model.generate(**inputs, max_new_tokens=50)
print(processor.decode(output[0], skip_special_tokens=True))
"""  # noqa: E501

SEVERAL = """
from chameleon_core import ChameleonProcessor, ChameleonForConditionalGeneration
import torch
from PIL import Image
import requests

processor = ChameleonProcessor.from_pretrained("facebook/chameleon-7b")

model = ChameleonForConditionalGeneration.from_pretrained("facebook/chameleon-7b", torch_dtype=torch.bfloat16, device_map="cuda")

# Get three different images
url = "https://www.ilankelman.org/stopsigns/australia.jpg"
image_stop = Image.open(requests.get(url, stream=True).raw)

url = "http://images.cocodataset.org/val2017/000000039769.jpg"
image_cats = Image.open(requests.get(url, stream=True).raw)

url = "https://huggingface.co/microsoft/kosmos-2-patch14-224/resolve/main/snowman.jpg"
image_snowman = Image.open(requests.get(url, stream=True).raw)

# Prepare a batched prompt, where the first one is a multi-image prompt and the second is not
prompts = [
    "What do these images have in common?<image><image>",
    "<image>What is shown in this image?"
]

# We can simply feed images in the order they have to be used in the text prompt
# Each "<image>" token uses one image leaving the next for the subsequent "<image>" tokens
inputs = processor(images=[image_stop, image_cats, image_snowman], text=prompts, padding=True, return_tensors="pt").to(device="cuda", dtype=torch.bfloat16)

# Generate
generate_ids = model.generate(**inputs, max_new_tokens=50)
processor.batch_decode(generate_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
"""  # noqa: E501

QUANTIZED = """
from chameleon_core import ChameleonForConditionalGeneration
from transformers import BitsAndBytesConfig

# specify how to quantize the model
quantization_config = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_compute_dtype=torch.bfloat16,
)

model = ChameleonForConditionalGeneration.from_pretrained("facebook/chameleon-7b", quantization_config=quantization_config, device_map="cuda")
"""  # noqa: E501

FLASH = """
from chameleon_core import ChameleonForConditionalGeneration

model_id = "facebook/chameleon-7b"
model = ChameleonForConditionalGeneration.from_pretrained(
    model_id,
    torch_dtype=torch.bfloat16,
    low_cpu_mem_usage=True,
    attn_implementation="flash_attention_2"
).to(0)
"""

CONFIGURATION = """
from chameleon_core import ChameleonModel, ChameleonConfig

# Initializing a chameleon chameleon-7b style configuration
configuration = ChameleonConfig()

# Initializing a model from the chameleon-7b style configuration
model = ChameleonModel(configuration)

# Accessing the model configuration
configuration = model.config
"""


def run(example: str, checkpoint: str) -> dict[str, Any]:
    """Run an example with what this machine has; return its names."""
    for name, here in (
        ('"facebook/chameleon-7b"', repr(checkpoint)),
        ('"cuda"', '"cpu"'),
        (".to(0)", '.to("cpu")'),
        ('"flash_attention_2"', '"sdpa"'),  # the package flash-attn needs a GPU
    ):
        example = example.replace(name, here)
    names: dict[str, Any] = {"torch": torch}
    exec(compile(example, "example", "exec"), names)
    return names


def test_a_single_picture(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = run(SINGLE, checkpoint)
    assert names["model"].dtype == names["inputs"]["pixel_values"].dtype == torch.bfloat16
    assert names["output"].shape[1] > names["inputs"]["input_ids"].shape[1]
    assert "What do you see in this image?" in capsys.readouterr().out


def test_several_pictures_in_a_batch_padded_on_the_left(checkpoint: str) -> None:
    names = run(SEVERAL, checkpoint)
    assert names["inputs"]["pixel_values"].shape[0] == 3
    assert names["inputs"]["attention_mask"][1, 0] == 0, "the shorter prompt is padded on the left"
    assert names["generate_ids"].shape[0] == 2


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_model(bits: int, checkpoint: str) -> None:
    example = QUANTIZED
    if bits == 8:  # the page names it beside the example
        example = example.replace("load_in_4bit", "load_in_8bit")
    quantized = run(example, checkpoint)["model"]
    layers = {name: type(layer).__name__ for name, layer in quantized.named_modules() if name.endswith("_proj")}
    assert set(layers.values()) == {"QuantizedLinear"}
    assert type(quantized.lm_head) is torch.nn.Linear
    quantizer = quantized.model.layers[0].self_attn.q_proj.quantizer
    assert type(quantizer).__name__ == ("NF4Quantizer" if bits == 4 else "LLMInt8Quantizer")
    plain = type(quantized).from_pretrained(checkpoint)
    assert quantized.get_memory_footprint() < plain.get_memory_footprint()
    ids = torch.tensor([[0, 40, 41, 42]])
    with torch.no_grad():
        difference = (quantized(ids).logits.float() - plain(ids).logits.float()).abs().max()
    assert 0 < difference < 5


def test_flash_attention(checkpoint: str) -> None:
    with torch.no_grad():
        assert run(FLASH, checkpoint)["model"](torch.tensor([[0, 40, 41]])).logits.isfinite().all()


def test_a_model_of_a_configuration() -> None:
    # On the meta device: a model of these defaults has 7 billion weights.
    with torch.device("meta"):
        names = run(CONFIGURATION, "")
    assert names["configuration"].hidden_size == 4096


def test_a_configuration_with_one_of_the_image_tokenizer() -> None:
    from chameleon_core import ChameleonConfig, ChameleonVQVAEConfig

    assert ChameleonConfig(vq_config=ChameleonVQVAEConfig(embed_dim=64)).vq_config.embed_dim == 64
    assert ChameleonConfig().vq_config.embed_dim == 256
