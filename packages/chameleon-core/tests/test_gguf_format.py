"""GGUF, read and written: llama.cpp's names and values, the logits of its mathematics, and every tensor bit for bit."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from chameleon_core import ChameleonConfig, ChameleonForConditionalGeneration
from chameleon_core.checkpoints import read_checkpoint, write_checkpoint
from chameleon_core.checkpoints.conversion import convert_checkpoint
from chameleon_core.errors import ConfigError, FileFormatError, MissingFileError, ModelNotFoundError, WeightsError
from chameleon_core.formats.gguf import GGUFFormat
from chameleon_core.formats.gguf_file import open_gguf
from chameleon_core.testing import make_config, make_model
from chameleon_core.testing.meta_release import Release, logits_of, make_ranks
from chameleon_core.verification import verify_checkpoints

CONFIGS = {
    "multi-head": make_config(),
    "grouped": make_config(num_key_value_heads=2),
    "one head, as wide as the model": make_config(num_attention_heads=1, num_key_value_heads=1),
    "swin_norm": make_config(swin_norm=True),
    "tied": make_config(tie_word_embeddings=True),
    "linear scaling": make_config(rope_scaling={"type": "linear", "factor": 2.5}, rope_theta=12345.678),
}
IDS_T = torch.arange(20) * 3 % 64


def logits_in(place: Path, **arguments: Any) -> Tensor:
    model = ChameleonForConditionalGeneration.from_pretrained(place, **arguments)
    with torch.no_grad():
        logits_TV: Tensor = model(IDS_T[None]).logits[0]
    return logits_TV


def bits(folder: Path) -> dict[str, tuple[torch.dtype, bytes]]:
    tensors = {name: each.load() for name, each in read_checkpoint(folder).tensors.items()}
    return {
        name: (each.dtype, each.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        for name, each in tensors.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_comes_back_bit_for_bit(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    make_model(CONFIGS[name]).to(dtype).save_pretrained(tmp_path / "hf")
    done = convert_checkpoint(tmp_path / "hf", tmp_path / "gguf", checkpoint_format="gguf")
    assert (done.source_format, done.target_format) == ("hf", "gguf")
    assert "pictures need image_tokenizer=" in str(done.beside)
    convert_checkpoint(tmp_path / "gguf" / "model.gguf", tmp_path / "back")
    assert bits(tmp_path / "back") == bits(tmp_path / "hf")
    assert verify_checkpoints(tmp_path / "gguf", tmp_path / "hf").equals()
    assert torch.equal(logits_in(tmp_path / "gguf"), logits_in(tmp_path / "hf"))
    config = ChameleonConfig.from_pretrained(tmp_path / "back").to_dict()
    assert config == ChameleonConfig.from_pretrained(tmp_path / "hf").to_dict()


def test_norms_of_another_type_than_the_matrices_are_kept(tmp_path: Path) -> None:
    model = make_model().bfloat16()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data = parameter.data.float() + 1e-6
    model.save_pretrained(tmp_path / "hf")
    convert_checkpoint(tmp_path / "hf", tmp_path / "gguf", checkpoint_format="gguf")
    assert bits(tmp_path / "gguf") == bits(tmp_path / "hf")


def test_names_types_and_values_are_llama_cpps(tmp_path: Path) -> None:
    make_model(make_config(num_key_value_heads=2, num_hidden_layers=1)).bfloat16().save_pretrained(
        tmp_path, checkpoint_format="gguf"
    )
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    values = {key: value.contents() for key, value in reader.fields.items()}
    assert values.pop("chameleon_core.config").startswith("{")
    assert values == {
        "GGUF.version": 3,
        "GGUF.tensor_count": 16,
        "GGUF.kv_count": 20,
        "general.architecture": "chameleon",
        "general.type": "model",
        "general.file_type": 32,
        "general.quantization_version": 2,
        "chameleon.context_length": 128,
        "chameleon.embedding_length": 32,
        "chameleon.block_count": 1,
        "chameleon.feed_forward_length": 48,
        "chameleon.attention.head_count": 4,
        "chameleon.attention.head_count_kv": 2,
        "chameleon.attention.layer_norm_rms_epsilon": pytest.approx(1e-5),
        "chameleon.rope.freq_base": 10000.0,
        "chameleon.rope.dimension_count": 8,
        "chameleon.vocab_size": 64,
        "chameleon.swin_norm": False,
        "tokenizer.ggml.model": "none",
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 1,
    }
    assert {each.name: (each.tensor_type.name, each.shape.tolist()) for each in reader.tensors} == {
        "token_embd.weight": ("BF16", [32, 64]),
        "output_norm.weight": ("F32", [32]),
        "output.weight": ("BF16", [32, 64]),
        "blk.0.attn_q.weight": ("BF16", [32, 32]),
        "blk.0.attn_k.weight": ("BF16", [32, 16]),
        "blk.0.attn_v.weight": ("BF16", [32, 16]),
        "blk.0.attn_output.weight": ("BF16", [32, 32]),
        "blk.0.attn_q_norm.weight": ("F32", [8, 4]),
        "blk.0.attn_q_norm.bias": ("F32", [8, 4]),
        "blk.0.attn_k_norm.weight": ("F32", [8, 2]),
        "blk.0.attn_k_norm.bias": ("F32", [8, 2]),
        "blk.0.ffn_gate.weight": ("BF16", [32, 48]),
        "blk.0.ffn_up.weight": ("BF16", [32, 48]),
        "blk.0.ffn_down.weight": ("BF16", [48, 32]),
        "blk.0.attn_norm.weight": ("F32", [32]),
        "blk.0.ffn_norm.weight": ("F32", [32]),
    }
    kinds = {field: reader.fields[field].types[0].name for field in values if field.startswith("chameleon.")}
    assert {name for name, kind in kinds.items() if kind == "FLOAT32"} == {
        "chameleon.attention.layer_norm_rms_epsilon",
        "chameleon.rope.freq_base",
    }
    assert (kinds["chameleon.swin_norm"], kinds["chameleon.block_count"]) == ("BOOL", "UINT32")


def test_rows_are_permuted_by_hand(tmp_path: Path) -> None:
    # One head of width 4: halves (0, 2) and (1, 3) rotate together here, adjacent pairs in llama.cpp.
    config = make_config(hidden_size=4, num_attention_heads=1, num_key_value_heads=1, num_hidden_layers=1)
    model = make_model(config)
    attention = model.model.layers[0].self_attn
    attention.q_proj.weight.data = torch.tensor([0.0, 1.0, 2.0, 3.0])[:, None].repeat(1, 4)
    attention.k_norm.weight.data = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    model.save_pretrained(tmp_path, checkpoint_format="gguf")
    tensors = {each.name: each.data for each in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert tensors["blk.0.attn_q.weight"][:, 0].tolist() == [0.0, 2.0, 1.0, 3.0]
    assert tensors["blk.0.attn_k_norm.weight"].tolist() == [[0.0, 2.0, 1.0, 3.0]]


def as_llama_cpp_writes(
    path: Path, release: Release, weights: dict[str, Tensor], kind: str = "F32", **values: Any
) -> Path:
    """Write what llama.cpp's converter makes of a release of one rank, whose rows are permuted as it has them."""
    writer = gguf.GGUFWriter(path, "chameleon")
    writer.add_type("model")
    writer.add_name("A model")
    writer.add_block_count(release.n_layers)
    writer.add_context_length(4096)
    writer.add_embedding_length(release.dim)
    writer.add_feed_forward_length(release.width)
    writer.add_head_count(release.n_heads)
    writer.add_head_count_kv(release.n_kv_heads)
    writer.add_rope_freq_base(release.rope_theta)
    writer.add_layer_norm_rms_eps(release.norm_eps)
    writer.add_file_type(0)
    writer.add_swin_norm(release.swin_norm)
    for key, value in values.items():
        writer.add_string(key, value) if isinstance(value, str) else writer.add_uint32(key, value)
    names = {
        "attention.wq": "attn_q",
        "attention.wk": "attn_k",
        "attention.wv": "attn_v",
        "attention.wo": "attn_output",
        "attention.q_normalization": "attn_q_norm",
        "attention.k_normalization": "attn_k_norm",
        "feed_forward.w1": "ffn_gate",
        "feed_forward.w2": "ffn_down",
        "feed_forward.w3": "ffn_up",
        "attention_norm": "attn_norm",
        "ffn_norm": "ffn_norm",
        "tok_embeddings": "token_embd",
        "norm": "output_norm",
        "output": "output",
    }
    for name, tensor in weights.items():
        place, _, part = name.rpartition(".")
        if place == "rope":
            continue
        layer = f"blk.{place.split('.')[1]}." if place.startswith("layers.") else ""
        inner = place.split(".", 2)[2] if layer else place
        if "_normalization" in inner:
            heads = release.n_heads if ".q_" in inner else release.n_kv_heads
            tensor = tensor.repeat(heads, 1)
        array = tensor.float().numpy()
        wanted = kind if tensor.dim() > 1 and "_normalization" not in inner else "F32"
        data = gguf.quantize(array, gguf.GGMLQuantizationType[wanted])
        writer.add_tensor(f"{layer}{names[inner]}.{part}", data, raw_dtype=gguf.GGMLQuantizationType[wanted])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


