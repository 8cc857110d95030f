"""Times `interleaf bench` and llama.cpp in turn, on generated weights of the same shape.

Needs nothing but Python: the first run makes a virtual environment and builds llama-cpp-python in it, which
takes about ten minutes. See README.md for what is compared and what is not.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SHAPES = ROOT / "crates/model/src/generated/shapes"
PACKAGES = ["llama-cpp-python", "gguf"]


@dataclass
class Row:
    """One shape of work, for both."""

    name: str
    prompt: int = 0
    generate: int = 0
    batch: int = 1
    depth: int = 0
    adapters: int = 0
    # Why llama.cpp cannot do it.
    not_there: str = ""

    def interleaf(self) -> list[str]:
        values = [("-p", self.prompt), ("-n", self.generate), ("--batch", self.batch)]
        # With and without adapters step by step in turn: turns of whole runs are too far apart to compare.
        adapters = f"0,{self.adapters}" if self.adapters else "0"
        values += [("--depth", self.depth), ("--adapters", adapters)]
        in_turn = ["--in-turn"] if self.adapters else []
        return in_turn + [word for option, value in values for word in (option, str(value))]


ROWS = [
    Row("tg128", generate=128),
    Row("pp512", prompt=512),
    Row("tg32, 16 sequences", generate=32, batch=16),
    Row("tg32 at depth 4096", generate=32, depth=4096),
    Row("tg128, one adapter", generate=128, adapters=1),
    Row(
        "tg32, 16 sequences, 16 adapters",
        generate=32,
        batch=16,
        adapters=16,
        not_there="its adapters are the context's, not a sequence's",
    ),
]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = sorted(path.stem for path in SHAPES.glob("*.json"))
    parser.add_argument("--shape", choices=names, default="smollm2-135m")
    parser.add_argument("--weights", choices=["q4", "q8", "f16"], default="q4")
    parser.add_argument("--rows", help="only rows whose names contain one of these, such as tg128,pp512")
    parser.add_argument("--rounds", type=int, default=3, help="times that each of the two has its turn [3]")
    parser.add_argument("--repetitions", type=int, default=2, help="measurements in each turn [2]")
    parser.add_argument("--rank", type=int, default=16, help="of the adapters [16]")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of both [one per core]")
    parser.add_argument("--interleaf", type=Path, default=ROOT / "target/release/interleaf")
    parser.add_argument("--venv", type=Path, default=ROOT / "target/peers/venv", help="made if it is not there")
    parser.add_argument("--cache", type=Path, default=ROOT / "target/peers", help="for GGUF files")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser.parse_args()


def environment(folder: Path) -> Path:
    """The Python of a virtual environment that has what is needed."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        venv.create(folder, with_pip=True)
    has = subprocess.run([python, "-c", "import llama_cpp, gguf"], capture_output=True)
    if has.returncode != 0:
        print("building llama-cpp-python; this takes about ten minutes", file=sys.stderr)
        subprocess.run([python, "-m", "pip", "install", *PACKAGES], check=True, stdout=sys.stderr)
    return python


def run(command: list) -> dict:
    """A command's JSON."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def generated(python: Path, args: argparse.Namespace) -> tuple[Path, Path]:
    """The GGUF files of the model and of an adapter, written if they are not there."""
    args.cache.mkdir(parents=True, exist_ok=True)
    model = args.cache / f"{args.shape}-{args.weights}.gguf"
    adapter = args.cache / f"{args.shape}-rank{args.rank}.gguf"
    for file, kind in [(model, args.weights), (adapter, f"rank{args.rank}")]:
        if not file.exists():
            config = SHAPES / f"{args.shape}.json"
            subprocess.run([python, HERE / "write_gguf.py", config, kind, file], check=True)
    return model, adapter


def interleaf(args: argparse.Namespace, row: Row) -> tuple[list[float], float | None]:
    """Tokens per second, and the time as a multiple of that without adapters."""
    report = run(
        [args.interleaf, "bench", "--shape", args.shape, "--weights", args.weights, "--backend", "cpu"]
        + ["--threads", args.threads, "-r", args.repetitions, "--rank", args.rank, "--output", "json"]
        + row.interleaf()
    )
    [*_, measured] = report["rows"]
    return measured["samples"], measured["time_ratio"]


def llama(python: Path, args: argparse.Namespace, row: Row, model: Path, adapter: Path) -> list[float]:
    work = {
        "model": str(model),
        "adapter": str(adapter) if row.adapters else None,
        "prompt": row.prompt,
        "generate": row.generate,
        "batch": row.batch,
        "depth": row.depth,
        "threads": args.threads,
        "repetitions": args.repetitions,
    }
    return run([python, HERE / "time_llama.py", json.dumps(work)])["samples"]


def measure(args: argparse.Namespace) -> list[dict]:
    wanted = args.rows.split(",") if args.rows else [""]
    rows = [row for row in ROWS if any(part in row.name for part in wanted)]
    python = environment(args.venv)
    model, adapter = generated(python, args)
    measured = []
    for row in rows:
        ours, theirs, ratios = [], [], []
        for turn in range(args.rounds):
            print(f"{row.name}: turn {turn + 1} of {args.rounds}", file=sys.stderr)
            samples, ratio = interleaf(args, row)
            ours += samples
            ratios += [ratio] if row.adapters else []
            if not row.not_there:
                theirs += llama(python, args, row, model, adapter)
        measured.append(
            {
                "row": row.name,
                "interleaf": ours,
                "time_ratios": ratios,
                "llama.cpp": theirs,
                "not_there": row.not_there,
            }
        )
    return measured


def middle(samples: list[float]) -> str:
    if not samples:
        return "–"
    return f"{statistics.median(samples):.2f} ({min(samples):.2f}–{max(samples):.2f})"


def table(rows: list[dict]) -> list[str]:
    """Markdown: medians, with the least and the most, and the ratio of the medians."""
    cells = [["row", "interleaf, tokens/s", "× time without adapters", "llama.cpp, tokens/s", "ratio"]]
    for row in rows:
        ours, theirs = row["interleaf"], row["llama.cpp"]
        ratio = f"{statistics.median(ours) / statistics.median(theirs):.2f}×" if theirs else row["not_there"]
        cells.append([row["row"], middle(ours), middle(row["time_ratios"]), middle(theirs), ratio])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    padded = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths)) for line in cells]
    padded.insert(1, " | ".join("-" * width for width in widths))
    return [f"| {line} |" for line in padded]


def main() -> None:
    args = arguments()
    if not args.interleaf.exists():
        sys.exit(f"{args.interleaf}: not there; build it with cargo build --release, or name it with --interleaf")
    rows = measure(args)
    title = {"shape": args.shape, "weights": args.weights, "threads": args.threads}
    if args.json:
        print(json.dumps({**title, "rank": args.rank, "rows": rows}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in title.items()))
    print("\n".join(["", *table(rows)]))


if __name__ == "__main__":
    main()
