"""Meta's layout, read and written: the logits of its own mathematics, and every tensor bit for bit."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chameleon_core import ChameleonForConditionalGeneration, InterchangeWarning
from chameleon_core.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from chameleon_core.checkpoints.conversion import convert_checkpoint
from chameleon_core.errors import (
    CheckpointWarning,
    ConfigError,
    FileFormatError,
    MissingFileError,
    WeightsError,
)
from chameleon_core.formats.meta import MetaFormat
from chameleon_core.formats.meta_params import intermediate_size, params_of
from chameleon_core.formats.plain_yaml import read_yaml, yaml_text
from chameleon_core.formats.vqgan_files import read_vqgan, write_vqgan
from chameleon_core.testing import make_config, make_model, make_vocabulary
from chameleon_core.testing.meta_release import Release, logits_of, make_ranks, write_release

RELEASES = {
    f"{ranks} ranks, {'swin' if swin else 'pre'}-norm, {keys} key heads{', fused' * fused}": Release(
        ranks=ranks, swin_norm=swin, n_heads=8, n_kv_heads=keys, fused=fused, dim=64
    )
    for ranks in (1, 2, 4)
    for swin in (False, True)
    for keys in (8, 4)
    for fused in (False, True)
}
VQGAN = {
    "embed_dim": 256,
    "num_embeddings": 8192,
    "resolution": 4,
    "base_channels": 32,
    "channel_multiplier": [1, 1],
    "attn_resolutions": None,
}


def tokenizer() -> dict[str, object]:
    """The file of a tokenizer as Meta names its placeholder."""
    vocab = {"<reserved08707>" if name == "<image>" else name: id_ for name, id_ in make_vocabulary().items()}
    return {"model": {"type": "BPE", "vocab": vocab}, "added_tokens": [{"id": 0, "content": "<s>", "special": True}]}


def read_ranks(folder: Path) -> list[dict[str, Tensor]]:
    return [torch.load(path, weights_only=True) for path in sorted(folder.glob("consolidated*.pth"))]


@pytest.mark.parametrize("name", RELEASES)
def test_a_release_gives_the_logits_of_metas_mathematics(name: str, tmp_path: Path) -> None:
    release = RELEASES[name]
    ranks = make_ranks(release)
    write_release(tmp_path, release, ranks)
    model = ChameleonForConditionalGeneration.from_pretrained(tmp_path)
    ids_T = torch.arange(20) * 3 % release.vocab_size
    with torch.no_grad():
        found = model(ids_T[None]).logits[0]
    torch.testing.assert_close(found, logits_of(ranks, release, ids_T), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", RELEASES)
def test_a_release_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    release = RELEASES[name]
    ranks = make_ranks(release)
    write_release(tmp_path / "release", release, ranks)
    write_checkpoint(read_checkpoint(tmp_path / "release"), tmp_path / "hf")
    MetaFormat(fused=release.fused).write(read_checkpoint(tmp_path / "hf"), tmp_path / "back", max_shard_size=10**9)
    back = read_ranks(tmp_path / "back")
    assert len(back) == release.ranks
    for written, read in zip(ranks, back, strict=True):
        assert written.keys() == read.keys()
        assert all(torch.equal(written[name], read[name]) for name in written if name != "rope.freqs")


@pytest.mark.parametrize("after", [1, 2, 4])
@pytest.mark.filterwarnings("ignore::chameleon_core.InterchangeWarning")
def test_other_numbers_of_ranks_have_the_same_tensors(after: int, tmp_path: Path) -> None:
    release = Release(ranks=2, n_heads=8, n_kv_heads=4)
    write_release(tmp_path / "release", release, make_ranks(release))
    before = read_checkpoint(tmp_path / "release")
    MetaFormat(ranks=after).write(before, tmp_path / "other", max_shard_size=1)
    found = read_checkpoint(tmp_path / "other")
    assert len(read_ranks(tmp_path / "other")) == found.config.model_parallel_size == after
    assert found.tensors.keys() == before.tensors.keys()
    assert all(torch.equal(found.tensors[name].load(), before.tensors[name].load()) for name in before.tensors)


def test_norms_of_fewer_ranks_are_kept_for_each_head_with_a_warning(tmp_path: Path) -> None:
    release = Release(ranks=4)
    write_release(tmp_path / "release", release, make_ranks(release))
    with pytest.warns(InterchangeWarning, match=r"trained on more than 2 ranks.*as many ranks as trained the model"):
        MetaFormat(ranks=2).write(read_checkpoint(tmp_path / "release"), tmp_path / "two", max_shard_size=1)
    assert read_ranks(tmp_path / "two")[0]["layers.0.attention.q_normalization.weight"].shape == (2, release.head_dim)


def test_the_root_of_a_release_is_read_with_its_tokenizer(tmp_path: Path) -> None:
    release = Release()
    model = write_release(tmp_path, release, make_ranks(release), tokenizer=tokenizer(), root=True)
    for folder in (tmp_path, model):
        checkpoint = read_checkpoint(folder)
        config = checkpoint.config
        assert config.vocabulary_map == make_vocabulary()
        assert (config.bos_token_id, config.pad_token_id, config.eos_token_id) == (0, 1, 2)
        assert json.loads(checkpoint.processor_files["tokenizer.json"]())["model"]["vocab"] == make_vocabulary()
        assert json.loads(checkpoint.processor_files["processor_config.json"]())["image_seq_length"] == 1024


def test_the_tokenizer_is_written_back_under_metas_name(tmp_path: Path) -> None:
    release = Release()
    write_release(tmp_path / "release", release, make_ranks(release), tokenizer=tokenizer(), root=True)
    write_checkpoint(read_checkpoint(tmp_path / "release"), tmp_path / "hf")
    hf = read_checkpoint(tmp_path / "hf")
    assert hf.config.vocabulary_map == make_vocabulary()
    assert "<image>" in json.loads((tmp_path / "hf" / "tokenizer.json").read_text())["model"]["vocab"]
    write_checkpoint(hf, tmp_path / "back", checkpoint_format="meta")
    assert json.loads((tmp_path / "back" / "text_tokenizer.json").read_text()) == tokenizer()


def test_several_models_of_a_root_are_named(tmp_path: Path) -> None:
    model = write_release(tmp_path, Release(), make_ranks(Release()), root=True)
    model.with_name("30b").mkdir()
    (model.with_name("30b") / "params.json").write_text("{}")
    with pytest.raises(FileFormatError, match=r"has several models; .*models/30b, models/7b"):
        read_checkpoint(tmp_path)


def test_norms_that_differ_between_ranks_are_listed_and_averaged_on_request(tmp_path: Path) -> None:
    release = Release(ranks=2)
    ranks = make_ranks(release)
    ranks[1]["layers.1.ffn_norm.weight"] += 0.5
    write_release(tmp_path, release, ranks)
    with pytest.raises(
        WeightsError, match=r"1 norms .* differ between the 2 ranks.*layers\.1\.ffn_norm\.weight.*--aver"
    ):
        read_checkpoint(tmp_path)
    found = MetaFormat(average_norms=True).read(tmp_path).tensors["model.layers.1.post_attention_layernorm.weight"]
    mean = (ranks[0]["layers.1.ffn_norm.weight"] + ranks[1]["layers.1.ffn_norm.weight"]) / 2
    torch.testing.assert_close(found.load(), mean)


def test_norms_that_differ_by_rounding_are_averaged(tmp_path: Path) -> None:
    release = Release(ranks=2)
    ranks = [{name: tensor.bfloat16() for name, tensor in rank.items()} for rank in make_ranks(release)]
    norm = ranks[1]["norm.weight"]
    norm.copy_((norm.float() * (1 + torch.finfo(torch.bfloat16).eps / 2)).bfloat16())
    write_release(tmp_path, release, ranks)
    assert read_checkpoint(tmp_path).tensors["model.norm.weight"].load().dtype == torch.bfloat16


def test_rope_freqs_may_be_none(tmp_path: Path) -> None:
    ranks = [{**rank, "rope.freqs": None} for rank in make_ranks(Release())]
    write_release(tmp_path, Release(), ranks)
    assert "rope.freqs" not in read_checkpoint(tmp_path).tensors


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_layers": 3}, r"weights of 2 layers, but its params.json says n_layers 3"),
        ({"n_layers": 2**31 - 1}, r"weights of 2 layers"),
        ({"n_heads": 5}, r"n_heads must divide dim"),
        ({"dim": 48}, r"tok_embeddings.weight \(torch.float32 \[64, 32\], expected torch.float32 \[64, 48\]\)"),
        ({"dim": "wide"}, r"doesn't describe a model: Expected `int`"),
        ({"qk_normalization": False}, r"unexpected: layers.0.attention.k_normalization.bias"),
        ({"model_parallel_size": 2}, r"has 0 files consolidated.NN.pth.*model_parallel_size 2|ranks"),
    ],
    ids=["layers", "endless layers", "heads", "dim", "type", "norms", "ranks"],
)
def test_parameters_that_do_not_fit_the_weights_are_refused(
    changed: dict[str, object], message: str, tmp_path: Path
) -> None:
    release = Release(ranks=1)
    write_release(tmp_path, release, make_ranks(release))
    if "model_parallel_size" in changed:
        (tmp_path / "consolidated.pth").rename(tmp_path / "consolidated.00.pth")
        (tmp_path / "consolidate_params.json").write_text(json.dumps(changed))
        message = r"1 files consolidated.NN.pth, and .* model_parallel_size 2.*Missing: consolidated.01.pth"
    else:
        data = json.loads((tmp_path / "params.json").read_text())
        data["model"] |= changed
        (tmp_path / "params.json").write_text(json.dumps(data))
    with pytest.raises(FileFormatError, match=message):
        read_checkpoint(tmp_path)


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    write_release(tmp_path, Release(), make_ranks(Release()))
    (tmp_path / "consolidated.pth").unlink()
    with pytest.raises(FileFormatError, match=r"expected consolidated.pth, or a file for each rank from 00"):
        read_checkpoint(tmp_path)


def test_damaged_and_compressed_files_are_refused(tmp_path: Path) -> None:
    write_release(tmp_path, Release(), make_ranks(Release()))
    path = tmp_path / "consolidated.pth"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileFormatError, match=r"is not a file of torch.save of torch 1.6 or newer"):
        read_checkpoint(tmp_path)
    path.write_bytes(whole)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "x", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    (tmp_path / "x").rename(path)
    with pytest.raises(FileFormatError, match="is a compressed archive"):
        read_checkpoint(tmp_path)


class Evil:
    """What runs a command when a pickle with it is loaded."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("/tmp/evil-was-here"),)


