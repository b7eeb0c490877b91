"""Loops of a kernel's machine code, from what nvdisasm prints: what a turn costs, and what lies in them."""

from __future__ import annotations

import heapq
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ENDS = re.compile(r"\b(BRA|BRX|EXIT|RET|CALL)\b")


class Turn(NamedTuple):
    """The shortest way round a loop."""

    instructions: list[str]
    taken: int  # branches that are taken on it

    def count(self, pattern: str) -> int:
        return sum(re.search(pattern, text) is not None for text in self.instructions)


class Kernel:
    """Basic blocks of a function, and which follow each."""

    def __init__(self, items: list[str]) -> None:
        """items: labels, such as ".L_x_1:", and instructions, in the order of the addresses."""
        self.blocks: list[list[str]] = [[]]
        labels: dict[str, int] = {}
        for item in items:
            if item.endswith(":"):
                if self.blocks[-1]:
                    self.blocks.append([])
                labels[item[:-1]] = len(self.blocks) - 1
            else:
                self.blocks[-1].append(item)
                if ENDS.search(item):
                    self.blocks.append([])
        self.after = [self._after(i, labels) for i in range(len(self.blocks))]

    def _after(self, i: int, labels: dict[str, int]) -> list[int]:
        last = self.blocks[i][-1] if self.blocks[i] else ""
        found, goes_on = [], True
        if jump := re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", last):
            found.append(labels[jump[1]])
            # With a predicate of its own, of a uniform register, or where lanes diverge: it may also go on.
            goes_on = last.startswith("@") or re.search(r"\bBRA\.DIV|\bBRA\S* !?U?P\d", last) is not None
        elif re.search(r"\b(EXIT|RET)\b", last):
            goes_on = last.startswith("@")
        if goes_on and i + 1 < len(self.blocks):
            found.append(i + 1)
        return found

    def turn(self, start: int) -> Turn | None:
        """The shortest way from a block back to it; None where there is none."""
        heap = [(len(self.blocks[i]), i, (start, i)) for i in self.after[start]]
        seen = set()
        while heap:
            length, i, way = heapq.heappop(heap)
            if i in seen:
                continue
            seen.add(i)
            if i == start:
                code = [text for block in way[1:] for text in self.blocks[block]]
                return Turn(code, sum(b != a + 1 for a, b in zip(way, way[1:], strict=False)))
            for j in self.after[i]:
                if j not in seen:
                    heapq.heappush(heap, (length + len(self.blocks[j]), j, (*way, j)))
        return None

    def turns(self, pattern: str) -> Iterator[Turn]:
        """Of every block with an instruction like that."""
        for i, block in enumerate(self.blocks):
            if any(re.search(pattern, text) for text in block) and (turn := self.turn(i)):
                yield turn

    def loops(self) -> list[list[str]]:
        """Instructions of each set of blocks from which every one is reached from every other."""

        def reached(start: int, after: list[list[int]]) -> set[int]:
            found: set[int] = set()
            waiting = list(after[start])
            while waiting:
                if (i := waiting.pop()) not in found:
                    found.add(i)
                    waiting += after[i]
            return found

        before: list[list[int]] = [[] for _ in self.blocks]
        for i, following in enumerate(self.after):
            for j in following:
                before[j].append(i)
        found, done = [], set()
        for i in range(len(self.blocks)):
            if i in done:
                continue
            loop = reached(i, self.after) & reached(i, before)
            done |= loop
            if loop:
                found.append([text for j in sorted(loop) for text in self.blocks[j]])
        return found


def parse(text: str) -> dict[str, Kernel]:
    """{mangled name: kernel} of what `nvdisasm -c` prints."""
    items: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if name := re.match(r"\.text\.(\S+):$", line):
            current = items[name[1]] = []
        elif line.startswith("\t.section"):
            current = []
        elif label := re.match(r"(\.L_x_\d+:)", line):
            current.append(label[1])
        elif code := re.match(r"\s*/\*[0-9a-f]+\*/\s+(.*?)\s*;", line):
            current.append(code[1])
    return {name: Kernel(of_kernel) for name, of_kernel in items.items()}


def kernels(nvdisasm: str, cubin: Path) -> dict[str, Kernel]:
    return parse(subprocess.run([nvdisasm, "-c", str(cubin)], capture_output=True, text=True, check=True).stdout)
