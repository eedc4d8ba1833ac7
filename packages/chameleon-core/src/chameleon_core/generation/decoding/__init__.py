"""Decoding strategies: the contract, the built-in ones, and the engine's side of guesses."""

from .contract import DecodingStrategy, Guesser, GuessView
from .guessing import RowGuesser
from .jacobi import Jacobi
from .strategies import Plain, decoding_strategy, row_guessers

__all__ = [
    "DecodingStrategy",
    "GuessView",
    "Guesser",
    "Jacobi",
    "Plain",
    "RowGuesser",
    "decoding_strategy",
    "row_guessers",
]