def test_a_pickle_that_would_run_code_runs_none(tmp_path: Path) -> None:
    write_release(tmp_path, Release(), make_ranks(Release()))
    content = torch.load(tmp_path / "consolidated.pth", weights_only=True)
    torch.save({**content, "evil": Evil()}, tmp_path / "consolidated.pth")
    with pytest.raises(FileFormatError, match=r"holds a _Anything named 'evil'|can't be read as a file of torch\.save"):
        read_checkpoint(tmp_path)
    assert not Path("/tmp/evil-was-here").exists()


def test_a_tensor_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    ranks = make_ranks(Release())
    ranks[0]["tok_embeddings.weight"] = torch.zeros(1).expand(64, 32)
    write_release(tmp_path, Release(), ranks)
    with pytest.raises(FileFormatError, match=r"'tok_embeddings.weight' has the shape \[64, 32\], more than the 4 by"):
        read_checkpoint(tmp_path)


def image_tensors() -> dict[str, Tensor]:
    return {"encoder.conv_in.weight": torch.ones(2, 2), "decoder.conv_out.bias": torch.zeros(3)}


def write_ckpt(folder: Path, content: dict[str, object]) -> None:
    torch.save(content, folder / "vqgan.ckpt")


YAML = """\
# how it was trained
model:
  base_learning_rate: 4.5e-06
  target: taming.models.vqgan.VQModel
  params:
    embed_dim: 256
    n_embed: 8192
    ddconfig:
      attn_resolutions: []
      ch: 32
      ch_mult:
      - 1
      - 1
      double_z: false
      dropout: 0.0
      in_channels: 3
      num_res_blocks: 2
      out_ch: 3
      resolution: 4
      z_channels: 256
    lossconfig:
      target: taming.modules.losses.DummyLoss
"""


