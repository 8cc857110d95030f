"""Predicts how fast the NEON kernels' inner loops run, for want of ARM hardware: llvm-mca on what rustc makes of them.

Needs Python 3.11, the target (`rustup target add aarch64-unknown-linux-gnu`) and llvm-mca. See README.md for
what the numbers mean and what they leave out.
"""

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import mca
from assembly import functions, loops
from kernels import Kernel, find

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = "aarch64-unknown-linux-gnu"


@dataclass(frozen=True)
class Core:
    """A core, and a device that has it."""

    cpu: str
    """LLVM's name."""
    title: str
    tiers: tuple[str, ...]
    ghz: float
    memory: float
    """GB/s that the device's memory has at most, for all cores together."""
    device: str


CORES = [
    Core("cortex-a76", "cortex-a76", ("neon", "neon-dotprod"), 2.4, 17.1, "Raspberry Pi 5"),
    Core("neoverse-n1", "cortex-a76, as neoverse-n1", ("neon", "neon-dotprod"), 2.4, 17.1, "Raspberry Pi 5"),
    Core("cortex-x3", "cortex-x3", ("neon", "neon-dotprod", "neon-i8mm"), 3.2, 67.2, "Snapdragon 8 Gen 2"),
    Core("apple-m1", "apple-m1", ("neon", "neon-dotprod"), 3.2, 68.3, "MacBook Air 2020"),
]


def main() -> None:
    """Compiles, finds the loops, and prints a table for every core."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target-dir", type=Path, default=ROOT / "target/neon-asm")
    target_dir = parser.parse_args().target_dir.resolve()
    tool = mca.find()
    kernels = find([
        loop
        for symbol, lines in functions(compile_kernels(target_dir)).items()
        if "neon" in symbol
        for loop in loops(symbol, lines)
    ])
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout
    print(f"{rustc.strip()}; llvm-mca of {mca.full_version(tool)}.\n")
    for core in CORES:
        table(tool, core, [kernel for kernel in kernels if kernel.tier in core.tiers])


def compile_kernels(target_dir: Path) -> Path:
    """The library's assembly: the kernels with the options of a release, in one piece and under readable symbols."""
    command = ["cargo", "rustc", "--quiet", "--release", "--lib", "--package", "interleaf-cpu"]
    command += ["--target", TARGET, "--target-dir", str(target_dir), "--"]
    command += ["--emit", "asm", "-C", "codegen-units=1", "-C", "symbol-mangling-version=v0"]
    if subprocess.run(command, cwd=ROOT, env={**os.environ, "RUSTFLAGS": ""}, check=False).returncode != 0:
        raise SystemExit(f"is the target there? rustup target add {TARGET}")
    found = list((target_dir / TARGET / "release/deps").glob("interleaf_cpu-*.s"))
    # Older compilers' and options' stay beside it.
    return max(found, key=lambda path: path.stat().st_mtime)


def table(tool: str, core: Core, kernels: list[Kernel]) -> None:
    """One core's predictions as Markdown."""
    rows = [(kernel, mca.predict(tool, core.cpu, kernel.body)) for kernel in kernels]
    model, width = rows[0][1].model, rows[0][1].width
    print(f"## {core.title}\n")
    print(f"Scheduling model: {model}, {width} micro-operations dispatched a cycle. Weights per second at")
    print(f"{core.ghz} GHz; the memory of a {core.device} gives all cores together {core.memory} GB/s at most.\n")
    print("| tier | loop | MACs | cycles | MACs/cycle | limit | share | busiest port | weights |")
    print("|---|---|--:|--:|--:|---|--:|---|--:|")
    for kernel, of in rows:
        weights = f"{kernel.weights / of.cycles * core.ghz:.1f} GB/s" if kernel.weights else ""
        print(
            f"| {kernel.tier} | {kernel.name} | {kernel.macs} | {of.cycles:.1f} | {kernel.macs / of.cycles:.1f} "
            f"| {of.limit} | {of.share:.0%} | {of.port} {of.busy / of.cycles:.0%} | {weights} |"
        )
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
