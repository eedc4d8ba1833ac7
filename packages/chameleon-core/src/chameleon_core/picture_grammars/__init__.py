"""Picture grammars: how the codes of a picture are written as ids, by the built-in ones and by plugins."""

from .contract import GrammarContext, Grid, OpenPicture, PictureGrammar
from .rows_grammar import RowsGrammar

__all__ = ["GrammarContext", "Grid", "OpenPicture", "PictureGrammar", "RowsGrammar"]
