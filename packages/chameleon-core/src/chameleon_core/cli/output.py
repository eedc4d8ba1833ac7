"""Documents on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ..optional_packages import text_package
from ..pipeline.documents import picture_name, segment_as_json
from ..pipeline.events import (
    Event,
    Finished,
    ImageFinished,
    ImageProgress,
    ImageStarted,
    SegmentFinished,
    SegmentStarted,
    TextDelta,
)
from .terminal import printable

if TYPE_CHECKING:
    from chameleon_text import Document, Segment


class Writer:
    """Writes a document while it is generated: text and links of pictures to stdout, a progress bar to stderr."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._pictures = 0
        self._at_line_start = True
        self._drawing: int | None = None  # the number of codes of the open picture
        self._in_segment = False
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def follow(self, events: Iterable[Event]) -> Finished:
        """Write the events of a stream and return the last."""
        try:
            for event in events:
                match event:
                    case TextDelta(text=text):
                        self._write(text)
                    case ImageStarted(num_codes=num_codes):
                        self._start_picture(num_codes)
                    case ImageProgress(codes_done=done):
                        self._drawing = done
                        if self._progress is not None:
                            self._progress.update(self._task, completed=done)
                    case ImageFinished():
                        self._finish_picture()
                    case SegmentStarted():
                        self._in_segment = True
                    case SegmentFinished(segment=segment):
                        self._write_segment(segment)
                    case Finished(document=document):
                        self._finish_picture()  # one that was cut off
                        if self._in_segment:
                            self._write_segment(document[-1])
                        return event
        finally:
            self._stop_progress()
        raise AssertionError  # A stream ends with Finished.

    def write(self, document: Document) -> None:
        """Write a complete document."""
        text = text_package()
        for segment in document:
            if isinstance(segment, text.Text):
                self._write(segment.text)
            elif isinstance(segment, text.Image):
                self._write_picture(len(segment.codes or ()), is_saved=segment.image is not None)
            else:
                self._write_segment(segment)

    def end(self) -> None:
        """Move to the beginning of a line, unless it is there."""
        if not self._at_line_start:
            self._write("\n")

    def _write(self, text: str) -> None:
        self._at_line_start = text.endswith("\n")
        if sys.stdout.isatty():
            text = printable(text)
        sys.stdout.write(text)
        sys.stdout.flush()

    def _start_picture(self, num_codes: int) -> None:
        self.end()
        self._drawing = 0
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("codes"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._progress.start()
        self._task = self._progress.add_task(f"picture {self._pictures + 1}", total=num_codes)

    def _stop_progress(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _finish_picture(self) -> None:
        self._stop_progress()
        if self._drawing is not None:
            self._write_picture(self._drawing, is_saved=True)
            self._drawing = None

    def _write_segment(self, segment: Segment) -> None:
        is_special = isinstance(segment, text_package().Special)
        self._write(f"[{segment if is_special else segment_as_json(segment)}]")
        self._in_segment = False

    def _write_picture(self, num_codes: int, *, is_saved: bool) -> None:
        self.end()
        self._pictures += 1
        if self._folder is not None and is_saved:
            self._write(f"![picture {self._pictures}]({self._folder / picture_name(self._pictures)})\n")
        else:
            self._write(f"[picture {self._pictures}: {num_codes} codes]\n")
