"""The plugin of vLLM, apart from the model so that vLLM registers it without loading torch."""

from __future__ import annotations

ARCHITECTURE = "ChameleonForConditionalGeneration"


def register() -> None:
    """Register the model with vLLM, whose entry point ``vllm.general_plugins`` names this function."""
    from vllm import ModelRegistry

    ModelRegistry.register_model(ARCHITECTURE, f"chameleon_vllm.model:{ARCHITECTURE}")
