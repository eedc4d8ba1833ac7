"""What callers of ``transformers`` type, in this package's own terms.

Small, because few arguments differ.

- ``encoding_names``: the names of what the VQ-VAE returns, and the form of a tuple.
- ``model_names``: the attributes and methods of models.
- ``image_arguments``: the per-call arguments of its image processors; ``image_settings``: their settings and files;
  ``image_steps``: their single steps.
- ``loading``: the arguments of ``from_pretrained`` and ``save_pretrained``.

Nothing is accepted and then ignored: an argument is translated, has the only value that means what happens anyway, or
is refused with the reason and what to do.
"""
