"""The recipe of the embedded model: a small Chameleon that captions and draws emoji, trained on two cores.

Run from the root of the repository, in this order: ``python -m recipes.emoji.build``,
``python -m recipes.emoji.train_tokenizer``, ``python -m recipes.emoji.evaluate``. See ``README.md`` beside this file.
"""
