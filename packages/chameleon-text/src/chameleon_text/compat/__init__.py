"""What users of ``transformers`` know of processors and tokenizers, in this package's own terms.

- ``text_arguments``: padding, truncation and the other arguments of a call that are about text.
- ``special_tokens``: the names and ids of special tokens, and words that are added.
- ``encodings``: what a tokenizer returns, with the place of each token in its text.
- ``tokenizer_calls``: the tokenizer called as a function, and the conversions between names and ids.
- ``image_arguments``: the arguments of a call that are about pictures, and pictures in every form.
- ``chat``: conversations as prompts, and the template in Jinja that says the same.
- ``jinja``: other templates in Jinja, which a folder or a caller may have.
- ``processor_calls``: the names and methods of processors.
- ``missing_names``: names that tokenizers and processors don't have here, and what to use.

Nothing is accepted and then ignored: an argument is translated, has the only value that means what happens anyway, or
is refused with the reason and what to do. ``transformers`` itself is never imported.
"""
