"""The configuration of the VQ-VAE."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from ._pretrained_config import PretrainedConfig
from .errors import ConfigError

GROUPS = 32
"""Groups of every GroupNorm by default (taming-transformers, ``Normalize``)."""

CODES_PER_POSITION = "codes_per_position"
"""A key of files only: it follows from the quantizer, for readers that don't have it."""

Count = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[float, Meta(ge=0)]


class ChameleonVQVAEConfig(PretrainedConfig, kw_only=True):  # type: ignore[misc]  # its base is frozen, and it isn't
    """The architecture of the VQ-VAE; the defaults are Chameleon's.

    A picture of ``resolution`` pixels a side is halved once per entry of ``channel_multiplier`` after the first, so the
    latent grid has ``resolution / stride`` positions a side. ``transformers`` has the fields down to
    ``initializer_range``; the others are written to a file only if they differ from their defaults.
    """

    embed_dim: Count = 256
    """Width of a latent and of a codebook entry, in channels; ≥ 1, by default 256."""
    num_embeddings: Annotated[int, Meta(ge=2)] = 8192
    """Number of codes, which are 0…``num_embeddings`` − 1; ≥ 2, by default 8192."""
    double_latent: bool = False
    """Whether the encoder outputs a mean and a log-variance, twice ``latent_channels``; by default False.

    Only the mean, the first half, is quantized.
    """
    latent_channels: Count = 256
    """Channels of the encoder's output and of the decoder's input; ≥ 1, by default 256."""
    resolution: Count = 512
    """Side of the pictures, in pixels; a multiple of ``stride``, by default 512.

    The network takes other sizes too; this one decides which levels ``attn_resolutions`` names.
    """
    in_channels: Count = 3
    """Channels of a picture; ≥ 1, by default 3 (RGB)."""
    base_channels: Count = 128
    """Channels that ``channel_multiplier`` multiplies; ≥ 1, by default 128.

    Each product must be a multiple of ``norm_num_groups``.
    """
    channel_multiplier: Annotated[tuple[Count, ...], Meta(min_length=1)] = (1, 1, 2, 2, 4)
    """Width of each level in units of ``base_channels``, from the full resolution down; by default (1, 1, 2, 2, 4).

    At least one entry, each ≥ 1.
    """
    num_res_blocks: Count = 2
    """Residual blocks per level of the encoder; ≥ 1, by default 2. The decoder has one more per level."""
    attn_resolutions: tuple[Count, ...] | None = None
    """Sides, in pixels, of the levels whose blocks are each followed by attention; None (the default) for none."""
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Dropout probability in the residual blocks during training; ≥ 0 and < 1, by default 0."""
    attn_type: Literal["vanilla", "none"] | None = "vanilla"
    """Kind of attention: "vanilla" (the default), or "none" or None for no attention at all.

    "vanilla" has attention in the middle of encoder and decoder, and at ``attn_resolutions``.
    """
    initializer_range: NonNegative = 0.02
    """Standard deviation of new convolutions and codebook entries; ≥ 0, by default 0.02."""

    out_channels: Count | None = None
    """Channels that the decoder draws; ≥ 1, or None (the default) for as many as ``in_channels``."""
    norm_num_groups: Count = GROUPS
    """Groups of every GroupNorm; ≥ 1, by default 32.

    With one or two channels a group, a norm removes most of what the channels carry; fewer groups let a small model
    learn with narrow levels. ``transformers`` has no such field: it loads a model with another number without an error,
    takes 32 and computes other codes. Keep 32, and widths that are multiples of it, for a model that it must read too.
    """
    beta: NonNegative = 0.25
    """Weight of the codebook's term in the loss of the quantizer "codebook"; ≥ 0, by default 0.25."""
    quantizer: str = "codebook"
    """Name of the vector quantizer, a plugin of the hook ``chameleon_vq_quantizers``; by default "codebook"."""
    quantizer_options: dict[str, Any] = {}
    """Options of the vector quantizer, by name; {} by default. Each quantizer documents and checks its own."""

    model_type = "chameleon_vqgan"
    base_config_key = "vq_config"
    """The entry of a model's configuration that has this one."""
    # Upstream's own names (taming-transformers' ddconfig), which published files have, too.
    aliases = {
        "ch": "base_channels",
        "ch_mult": "channel_multiplier",
        "n_embed": "num_embeddings",
        "z_channels": "latent_channels",
        "double_z": "double_latent",
        "out_ch": "out_channels",
    }
    known_extras = frozenset(
        {
            CODES_PER_POSITION,
            "bos_token_id",
            "eos_token_id",
            "pad_token_id",
            "quant_state_dims",  # of a proposal to transformers, which nothing reads
            "tie_word_embeddings",
        }
    )

    def check(self) -> None:
        """Raise ``ConfigError`` if a width isn't a multiple of the groups, or the resolution of the stride."""
        for multiplier in self.channel_multiplier:
            if self.base_channels * multiplier % self.norm_num_groups:
                raise ConfigError(
                    f"base_channels {self.base_channels} times channel_multiplier {multiplier} is "
                    f"{self.base_channels * multiplier}, not a multiple of norm_num_groups {self.norm_num_groups}; "
                    "change one of them."
                )
        if self.resolution % self.stride:
            raise ConfigError(
                f"resolution {self.resolution} is not a multiple of {self.stride}, the stride of "
                f"{len(self.channel_multiplier)} levels; {max(1, self.resolution // self.stride) * self.stride} is."
            )

    @classmethod
    def _part_of(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Return the entry of a Chameleon model's file, or the whole file of an image tokenizer."""
        nested = data.get(cls.base_config_key, data)
        return {name: value for name, value in (nested or {}).items() if name != "model_type"}

    @property
    def stride(self) -> int:
        """Pixels per position of the latent grid, along each side."""
        return 2 ** (len(self.channel_multiplier) - 1)

    @property
    def has_attention(self) -> bool:
        """Whether there is attention in the middle and at ``attn_resolutions``."""
        return self.attn_type == "vanilla"

    @property
    def interchange_limit(self) -> str | None:
        """Why ``transformers`` computes other codes with the same weights, a sentence; None where it computes the same.

        Only what it gets wrong without an error is named: a quantizer that it doesn't have makes it report tensors.
        """
        if self.norm_num_groups == GROUPS:
            return None
        return (
            f"norm_num_groups is {self.norm_num_groups}, which transformers has no field for: it loads the folder "
            f"without an error, takes {GROUPS} groups, and computes other codes of pictures. Read its pictures with "
            f"this toolkit alone, or train an image tokenizer with norm_num_groups={GROUPS} and widths that are "
            f"multiples of {GROUPS}."
        )

    @property
    def picture_channels(self) -> int:
        """Channels that the decoder draws."""
        return self.in_channels if self.out_channels is None else self.out_channels

    def to_dict(self) -> dict[str, Any]:
        """Return the mapping for ``vq_config`` in a checkpoint's ``config.json``, in the layout of ``transformers``."""
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
