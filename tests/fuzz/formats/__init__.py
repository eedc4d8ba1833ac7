"""The inventory: every file from outside that the toolkit reads, how a small valid one is made, and who reads it.

==================================  ==========================================  ====================================
what is read                        by                                          formats here
==================================  ==========================================  ====================================
image tokenizers: config.json,      ``ImageTokenizer.from_pretrained``          vq-config, vq-quantizer, vq-weights,
weights, index, a model's folder                                                vq-index, vq-in-model, vq-folder
preprocessor_config.json,           ``ChameleonImageProcessor.from_pretrained``  vq-preprocessor, vq-processor
processor_config.json
pictures                            ``ImageTokenizer.encode``, ``.crop``,       vq-picture, text-picture
                                    a document's base64 and data: URL
files of codes                      ``read_codes``, ``chameleon-vq decode``     vq-codes
state, log and job of training      ``VQTrainer.fit``, ``read_log``,            vq-state, vq-log, vq-job
                                    ``read_job``
tokenizer.json                      ``TextTokenizer``, ``ChameleonProcessor``   text-tokenizer, text-names
tokenizer_config.json,              ``ChameleonProcessor.from_pretrained``      text-config, text-processor,
processor_config.json                                                           text-folder
documents, chat messages            ``document_from_json``,                     text-document, text-messages
                                    ``encode_messages``
config.json, vocabulary_map         ``ChameleonConfig.from_pretrained``,        core-config, core-layout
                                    ``TokenLayout.from_config``
models: config, weights, index,     ``ChameleonForConditionalGeneration         core-model, core-weights, core-index,
generation_config.json                .from_pretrained``                        core-generation, core-folder
Meta's folders: params.json,         ``ChameleonForConditionalGeneration         meta-params, meta-ranks,
consolidated.NN.pth, the tokenizers   .from_pretrained``, ``load_processor``,   meta-weights, meta-words, meta-yaml,
                                    ``load_image_tokenizer``                    meta-vqgan, meta-folder
GGUF: a file                        ``ChameleonForConditionalGeneration         core-gguf
                                      .from_pretrained``, ``load_processor``
folders of GPTQ, AWQ and            ``ChameleonForConditionalGeneration         core-gptq, core-awq,
compressed-tensors                    .from_pretrained``                        core-compressed-tensors
the pipeline's folder               ``Chameleon.from_pretrained``               core-pipeline, core-pipeline-words
quantization records and tensors    ``find_quantizer``, ``from_pretrained``     backends-record, core-int8, core-int4,
                                                                                core-bnb-nf4, core-bnb-int8
pictures with captions: folders     ``tokenize_dataset`` (``find_units``,       core-captions, core-tar,
with metadata.jsonl, metadata.csv,    ``read_samples``)                         core-captions-table, core-parquet
tar, parquet
datasets                            ``TokenDataset``, ``TokenDatasetWriter``    core-dataset, core-shard
run.json, checkpoint.json, state,   ``Trainer.run``, ``read_log``               core-run, core-pointer, core-state,
weights, log                                                                    core-trained, core-log
job.json of a training command      ``chameleon_core.training_job``             core-job
adapters                            ``load_lora`` (through peft)                core-lora
files of ids, documents of the      ``chameleon detokenize``,                   core-ids, core-prompt
command line                        ``chameleon tokenize --document``
==================================  ==========================================  ====================================

Not read, so not here: ``vocab.json``, ``merges.txt``, ``special_tokens_map.json``, ``added_tokens.json``, chat
templates, other pickled weights (refused by name), datasets of save_to_disk (by ``datasets``). What is read of this
machine and not of others: /proc, metadata of distributions (``tests/plugins``), the embedded model's own files.
"""

from __future__ import annotations

import importlib.util

from ..engine import Format
from .backends import FORMATS as BACKENDS
from .captions import FORMATS as CAPTIONS
from .core import FORMATS as CORE
from .gguf import FORMATS as GGUF
from .meta import FORMATS as META
from .packed import FORMATS as PACKED
from .text import FORMATS as TEXT
from .training import FORMATS as TRAINING
from .vq import FORMATS as VQ

ALL: tuple[Format, ...] = (*VQ, *TEXT, *BACKENDS, *CORE, *META, *GGUF, *PACKED, *CAPTIONS, *TRAINING)
FORMATS = tuple(each for each in ALL if not each.needs or importlib.util.find_spec(each.needs) is not None)
"""Those that can be read here."""
LEFT_OUT = tuple(f"{each.name} (needs {each.needs})" for each in ALL if each not in FORMATS)
