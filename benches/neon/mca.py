"""What llvm-mca predicts of a loop."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass

ITERATIONS = 200
PACKAGE = "llvm-22"
# LLVM does not say which core a scheduling model is of, but the names of a model's ports begin with it.
MODELS = {
    "A57": "Cortex-A57",
    "N1": "Neoverse N1",
    "V1": "Neoverse V1",
    "V2": "Neoverse V2",
    "Cy": "Cyclone (Apple A7)",
}


@dataclass
class Prediction:
    """Of one time round a loop."""

    model: str
    width: int
    """Micro-operations that it dispatches a cycle."""
    cycles: float
    port: str
    """The port that is busy longest, and how many cycles."""
    busy: float
    dispatch: float
    """Cycles that dispatching the micro-operations takes at least."""

    @property
    def limit(self) -> str:
        """What limits the loop, once nothing waits for results."""
        return self.port if self.busy >= self.dispatch else "dispatch"

    @property
    def share(self) -> float:
        """How much of the time the limit is busy."""
        return max(self.busy, self.dispatch) / self.cycles


def find() -> str:
    """The newest llvm-mca that is installed."""
    for name in [*(f"llvm-mca-{version}" for version in range(30, 18, -1)), "llvm-mca"]:
        if shutil.which(name) and version(name) >= 19:
            return name
    raise SystemExit(f"llvm-mca of LLVM 19 or newer is needed: apt-get install {PACKAGE}")


def version(tool: str) -> int:
    """LLVM's major version."""
    found = re.search(r"LLVM version (\d+)", full_version(tool))
    return int(found[1]) if found else 0


def full_version(tool: str) -> str:
    """What the tool says of its LLVM."""
    run = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"LLVM version \S+", run.stdout)
    return found[0] if found else "LLVM of an unknown version"


def predict(tool: str, cpu: str, body: list[str]) -> Prediction:
    """Runs a loop's instructions over and over."""
    command = [tool, "-march=aarch64", f"-mcpu={cpu}", "-mattr=+dotprod,+i8mm", "--json"]
    # So many that filling and draining the pipeline does not count.
    command += [f"-iterations={ITERATIONS}"]
    run = subprocess.run(command, input="\n".join(body) + "\n", capture_output=True, text=True, check=False)
    if run.returncode != 0 or "not a recognized processor" in run.stderr:
        raise SystemExit(f"{' '.join(command)}:\n{run.stderr}")
    report = json.loads(run.stdout)
    region = report["CodeRegions"][0]
    summary = region["SummaryView"]
    ports = report["TargetInfo"]["Resources"]
    # The last "instruction" is the sum over all.
    total = len(region["Instructions"])
    pressure = {
        ports[entry["ResourceIndex"]]: entry["ResourceUsage"]
        for entry in region["ResourcePressureView"]["ResourcePressureInfo"]
        if entry["InstructionIndex"] == total
    }
    port = max(pressure, key=lambda name: pressure[name])
    prefix = re.match(r"(.*?)(Unit|V3)", port)
    return Prediction(
        model=MODELS.get(prefix[1], prefix[1]) if prefix else port,
        width=summary["DispatchWidth"],
        cycles=summary["TotalCycles"] / ITERATIONS,
        port=re.sub(r".*Unit", "", port).split(".")[0],
        busy=pressure[port],
        dispatch=summary["TotaluOps"] / ITERATIONS / summary["DispatchWidth"],
    )
