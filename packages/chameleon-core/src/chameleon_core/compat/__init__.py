"""What users of ``transformers`` know, for the classes of this package: names, arguments and methods, translated here.

- ``methods``: the methods of its models.
"""
