"""The built-in weight quantizers, each in a module of its own."""
