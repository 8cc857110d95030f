"""The inner loops of the NEON tiers, told by the function they are in and by their instructions.

A loop that is not found is an error: then the kernel changed, and what is known of it here must change too.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from assembly import Loop

# Parts of v0 symbols: words with their lengths before them.
TIERS = {
    "neon": ("4neon5enter", "4neon4Neon"),
    "neon-dotprod": ("12neon_dotprod5enter",),
    "neon-i8mm": ("9neon_i8mm5enter",),
}
# f32 and outputs in a vector, inputs of a quantised block, tokens of a page.
LANES, BLOCK, PAGE = 4, 32, 16
# Inputs of a panel between two steps of the fetching ahead.
STEP = 128
# Bytes of a block of four outputs: the codes and the f16 scales.
BLOCK_BYTES = {"q4_0": LANES * (BLOCK // 2 + 2), "q8_0": LANES * (BLOCK + 2)}
# Vectors and rows are the same code in every tier; it is taken from this one.
COMMON = "neon-dotprod"


@dataclass(frozen=True)
class Kernel:
    """One inner loop with its share of the loop around it."""

    tier: str
    name: str
    macs: int
    """Multiplications of one time round."""
    weights: int
    """Bytes of weights of one time round where a product reads each weight once; 0 where it keeps them."""
    loop: Loop
    body: list[str]


@dataclass(frozen=True)
class Expected:
    """A loop that must be there."""

    tier: str
    symbol: str
    name: str
    pieces: int
    """How often the loop's smallest piece is done before the loop around it has its turn; 1 if that is too seldom
    to count."""
    macs: int
    """Multiplications of a piece."""
    weights: int
    """Bytes of weights of a piece."""
    measure: Callable[[Loop], int]
    """How many pieces the compiler made one time round of; 0 if it is another loop."""


def find(loops: list[Loop]) -> list[Kernel]:
    """All expected loops; of an unrolled one the way through all its copies."""
    kernels = []
    for want in expected():
        of_tier = [
            loop
            for loop in loops
            if want.symbol in loop.function and any(part in loop.function for part in TIERS[want.tier])
        ]
        found = max(of_tier, key=want.measure, default=None)
        done = want.measure(found) if found else 0
        if not found or done == 0:
            raise SystemExit(f"no loop in the assembly is {want.tier}'s {want.name}: see kernels.py")
        pieces = max(done, want.pieces)
        body = found.body * (pieces // done)
        if pieces > done:
            body = body + found.around
        kernels.append(Kernel(want.tier, want.name, want.macs * pieces, want.weights * pieces, found, body))
    if len({id(kernel.loop) for kernel in kernels}) < len(kernels):
        raise SystemExit("two kernels are found in one loop: see kernels.py")
    return kernels


def expected() -> Iterator[Expected]:
    """Every loop of the tables, in their order."""
    for tier, most in (("neon", 4), ("neon-dotprod", 8), ("neon-i8mm", 8)):
        for dtype in ("q4_0", "q8_0"):
            for rows in (1, most):
                name = f"{dtype}, {count(rows, 'row')}"
                macs, streamed = rows * LANES * BLOCK, BLOCK_BYTES[dtype] * (rows == 1)
                if (tier, dtype, rows) == ("neon", "q8_0", 4):
                    yield Expected(tier, "8Products", name, rows, LANES * BLOCK, 0, row_by_row)
                else:
                    measure = integer(tier, dtype, rows)
                    yield Expected(tier, "8Products", name, STEP // BLOCK, macs, streamed, measure)
    for dtype, size in (("f32", 4), ("f16", 2), ("bf16", 2)):
        for rows, panels in ((1, 4), (8, 3)):
            outputs = panels * LANES
            name = f"{dtype}, {count(rows, 'row')} × {outputs} outputs"
            streamed, measure = outputs * size * (rows == 1), number(dtype, rows, panels)
            yield Expected(COMMON, "8Products", name, STEP // panels, rows * outputs, streamed, measure)
    for dtype, size in (("f32", 4), ("f16", 2)):
        for rows in (1, 2):
            macs, name = rows * 8 * LANES, f"shrink, {count(rows, 'row')}, {dtype} A"
            yield Expected(COMMON, "7Prepare", name, 1, macs, 8 * LANES * size * (rows == 1), shrink(dtype, rows))
        for rows in (1, 4):
            macs, name = rows * 4 * LANES, f"expand, {count(rows, 'row')}, {dtype} B"
            yield Expected(COMMON, "8Products", name, 1, macs, 4 * LANES * size * (rows == 1), expand(dtype, rows))
    for queries, vectors in ((1, 4), (4, 2), (8, 1)):
        macs = queries * vectors * LANES
        name = f"K·q, {count(queries, 'query')} × {vectors * LANES} tokens"
        yield Expected(COMMON, "6Blocks", name, 1, macs * LANES, 0, score(queries, vectors))
    for queries in (1, 2):
        name = f"P·V, {count(queries, 'query')}"
        yield Expected(COMMON, "6Blocks", name, 1, queries * 4 * LANES, 0, weighted(queries))


def count(n: int, what: str) -> str:
    """A number with its noun."""
    return f"{n} {what if n == 1 else what.removesuffix('y') + ('ies' if what.endswith('y') else 's')}"


def times(found: int, once: int) -> int:
    """How many whole times; 0 unless it is so exactly."""
    return found // once if found % once == 0 else 0


def integer(tier: str, dtype: str, rows: int) -> Callable[[Loop], int]:
    """Blocks of 32 inputs: one conversion of f16 scales a block, one of sums a row."""

    def measure(loop: Loop) -> int:
        blocks = loop.has("fcvtl")
        products = {
            "neon": times(loop.has("smull", "smull2", "smlal", "smlal2"), 16),
            "neon-dotprod": times(loop.has("sdot"), 8),
            # Rows go in pairs, and alone as in the tier before.
            "neon-i8mm": times(loop.has("smmla"), 8) * 2 if rows > 1 else times(loop.has("sdot"), 8),
        }[tier]
        nibbles = loop.has("shl") == 4 * blocks
        same = products == loop.has("scvtf") == blocks * rows and nibbles == (dtype == "q4_0")
        return blocks if same else 0

    return measure


def row_by_row(loop: Loop) -> int:
    """One row of a block: neon's q8_0 has a loop over the rows inside that over the blocks."""
    products = loop.has("smull", "smull2", "smlal", "smlal2")
    return int(products == 16 and loop.has("scvtf") == 1 and loop.has("fcvtl", "sshr") == 0)


