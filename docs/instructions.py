"""`scripts/reference`: the page that lists every instruction of the table, made from the table.

Read on: src/a64patch/a64/row.py for what a row says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from a64patch.a64.encodings import TABLE, Encoding, Flow
from a64patch.a64.predicates import Predicate

PAGE = Path(__file__).with_suffix(".md")

_HEAD = """\
# Instructions

Every row of the table of `a64patch`, under the headings of the Arm Architecture Reference Manual, C4.1.
`scripts/reference` made this page from the source: change the table, not the page.

- **Pattern**: bits 31 to 0. Digits are fixed bits, `rt:5` is a field of five bits.
- **Spellings**: all are accepted, the first that fits the word is printed. `<X:rt>` is an operand of the kind `X` (the
  registers x0 to x30 and xzr) that the field `rt` holds; `<=31:rn>` writes nothing and wants 31 in the field `rn`;
  what stands in braces may be left out.
- **PC**: what the instruction does to it. "or next" is for conditional ones, "reads a literal" for data near the code.
- **Predicates**: the functions of `a64patch.a64` that are true for the row's words. **Families** are what they ask for.
- Words that fit no row are printed as `.inst 0x…`. Where two rows fit a word, the one with more fixed bits is meant.
"""


def page() -> str:
    """The whole page, in Markdown."""
    tables: dict[str, list[Encoding]] = {}
    for row in TABLE:
        if not row.is_hole:
            tables.setdefault(row.table, []).append(row)
    contents = [f"- [{table}](#{_anchor(table)}): {len(rows)}" for table, rows in tables.items()]
    count = sum(map(len, tables.values()))
    lines = [_HEAD, f"There are {count} rows in {len(tables)} tables:", "", *contents]
    for table, rows in tables.items():
        lines += ["", f"## {table}", "", *_table(rows)]
    return "\n".join(lines) + "\n"


def _table(rows: list[Encoding]) -> Iterator[str]:
    yield "| name | pattern | spellings | PC | feature | predicates | families |"
    yield "|-|-|-|-|-|-|-|"
    for row in rows:
        yield f"| {' | '.join(_cells(row))} |"


def _cells(row: Encoding) -> Iterator[str]:
    yield _code(row.name)
    yield _code(row.pattern)
    yield "<br>".join(map(_code, row.texts))
    flow = "-" if row.flow is Flow.NEXT else row.flow.value
    yield flow + (", or next" if row.conditional else "") + (", reads a literal" if row.literal else "")
    yield row.feature or "Armv8.0"
    yield " ".join(_code(name) for name in _predicates(row)) or "-"
    yield " ".join(map(_code, dict.fromkeys(row.families)))


def _predicates(row: Encoding) -> list[str]:
    families = set(row.families)
    return [name for name, predicate in _PREDICATES.items() if predicate.families & families]


_CLASSIFY = vars(sys.modules[Predicate.__module__])
_PREDICATES = {name: value for name, value in _CLASSIFY.items() if isinstance(value, Predicate)}


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def _anchor(heading: str) -> str:
    """What Markdown viewers make of a heading."""
    kept = "".join(letter for letter in heading.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def main() -> int:
    """Write the page; exit status 0, or 2 when it cannot be written."""
    parser = argparse.ArgumentParser(
        prog="scripts/reference", description="Write the page that lists every instruction of the table."
    )
    parser.add_argument("path", nargs="?", type=Path, default=PAGE, help="where (default: docs/instructions.md)")
    path = parser.parse_args().path
    try:
        path.write_text(page(), encoding="utf-8")
    except OSError as error:
        print(f"a64patch: cannot write {path}: {error.strerror}", file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
