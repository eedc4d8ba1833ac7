"""What users of ``transformers`` know, for the classes of this package: names, arguments and methods, translated here.

- ``methods``: the methods of its models.
- ``generation``: ``generate``, with what it returns in ``generation_outputs``. Its arguments are read by
  ``generation_arguments`` and ``generation_fields``, its prompts by ``generation_inputs``; ``callables`` and
  ``decoders`` are what the engine runs for them, ``generation_keywords`` what editors know of them.
- ``generation_config``: the attribute of a model of that name.
"""
