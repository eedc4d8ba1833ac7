"""An example of a package that extends the Chameleon toolkit.

It adds attention, a vector quantizer, a third modality and constrained decoding.
"""
