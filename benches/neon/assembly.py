"""Functions and loops of an aarch64 assembly file as rustc writes it."""

import heapq
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

JUMPS = re.compile(r"(b|b\.\w+|cbn?z|tbn?z|ret|br|brk)(\s|$)")
TARGET = re.compile(r"(?:b|b\.\w+|cbn?z|tbn?z)\s.*?(\.L\w+)$")
# After these the next instruction is not reached.
ENDS = re.compile(r"(b|ret|br|brk)(\s|$)")
# A loop of interest multiplies.
PRODUCT = re.compile(r"(sdot|smmla|smlal|smull|fmla)2?\s")


@dataclass
class Loop:
    """An innermost loop."""

    function: str
    body: list[str]
    """The instructions of one time round."""
    around: list[str]
    """Those from its end to its next beginning: one time round the loop that it is in, without itself."""
    counts: Counter = field(init=False)

    def __post_init__(self) -> None:
        self.counts = Counter(line.split()[0] for line in self.body)

    def has(self, *names: str) -> int:
        """How many instructions have one of these names."""
        return sum(self.counts[name] for name in names)

    def loads(self, kind: str) -> int:
        """Registers of a kind (`q`, `s`) that are loaded from memory; a load to all lanes counts as `s`."""
        loaded = 0
        for line in self.body:
            name, _, operands = line.partition("\t")
            if name in ("ldr", "ldur", "ldp"):
                registers = operands.split(", ")[: 2 if name == "ldp" else 1]
                loaded += sum(register.startswith(kind) for register in registers)
            elif name == "ld1r":
                loaded += kind == "s"
        return loaded


def functions(path: Path) -> dict[str, list[str]]:
    """The lines of every function, by its symbol."""
    found: dict[str, list[str]] = {}
    lines = None
    for line in path.read_text().splitlines():
        if start := re.match(r"(_R\w+):", line):
            lines = found.setdefault(start[1], [])
        elif line.startswith(".Lfunc_end"):
            lines = None
        elif lines is not None:
            lines.append(line)
    return found


def loops(function: str, lines: list[str]) -> list[Loop]:
    """Every loop that multiplies: for each basic block with products the shortest way round through it.

    The shortest, because what is rarely done (a step of the fetching ahead, a check that fails) makes a detour.
    """
    blocks = basic_blocks(lines)
    edges = successors(blocks)

    def instructions(way: list[int]) -> list[str]:
        return [line for block in way for line in blocks[block][1]]

    found: dict[frozenset[int], Loop] = {}
    for at, (_, body) in enumerate(blocks):
        if not any(PRODUCT.match(line) for line in body):
            continue
        way = shortest_way(blocks, edges, edges[at], {at})
        inside = frozenset(way)
        if not way or inside in found:
            continue
        exits = [after for block in inside for after in edges[block] if after not in inside]
        # The last is the loop's own.
        around = shortest_way(blocks, edges, exits, inside)[:-1]
        found[inside] = Loop(function, instructions(way), instructions(around))
    return list(found.values())


def basic_blocks(lines: list[str]) -> list[tuple[str, list[str]]]:
    """Labels and the instructions up to the next label or jump."""
    blocks: list[tuple[str, list[str]]] = [("", [])]
    for line in lines:
        if label := re.match(r"(\.L\w+):", line):
            blocks.append((label[1], []))
            continue
        line = line.split("//")[0].strip()
        if not line or line.startswith("."):
            continue
        blocks[-1][1].append(re.sub(r"\s+", "\t", line, count=1))
        if JUMPS.match(line):
            blocks.append(("", []))
    return blocks


def successors(blocks: list[tuple[str, list[str]]]) -> list[list[int]]:
    """Where each block may go on."""
    places = {label: at for at, (label, _) in enumerate(blocks) if label}
    edges = []
    for at, (_, body) in enumerate(blocks):
        last = body[-1] if body else ""
        target = TARGET.match(last)
        after = [places[target[1]]] if target and target[1] in places else []
        if not ENDS.match(last) and at + 1 < len(blocks):
            after.append(at + 1)
        edges.append(after)
    return edges


def shortest_way(
    blocks: list[tuple[str, list[str]]], edges: list[list[int]], starts: list[int], goals: Collection[int]
) -> list[int]:
    """The blocks from a start to a goal, both included, that have the fewest instructions; none if there is no way."""
    size = [len(body) for _, body in blocks]
    queue = [(size[start], [start]) for start in starts]
    heapq.heapify(queue)
    seen = set()
    while queue:
        length, way = heapq.heappop(queue)
        if way[-1] in goals:
            return way
        if way[-1] not in seen:
            seen.add(way[-1])
            for after in edges[way[-1]]:
                heapq.heappush(queue, (length + size[after], [*way, after]))
    return []
