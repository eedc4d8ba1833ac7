"""An example of a package that extends the Chameleon toolkit: attention, a vector quantizer, a third modality."""
