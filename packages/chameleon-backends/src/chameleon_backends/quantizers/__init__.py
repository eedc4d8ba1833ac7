"""The built-in weight quantizers, each in its own module."""