class Callback:
    """What Lightning leaves in a checkpoint."""


def test_a_checkpoint_of_lightning_has_its_image_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "vqgan.yaml").write_text(YAML)
    state = {**image_tensors(), "loss.discriminator.main.0.weight": torch.ones(4), "loss.perceptual": None}
    write_ckpt(tmp_path, {"epoch": 3, "callbacks": {Callback: {"best": Callback()}}, "state_dict": state})
    with pytest.warns(CheckpointWarning, match=r"holds 2 entries of its training \(loss\.discriminator"):
        config, tensors = read_vqgan(tmp_path / "vqgan.yaml", tmp_path / "vqgan.ckpt")
    assert config == {**VQGAN, "attn_type": "vanilla", "dropout": 0.0, "in_channels": 3, "num_res_blocks": 2} | {
        "latent_channels": 256,
        "double_latent": False,
    }
    assert {name: tensor.load().shape for name, tensor in tensors.items()} == {
        f"model.vqmodel.{name}": tensor.shape for name, tensor in image_tensors().items()
    }


def test_an_image_tokenizer_comes_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "vqgan.yaml").write_text(YAML)
    write_ckpt(tmp_path, {"state_dict": image_tensors()})
    config, tensors = read_vqgan(tmp_path / "vqgan.yaml", tmp_path / "vqgan.ckpt")
    (tmp_path / "back").mkdir()
    write_vqgan(tmp_path / "back", config, tensors)
    assert read_vqgan(tmp_path / "back" / "vqgan.yaml", tmp_path / "back" / "vqgan.ckpt")[0] == config
    assert read_yaml(tmp_path / "back" / "vqgan.yaml")["model"]["params"]["ddconfig"]["ch_mult"] == [1, 1]