RELEASES = {
    "multi-head": Release(),
    "grouped": Release(n_kv_heads=2),
    "swin_norm": Release(swin_norm=True),
    "swin_norm, grouped": Release(swin_norm=True, n_heads=8, n_kv_heads=2, dim=64),
}


@pytest.mark.parametrize("name", RELEASES)
def test_a_file_of_llama_cpps_converter_gives_the_logits_of_its_mathematics(name: str, tmp_path: Path) -> None:
    release = RELEASES[name]
    (weights,) = make_ranks(release)
    path = as_llama_cpp_writes(tmp_path / "a.gguf", release, weights)
    expected = logits_of([weights], release, IDS_T)
    torch.testing.assert_close(logits_in(path), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits_in(tmp_path), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q5_1", "TQ2_0"])
def test_other_types_are_dequantized_as_the_package_does(kind: str, tmp_path: Path) -> None:
    release = Release(dim=256, n_heads=4, n_kv_heads=4, multiple_of=256)
    (weights,) = make_ranks(release)
    path = as_llama_cpp_writes(tmp_path / "a.gguf", release, weights, kind)
    raw = gguf.GGMLQuantizationType[kind]
    rounded = {
        name: torch.from_numpy(gguf.dequantize(gguf.quantize(each.numpy(), raw), raw).copy()).view(each.shape)
        if each.dim() > 1
        else each
        for name, each in weights.items()
    }
    found = logits_in(path, dtype="float32")
    torch.testing.assert_close(found, logits_of([rounded], release, IDS_T), rtol=0, atol=3e-5)
    stored = {name: each.dtype for name, each in read_checkpoint(path).tensors.items()}
    matrices = {"F16": torch.float16, "BF16": torch.bfloat16}.get(kind, torch.float32)
    assert stored["model.embed_tokens.weight"] == stored["model.layers.0.mlp.up_proj.weight"] == matrices
    asked = read_checkpoint(path, options={"dtype": "bfloat16"}).tensors
    assert {each.dtype for each in asked.values()} == {each.load().dtype for each in asked.values()} == {torch.bfloat16}
    assert logits_in(path).isfinite().all(), "the norms have a type that computes with the matrices'"


def test_a_norm_without_a_bias_adds_nothing(tmp_path: Path) -> None:
    release = Release()
    (weights,) = make_ranks(release)
    without = {name: each for name, each in weights.items() if not name.endswith("_normalization.bias")}
    path = as_llama_cpp_writes(tmp_path / "a.gguf", release, without)
    zeros = {name: torch.zeros_like(each) if name not in without else each for name, each in weights.items()}
    torch.testing.assert_close(logits_in(path), logits_of([zeros], release, IDS_T), rtol=0, atol=1e-5)


def test_files_that_were_split_are_read(tmp_path: Path) -> None:
    model = make_model()
    model.save_pretrained(tmp_path, checkpoint_format="gguf")
    whole = gguf.GGUFReader(tmp_path / "model.gguf")
    writer = gguf.GGUFWriter(tmp_path / "split.gguf", "chameleon", split_max_tensors=12)
    for key, value in whole.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(key, value.contents(), value.types[0])
    for each in whole.tensors:
        writer.add_tensor(each.name, each.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (tmp_path / "model.gguf").unlink()
    first = tmp_path / "split-00001-of-00003.gguf"
    assert torch.equal(logits_in(tmp_path), logits_in(first))
    with torch.no_grad():
        assert torch.equal(logits_in(first), model(IDS_T[None]).logits[0])
    with pytest.raises(FileFormatError, match="is one of 3 files"):
        read_checkpoint(tmp_path / "split-00002-of-00003.gguf")
    (tmp_path / "split-00003-of-00003.gguf").unlink()
    with pytest.raises(MissingFileError, match=r"00003-of-00003\.gguf doesn't exist"):
        read_checkpoint(first)


def test_matrices_are_written_in_another_type(tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path / "hf")
    for name in ("float16", "bfloat16"):
        convert_checkpoint(tmp_path / "hf", tmp_path / name, checkpoint_format="gguf", target_options={"dtype": name})
        tensors = read_checkpoint(tmp_path / name).tensors
        original = read_checkpoint(tmp_path / "hf").tensors
        for each, tensor in tensors.items():
            expected = original[each].load()
            rounded = expected.to(getattr(torch, name)) if "norm" not in each else expected
            assert torch.equal(tensor.load(), rounded), each


def test_a_value_beyond_float16_is_refused(tmp_path: Path) -> None:
    model = make_model()
    model.lm_head.weight.data[3, 3] = 1e5
    with pytest.raises(WeightsError, match=r"lm_head\.weight has values beyond those of float16, up to 1e\+05\. Use b"):
        write_checkpoint(
            read_after_save(model, tmp_path), tmp_path / "g", checkpoint_format="gguf", options={"dtype": "float16"}
        )
    assert not list((tmp_path / "g").glob("*.gguf"))


def read_after_save(model: ChameleonForConditionalGeneration, folder: Path) -> Any:
    model.save_pretrained(folder / "hf")
    return read_checkpoint(folder / "hf")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attention_bias": True}, "biases of projections"),
        ({"mlp_bias": True}, "biases of projections"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling {'type': 'dynamic'"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"qk_norm": False}, "queries and keys without a norm"),
    ],
    ids=str,
)
def test_what_llama_cpp_does_not_compute_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        make_model(make_config(**changes)).save_pretrained(tmp_path, checkpoint_format="gguf")


def test_types_that_are_not_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the matrices are float64; GGUF is written with"):
        make_model().double().save_pretrained(tmp_path, checkpoint_format="gguf")
    with pytest.raises(ConfigError, match="dtype of GGUF must be float32, float16 or bfloat16, or None; got 'float8'"):
        GGUFFormat(dtype="float8")


def test_another_model_is_refused_by_its_name(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(FileFormatError, match="of the architecture 'llama', expected 'chameleon'"):
        read_checkpoint(tmp_path)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    make_model(make_config(num_hidden_layers=1)).save_pretrained(tmp_path, checkpoint_format="gguf")
    return tmp_path / "model.gguf"


def test_several_files_are_told_apart_by_their_paths(written: Path) -> None:
    written.with_name("other.gguf").hardlink_to(written)
    with pytest.raises(FileFormatError, match=r"2 GGUF files, so load one of them by its path: model.gguf, other.gguf"):
        read_checkpoint(written.parent)
    assert read_checkpoint(written).config.hidden_size == 32
    with pytest.raises(ModelNotFoundError, match="has no subfolder 'x'"):
        ChameleonForConditionalGeneration.from_pretrained(written, subfolder="x")


def test_a_save_in_another_format_replaces_the_file_and_back(written: Path) -> None:
    model = ChameleonForConditionalGeneration.from_pretrained(written)
    before = bits(written.parent)
    model.save_pretrained(written.parent)
    assert bits(written.parent) == before
    model.save_pretrained(written.parent, checkpoint_format="gguf")
    assert not written.with_name("config.json").exists(), "the folder would be read as it was before"
    assert bits(written.parent) == before


def test_a_truncated_file_is_refused_wherever_it_ends(written: Path) -> None:
    whole = written.read_bytes()
    for size in [*range(0, 400, 7), *range(400, len(whole), 997), len(whole) - 40]:
        written.write_bytes(whole[:size])
        with pytest.raises(FileFormatError):
            read_checkpoint(written)


def test_huge_counts_are_refused_at_once(written: Path) -> None:
    whole = written.read_bytes()
    key = b"tokenizer.ggml.model"
    place = whole.index(key) + len(key)  # the type and the length of a text
    huge = struct.pack("<Q", 2**63)
    of_array = struct.pack("<IIQ", 9, 0, 2**40)
    for changed in (
        whole[:8] + huge + whole[16:],
        whole[:16] + huge + whole[24:],
        whole[:24] + huge + whole[32:],
        whole[: place + 4] + huge + whole[place + 12 :],
        whole[:place] + of_array + whole[place + 16 :],
    ):
        written.write_bytes(changed)
        with pytest.raises(FileFormatError, match=r"is not a complete GGUF file: (it states|its header goes on)"):
            read_checkpoint(written)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (0, b"GGML", "begins with b'GGML', expected b'GGUF'"),
        (4, struct.pack("<I", 1), "is GGUF of version 1; expected 2 or 3"),
        (4, struct.pack(">I", 3), "in big-endian order"),
    ],
    ids=["magic", "version", "order"],
)
def test_other_kinds_of_files_are_refused(written: Path, place: int, value: bytes, said: str) -> None:
    whole = written.read_bytes()
    written.write_bytes(whole[:place] + value + whole[place + 4 :])
    with pytest.raises(FileFormatError, match=said):
        read_checkpoint(written)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("chameleon.embedding_length", 34, "describes no model: .* must"),
        ("chameleon.block_count", 2**31 - 1, "tensors, and its metadata says 2,147,483,647 layers"),
        ("chameleon.block_count", 2, "Tensors missing: blk.1"),
        ("chameleon.rope.dimension_count", 4, "and heads are 8 wide"),
        ("chameleon.attention.head_count", 0, "describes no model"),
    ],
)
def test_values_that_contradict_the_tensors_are_refused(written: Path, key: str, value: int, said: str) -> None:
    whole, name = written.read_bytes(), key.encode()
    place = whole.index(name) + len(name) + 4
    written.write_bytes(whole[:place] + struct.pack("<I", value) + whole[place + 4 :])
    with pytest.raises(FileFormatError, match=said):
        read_checkpoint(written)


def test_llama_cpps_keys_count_where_ours_differ(written: Path) -> None:
    whole, name = written.read_bytes(), b"chameleon.rope.freq_base"
    place = whole.index(name) + len(name) + 4
    written.write_bytes(whole[:place] + struct.pack("<f", 500000.0) + whole[place + 4 :])
    assert read_checkpoint(written).config.rope_theta == 500000.0


def test_the_header_is_what_the_package_reads(written: Path) -> None:
    ours, theirs = open_gguf(written), gguf.GGUFReader(written)
    values = {key: value.contents() for key, value in theirs.fields.items() if not key.startswith("GGUF.")}
    assert ours.metadata == values
    assert {name: (each.shape, each.offset, each.num_bytes) for name, each in ours.tensors.items()} == {
        each.name: (tuple(reversed(each.shape.tolist())), each.data_offset, each.n_bytes) for each in theirs.tensors
    }


def test_nothing_is_said_about_a_file_that_loads_fully(written: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logits_in(written)
