"""Print records side by side: one record a line, whole, in a pipe and at a terminal of any width.

Read on: show.py, patching.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from a64patch.cli.output import one_line, styled

Cell = str | tuple[str, str]
"""A text, or a text and the style that it has at a terminal, as rich names styles."""

_MOST_PADDING = 40
"""A cell that is longer than the shortest one of its column by more letters pushes the rest of its own row aside."""


def print_table(rows: Iterable[Sequence[Cell]], head: Sequence[str] = ()) -> None:
    """Print a line for each row, with its cells in columns, below a line for `head`.

    A line is never folded and a cell never cut, since people grep for them: a narrow terminal breaks lines by itself.
    Control characters are spelled out.
    """
    body = [[_cell(cell) for cell in row] for row in rows]
    title = [(text, "bold") for text in head]
    widths = [
        _width([row[column][0] for row in body if column < len(row)], "".join(head[column : column + 1]))
        for column in range(max(map(len, [title, *body])))
    ]
    for row in [title, *body] if head else body:
        pieces = [(f"{text:<{width}}  ", style) for (text, style), width in zip(row, widths, strict=False)]
        print_styled([*pieces[:-1], row[-1]])


def print_styled(pieces: Sequence[Cell]) -> None:
    """Print one line made of pieces, in their styles at a terminal. The line is never folded."""
    cells = [_cell(piece) for piece in pieces]
    if not any(style for _, style in cells) or not sys.stdout.isatty():
        print("".join(text for text, _ in cells).rstrip())
        return
    from rich.console import Console
    from rich.text import Text

    line = Text.assemble(*cells)
    line.rstrip()
    Console(highlight=False, soft_wrap=True, file=styled()).print(line)


def _cell(cell: Cell) -> tuple[str, str]:
    text, style = (cell, "") if isinstance(cell, str) else cell
    return one_line(text), style


def _width(texts: Sequence[str], title: str) -> int:
    lengths = [len(text) for text in texts] or [0]
    return min(max(*lengths, len(title)), max(min(lengths) + _MOST_PADDING, len(title)))