def test_the_image_tokenizer_needs_both_files(tmp_path: Path) -> None:
    write_release(tmp_path, Release(), make_ranks(Release()))
    (tmp_path / "vqgan.yaml").write_text(YAML)
    with pytest.raises(FileFormatError, match=r"has vqgan.yaml and no vqgan.ckpt"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"attention_bias": True},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"hidden_act": "gelu"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_metas_layout_cannot_say_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Meta's layout has no place for .*Write the format hf"):
        write_checkpoint(Checkpoint(make_config(**change), {}), tmp_path, checkpoint_format="meta")


REST: dict[str, Any] = {
    "picture_grammar": {"name": "lumina", "max_codes": 64},
    "attention_dropout": 0.1,
    "bos_token_id": 3,
    "vocabulary_map": {"a": 0, "b": 1},
    "z_loss_weight": 1e-5,
}


@pytest.mark.filterwarnings("ignore:the heads of a rank:chameleon_core.InterchangeWarning")
def test_what_metas_files_have_no_place_for_is_kept_beside_them(tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **REST}))
    with pytest.warns(InterchangeWarning, match=r"pictures are written by the grammar .*use its files for text alone"):
        convert_checkpoint(tmp_path / "hf", tmp_path / "meta", checkpoint_format="meta")
    stored, found = (
        read_checkpoint(tmp_path / "hf").config.to_dict(),
        read_checkpoint(tmp_path / "meta").config.to_dict(),
    )
    assert {name: found[name] for name in REST} == {name: stored[name] for name in REST}
    written = json.loads((tmp_path / "meta" / "chameleon_config.json").read_text())
    assert "hidden_size" not in written
    (tmp_path / "meta" / "chameleon_config.json").write_text(json.dumps({**written, "hidden_size": 7}))
    with pytest.raises(FileFormatError, match=r"chameleon_config\.json has 'hidden_size', which params\.json and"):
        read_checkpoint(tmp_path / "meta")


