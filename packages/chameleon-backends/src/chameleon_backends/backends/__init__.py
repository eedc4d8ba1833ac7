"""The built-in attention backends, a module each."""