def number(dtype: str, rows: int, panels: int) -> Callable[[Loop], int]:
    """Inputs of float products: a vector of weights for every panel, and the rows' values in vectors or alone."""

    def measure(loop: Loop) -> int:
        inputs = times(loop.has("fmla"), rows * panels)
        weights, values = inputs * panels, inputs * (rows // LANES)
        loaded = loop.loads("q") == values + weights * (dtype == "f32")
        loaded &= loop.loads("s") == inputs * (rows % LANES)
        same = loop.has("fcvtl") == weights * (dtype == "f16")
        same &= loop.has("shll", "ushll") == weights * (dtype == "bf16")
        return inputs if loaded and same and loop.has("scvtf") == 0 else 0

    return measure


def shrink(dtype: str, rows: int) -> Callable[[Loop], int]:
    """Four rows of A with some of x, each product in two sums."""

    def measure(loop: Loop) -> int:
        halves = loop.has("fcvtl") == (8 if dtype == "f16" else 0)
        return int(loop.has("fmla") == 8 * rows and halves and loop.loads("s") == 0 and loop.loads("q") >= 2)

    return measure


def expand(dtype: str, rows: int) -> Callable[[Loop], int]:
    """Four values of each row's z, each in a sum of its own."""

    def measure(loop: Loop) -> int:
        halves = loop.has("fcvtl") == (4 if dtype == "f16" else 0)
        return int(loop.has("fmla") == loop.loads("s") == 4 * rows and halves and loop.has("prfm", "scvtf") == 0)

    return measure


def score(queries: int, vectors: int) -> Callable[[Loop], int]:
    """Four dimensions of every query, each with some vectors of keys."""

    def measure(loop: Loop) -> int:
        fours = times(loop.has("fmla"), LANES * queries * vectors)
        loaded = loop.loads("q") == fours * (queries + LANES * vectors) and loop.loads("s") == 0
        # A query's value meets as many keys as there are vectors of tokens.
        values = {line.split(", ")[-1] for line in loop.body if line.startswith("fmla")}
        return fours if loaded and len(values) == fours * LANES * queries else 0

    return measure


def weighted(queries: int) -> Callable[[Loop], int]:
    """Tokens of four vectors of values."""

    def measure(loop: Loop) -> int:
        if queries == 1:
            return int(loop.has("fmla") == 4 and loop.loads("q") == 4 and loop.loads("s") == 1)
        # Two queries go through whole pages, which are unrolled.
        return PAGE if loop.has("fmla") == PAGE * queries * 4 else 0

    return measure
