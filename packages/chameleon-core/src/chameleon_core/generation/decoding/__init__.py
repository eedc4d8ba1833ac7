"""Decoding strategies: the contracts, the built-in ones, and the engine's side of guesses and searches."""

from .contract import DecodingStrategy, Guesser, GuessView
from .guessing import RowGuesser
from .jacobi import Jacobi
from .search import Continuation, Hypothesis, Searcher, SearchView
from .searching import RowSearcher
from .strategies import Plain, decoding_strategy, row_decoding

__all__ = [
    "Continuation",
    "DecodingStrategy",
    "GuessView",
    "Guesser",
    "Hypothesis",
    "Jacobi",
    "Plain",
    "RowGuesser",
    "RowSearcher",
    "SearchView",
    "Searcher",
    "decoding_strategy",
    "row_decoding",
]