def test_ranks_that_do_not_divide_the_heads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ranks must divide num_attention_heads 4.*; got 3\. 1 rank always fits"):
        params_of(make_config(), 3)


def test_tensors_without_a_name_there_are_refused(tmp_path: Path) -> None:
    model = make_model()
    model.save_pretrained(tmp_path)
    checkpoint = read_checkpoint(tmp_path)
    more = Checkpoint(
        checkpoint.config, {**checkpoint.tensors, "action_head.weight": checkpoint.tensors["lm_head.weight"]}
    )
    with pytest.raises(WeightsError, match=r"without a name there: action_head.weight"):
        write_checkpoint(more, tmp_path / "meta", checkpoint_format="meta")
    assert not (tmp_path / "meta").exists()


@pytest.mark.parametrize("width", [11008, 48, 1, 33, 20480, 256, 7 * 64])
@pytest.mark.parametrize("dim", [4096, 32, 8192])
def test_metas_formula_gives_the_width_that_was_written(dim: int, width: int) -> None:
    model = params_of(make_config(hidden_size=dim, intermediate_size=width), 1)[0]["model"]
    assert intermediate_size(dim, model["multiple_of"], model["ffn_dim_multiplier"]) == width


def test_yaml_comes_back_as_it_was(tmp_path: Path) -> None:
    data = {"a": {"b": [1, 2], "c": 0.5, "d": None, "e": True, "f": "some text", "g": {"h": []}}, "i": -3}
    (tmp_path / "x.yaml").write_text(yaml_text(data))
    assert read_yaml(tmp_path / "x.yaml") == data


@pytest.mark.parametrize(
    "text",
    [
        "a: &x 1\nb: *x",
        "a: !!python/object:os.system x",
        "a:\n    b: 1\n  c: 2",
        "a: 1\na: 2",
        "- 1\n- 2",
        "a",
        "a: !!int 1",
        "a: 1\n---\na: 2",
        "1: a",
        "a: 2001-01-01",
        "a: .nan",
        "a: 1.0e+999",
        "a: " + "9" * 10000,
        "a: " + "[" * 65 + "]" * 65,
        "b: {<<: {a: 1}}",
        "a: \x01",
    ],
    ids=[
        *("anchor", "tag", "indentation", "twice", "list", "word", "tag of a plain value", "two documents"),
        *("number as a name", "date", "not a number", "infinity", "digits", "depth", "merge", "control character"),
    ],
)
def test_yaml_beyond_the_plain_part_is_refused_with_our_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(FileFormatError, match=r"x\.yaml (is not YAML that is read here: [^\n]*\.$|holds a)"):
        read_yaml(tmp_path / "x.yaml")


def test_yaml_that_expands_is_refused_before_it_does(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    (tmp_path / "x.yaml").write_text("\n".join(lines))
    with pytest.raises(FileFormatError, match="line 2: an alias, which may make a small file large"):
        read_yaml(tmp_path / "x.yaml")


def test_yaml_that_is_too_large_for_a_configuration_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: 1\n" + "#" * 2**16)
    with pytest.raises(FileFormatError, match="expected a configuration of at most 65,536"):
        read_yaml(tmp_path / "x.yaml")


def test_yaml_of_other_writers_is_read(tmp_path: Path) -> None:
    text = (
        "# a comment\na: |\n  two\n  lines\nb: {c: [1, 'it''s'], d: \"\\u00e9\"}\n? e\n: ~\nf:\n- g: 1\n  h: 4.5e-06\n"
    )
    (tmp_path / "x.yaml").write_text(text)
    assert read_yaml(tmp_path / "x.yaml") == {
        "a": "two\nlines\n",
        "b": {"c": [1, "it's"], "d": "é"},
        "e": None,
        "f": [{"g": 1, "h": 4.5e-06}],
    }


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_yaml(tmp_path / "x.yaml")
