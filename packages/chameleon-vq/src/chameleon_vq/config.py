"""The configuration of the VQ-VAE."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from ._config import Config
from .errors import ConfigError

GROUPS = 32
"""Of every GroupNorm, unless said otherwise (taming-transformers, ``Normalize``)."""

CODES_PER_POSITION = "codes_per_position"
"""A key of files alone: it follows from the quantizer, and tells readers who don't have that."""

Count = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[float, Meta(ge=0)]

# What `transformers` writes into every configuration, through its versions 4 and 5.
# fmt: off
_WRITTEN_BY_TRANSFORMERS = frozenset({
    "model_type", "architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "return_dict",
    "output_hidden_states", "output_attentions", "torchscript", "use_bfloat16", "tf_legacy_loss", "pruned_heads",
    "chunk_size_feed_forward", "is_encoder_decoder", "is_decoder", "cross_attention_hidden_size",
    "add_cross_attention", "tie_encoder_decoder", "tie_word_embeddings", "finetuning_task", "id2label", "label2id",
    "problem_type", "task_specific_params", "tokenizer_class", "prefix", "bos_token_id", "pad_token_id",
    "eos_token_id", "sep_token_id", "decoder_start_token_id", "max_length", "min_length", "do_sample",
    "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p",
    "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
    "bad_words_ids", "num_return_sequences", "output_scores", "return_dict_in_generate", "forced_bos_token_id",
    "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
    "begin_suppress_tokens",
})
# fmt: on


class ChameleonVQVAEConfig(Config, frozen=True, kw_only=True):
    """The shape of the VQ-VAE; the defaults are those of Chameleon's own.

    A picture of ``resolution`` pixels a side is halved once per entry of ``channel_multiplier`` after the first, so
    the latent grid is ``resolution / stride`` a side.

    ``embed_dim``: width of a latent, and of a codebook entry. ``num_embeddings``: how many codes there are.
    ``latent_channels``: width of the encoder's output. ``double_latent``: the encoder gives twice as many channels,
    a mean and a log-variance, of which the mean (the first half) is quantized.
    ``resolution``: side of the pictures; it decides at which levels ``attn_resolutions`` asks for attention.
    ``in_channels``: channels of a picture. ``base_channels`` times ``channel_multiplier``: width of each level.
    ``num_res_blocks``: residual blocks per level, one more in the decoder.
    ``attn_resolutions``: sides at which every block is followed by attention; None for none.
    ``dropout``: inside the residual blocks, while training.
    ``attn_type``: "vanilla", or "none" (also None) for no attention anywhere, the middle included.
    ``initializer_range``: standard deviation of fresh convolutions and codebook entries.

    Beyond the reference, and written to a file only where they differ from the default:
    ``out_channels``: channels that the decoder draws; None for as many as ``in_channels``.
    ``norm_num_groups``: groups of every GroupNorm. A group of one or two channels has hardly a mean of its own to keep,
    so fewer groups let a small model learn with narrow levels.
    ``beta``: weight of the codebook's own term in the training loss.
    ``quantizer``: name of the vector quantizer (hook ``chameleon_vq_quantizers``); ``quantizer_options``: its settings.
    """

    embed_dim: Count = 256
    num_embeddings: Annotated[int, Meta(ge=2)] = 8192
    double_latent: bool = False
    latent_channels: Count = 256
    resolution: Count = 512
    in_channels: Count = 3
    base_channels: Count = 128
    channel_multiplier: Annotated[tuple[Count, ...], Meta(min_length=1)] = (1, 1, 2, 2, 4)
    num_res_blocks: Count = 2
    attn_resolutions: tuple[Count, ...] | None = None
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    attn_type: Literal["vanilla", "none"] | None = "vanilla"
    initializer_range: NonNegative = 0.02

    out_channels: Count | None = None
    norm_num_groups: Count = GROUPS
    beta: NonNegative = 0.25
    quantizer: str = "codebook"
    quantizer_options: dict[str, Any] = {}

    # Upstream's own names (taming-transformers' ddconfig), which published files carry too.
    aliases = {
        "ch": "base_channels",
        "ch_mult": "channel_multiplier",
        "n_embed": "num_embeddings",
        "z_channels": "latent_channels",
        "double_z": "double_latent",
        "out_ch": "out_channels",
    }
    known_extras = _WRITTEN_BY_TRANSFORMERS | {CODES_PER_POSITION}

    def check(self) -> None:
        """Every width must divide into the groups of GroupNorm, and the resolution into the strides."""
        for multiplier in self.channel_multiplier:
            if self.base_channels * multiplier % self.norm_num_groups:
                raise ConfigError(
                    f"base_channels {self.base_channels} times channel_multiplier {multiplier} is "
                    f"{self.base_channels * multiplier}, not a multiple of norm_num_groups {self.norm_num_groups}."
                )
        if self.resolution % self.stride:
            raise ConfigError(
                f"resolution {self.resolution} is not a multiple of {self.stride}, the stride of "
                f"{len(self.channel_multiplier)} levels."
            )

    @property
    def stride(self) -> int:
        """Pixels per latent position, along each side."""
        return 2 ** (len(self.channel_multiplier) - 1)

    @property
    def has_attention(self) -> bool:
        """Whether there is attention in the middle, and at ``attn_resolutions``."""
        return self.attn_type == "vanilla"

    @property
    def picture_channels(self) -> int:
        """Channels that the decoder draws."""
        return self.in_channels if self.out_channels is None else self.out_channels

    def to_dict(self) -> dict[str, Any]:
        """The mapping that ``vq_config`` holds in a checkpoint's ``config.json``, readable by `transformers`."""
        data = super().to_dict()
        for name, default in _EXTENSIONS.items():
            if data[name] == default:
                del data[name]
        data["attn_type"] = "vanilla" if self.has_attention else "none"
        return {name: list(value) if isinstance(value, tuple) else value for name, value in data.items()}


_EXTENSIONS: dict[str, Any] = {
    "out_channels": None,
    "norm_num_groups": GROUPS,
    "beta": 0.25,
    "quantizer": "codebook",
    "quantizer_options": {},
}
