"""Tables in Markdown pages: each stands between the comments `<!-- NAME -->` and `<!-- /NAME -->`.

Everything else in a page is left alone.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def put(page: Path, name: str, text: str) -> None:
    """Replaces what stands between the two comments of `name`; ends the program where the page has none."""
    old = page.read_text(encoding="utf-8")
    mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not mark.search(old):
        sys.exit(f"{page} has no <!-- {name} --> ... <!-- /{name} -->")
    page.write_text(mark.sub(lambda m: f"{m[1]}{text}\n{m[2]}", old), encoding="utf-8")


def place(page: Path, name: str, words: str, behind: str | None = None) -> None:
    """Gives a table its marks, with `words` before it: at the page's end, or behind another table."""
    old = page.read_text(encoding="utf-8")
    if f"<!-- {name} -->" in old:
        return
    new = f"\n{words}\n\n<!-- {name} -->\n<!-- /{name} -->\n"
    end = f"<!-- /{behind} -->\n"
    if behind and end not in old:
        sys.exit(f"{page} has no <!-- /{behind} -->")
    page.write_text(old.replace(end, end + new, 1) if behind else old.rstrip("\n") + "\n" + new, encoding="utf-8")
