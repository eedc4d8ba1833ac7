"""The mixins of transformers' tests, for our classes: what they ask of a model and its inputs. See ``shim.py``."""

# mypy: ignore-errors
from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

import torch
from tests.generation.test_utils import GenerationTesterMixin
from tests.test_modeling_common import ModelTesterMixin
from tests.test_processing_common import ProcessorTesterMixin
from transformers import ChameleonForConditionalGeneration, ChameleonModel, ChameleonProcessor

from chameleon_core.testing import make_config
from chameleon_text.testing import make_tokenizer
from chameleon_vq import ChameleonImageProcessor


class Inputs:
    """A tiny configuration, and a batch of text."""

    batch_size, seq_length, is_training = 3, 7, True

    def __init__(self) -> None:
        config = self.get_config()
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size"):
            setattr(self, name, getattr(config, name))

    def get_config(self):
        return make_config()

    def prepare_config_and_inputs_for_common(self):
        ids = torch.randint(30, 60, (self.batch_size, self.seq_length))
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def prepare_config_and_inputs_for_model_class(self, model_class):
        return self.prepare_config_and_inputs_for_common()


class TestGenerationClass(ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):
    all_model_classes = (ChameleonForConditionalGeneration,)

    def setUp(self):
        self.model_tester = Inputs()


class TestBareModel(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (ChameleonModel,)

    def setUp(self):
        self.model_tester = Inputs()


class TestProcessor(ProcessorTesterMixin, unittest.TestCase):
    processor_class = ChameleonProcessor

    @classmethod
    def setUpClass(cls):
        # Not by the parts' automatic classes, which know those of transformers alone.
        cls.tmpdirname, cls.full_tmpdirname = tempfile.mkdtemp(), None
        small = ChameleonImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        processor = ChameleonProcessor(image_processor=small, tokenizer=make_tokenizer(), image_seq_length=4)
        processor.save_pretrained(Path(cls.tmpdirname))
        cls._setup_test_attributes(processor)

    @classmethod
    def _setup_test_attributes(cls, processor):
        cls.image_token = processor.image_token

    def get_processor(self, *args, **changes):
        return self.processor_class.from_pretrained(self.tmpdirname, **changes)
