"""examples/acme-backend, installed: its plugins are listed, and used like built-ins."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from chameleon_core import ConfigError
from chameleon_core.cli.app import app
from chameleon_core.demo import make_chameleon
from chameleon_core.testing import make_config, make_model
from chameleon_text import ChameleonProcessor, Image, Text
from chameleon_text.testing import FakeImageTokenizer, make_tokenizer
from chameleon_vq import ChameleonVQVAE, ChameleonVQVAEConfig, ImageTokenizer

melody = pytest.importorskip("acme_backend.melody", reason="CI's session `plugins` installs the example")
regex = pytest.importorskip("regex", reason="CI's session `plugins` installs the example with its extras")


def listed(command: str) -> Any:
    result = CliRunner().invoke(app, [command, "--json"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_its_plugins_are_listed_as_ready() -> None:
    found = {each["name"]: each["status"] for each in listed("plugins") if each["distribution"] == "acme-backend"}
    assert found == {"acme-blockwise": "ready", "acme-ternary": "ready", "melody": "ready", "acme-regex": "ready"}
    backends = {each["name"]: each["status"] for each in listed("doctor")["attention_backends"]}
    assert backends["acme-blockwise"] == "can run"


def test_a_model_writes_the_same_with_its_attention() -> None:
    config = make_config(num_key_value_heads=2)
    theirs, ours = make_model(config, attn_implementation="acme-blockwise"), make_model(config)
    input_ids = torch.arange(30, 40).reshape(2, 5)  # words
    padded = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    written = [model.generate(input_ids, padded, max_new_tokens=8) for model in (theirs, ours)]
    assert torch.equal(*written)


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 0}, {"do_sample": True, "top_p": 0.5, "seed": 1}])
def test_a_model_writes_what_its_constraint_allows(options: dict[str, Any]) -> None:
    chameleon = make_chameleon(resolution=8, context_length=256)
    pattern = r"(one|two|three) \d{1,3}( (leaf|leaves))?, [a-f]{4}\."
    date = {"name": "acme-regex", "pattern": pattern}
    prompts = ["I have ", "A much longer prompt, which ends in ", "x"]
    documents = chameleon.generate_batch(prompts, logits_processors=(date,), **options)
    assert len(documents) == 3
    for document in documents:
        (text,) = document
        assert regex.fullmatch(pattern, text.text), text
    alone = chameleon.generate(prompts[0], logits_processors=(date,), **options)
    assert alone == documents[0]


def test_a_misspelt_option_of_its_constraint_has_a_suggestion() -> None:
    chameleon = make_chameleon(resolution=8, context_length=256)
    with pytest.raises(ConfigError, match=r"'acme-regex' has no option 'patern'; .* Did you mean 'pattern'\?"):
        chameleon.generate("x", logits_processors=({"name": "acme-regex", "patern": "a"},))


def test_an_image_tokenizer_has_its_quantizer(tmp_path: Any) -> None:
    config = ChameleonVQVAEConfig(
        quantizer="acme-ternary",
        embed_dim=4,
        num_embeddings=81,
        resolution=16,
        base_channels=32,
        channel_multiplier=(1, 1),
        num_res_blocks=1,
        latent_channels=8,
    )
    ImageTokenizer(ChameleonVQVAE(config)).save_pretrained(tmp_path)
    tokenizer = ImageTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.num_codes, tokenizer.tokens_per_image) == (81, 64)
    codes_BN = torch.arange(64)[None]
    assert tokenizer.decode(codes_BN)[0].size == (16, 16)


def test_a_document_may_have_a_melody_beside_text_and_pictures() -> None:
    processor = ChameleonProcessor(make_tokenizer(more_specials=melody.TOKENS), image_tokenizer=FakeImageTokenizer())
    document = [Text("Sing "), melody.Melody((60, 64, 67)), Image(codes=(1, 2, 3, 4)), melody.Melody((72,))]
    ids = processor.encode(document)
    assert processor.decode_document(ids) == document
    numbers = sorted(processor.tokenizer.token_ids[name] for name in melody.TOKENS)
    assert numbers == list(range(numbers[0], numbers[0] + 130))  # a range of the vocabulary
    assert len([token_id for token_id in ids if token_id in numbers]) == 3 + 2 + 1 + 2
