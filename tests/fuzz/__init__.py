"""Broken files for every reader of the toolkit: each is answered with its package's error, soon, in little memory.

``python -m tests.fuzz run`` breaks small valid files of every format that the toolkit reads and calls the public reader
on each, in worker processes with limits of time and memory; ``python -m tests.fuzz show FORMAT INDEX`` reads one input
again and shows what came of it; ``python -m tests.fuzz list`` shows the formats. ``nox -s fuzz`` is the first of these.

``formats/`` is the inventory of the readers, ``mutations/`` how files are broken, ``engine.py`` runs and judges one
input, ``pool.py`` the workers, ``report.py`` what is written at the end. An input is a format and an index: the same
ones give the same bytes, on every machine.
"""
