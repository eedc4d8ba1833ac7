"""What users of ``transformers`` know, for the classes of this package: names, arguments and methods, translated here.

- ``generation``: ``generate``, with what it returns in ``generation_outputs``. Its arguments are read by
  ``generation_arguments`` and ``generation_fields``, its prompts by ``generation_inputs``; ``callables`` and
  ``decoders`` are what the engine runs for them, ``generation_keywords`` what editors know of them.
- ``generation_config``: the attribute of a model of that name.
- ``attributes``: which attributes a model takes, and what replaces those that it doesn't have.
- ``caches``: caches of ``transformers`` as ``past_key_values``.
- ``checkpointing``: gradient checkpointing.
- ``forward_arguments``: the arguments of ``forward`` that there is no parameter for.
- ``methods``: the methods of models; ``resize`` computes one of them.
- ``outputs``: what a model returns.
- ``step_inputs``: the arguments of one step of a loop that generates.
- ``vocabulary_mapping``: which ids are codes of pictures.
- ``loading``, ``saving``: the arguments of ``from_pretrained`` and ``save_pretrained``.
- ``placement``: ``device_map``. ``bitsandbytes``: ``BitsAndBytesConfig`` and other ``quantization_config``.

Names of models and the Hub (``_hub``) and the methods of configurations (``_pretrained_config``) lie below all modules,
because other packages have copies of them.
"""
