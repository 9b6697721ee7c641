"""Kill a training run again and again, and compare its end with that of an undisturbed run.

    python benchmarks/chaos.py            # 20 kills, some minutes on one core; `make chaos`

Each time the run is killed by SIGKILL a random time after its first new checkpoint, and started
again. Some times its newest checkpoint is cut off or a byte of it changed before that, as a disk
that lost its last writes would leave it. At the end every tensor of the network, its averaged
weights and its batch norm statistics must be those of the undisturbed run, bit for bit. Writes
benchmarks/results/chaos.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from senet.training.loop.checkpoints import newest_checkpoint  # noqa: E402
from training import killing  # noqa: E402 - imported through the line above

RESULT = ROOT / "benchmarks" / "results" / "chaos.json"


def damage(out: Path, draw: random.Random) -> str:
    """Cut off the newest checkpoint, or change a byte of it."""
    path = newest_checkpoint(out)
    if path is None or len(list(out.glob("step-*.ckpt"))) < 2:
        return "none"
    data = bytearray(path.read_bytes())
    if draw.random() < 0.5:
        path.write_bytes(data[: draw.randrange(len(data))])
        return "cut off"
    data[draw.randrange(len(data))] ^= 0xFF
    path.write_bytes(data)
    return "a byte changed"


def disturbed(out: Path, options: list[str], *, kills: int, draw: random.Random) -> list[Any]:
    """Run, killing so many times; return what was done each time."""
    done = []
    while len(done) < kills:
        kill = killing.killed(out, *options, after=killing.step(out), draw=draw)
        if kill["had_ended"]:
            raise SystemExit("the run ended before all kills: more --epochs")
        hurt = len(done) % 5 == 4
        kill["damage"] = damage(out, draw) if hurt else "none"
        done.append(kill)
        print(f"kill {len(done)}: {kill}", flush=True)
    return done


def main() -> None:
    """Run both, compare, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=24, help="15 steps each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", default=str(RESULT))
    given = parser.parse_args()
    options = [*killing.OPTIONS, "--set", f"epochs={given.epochs}"]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        calm, rough = Path(folder) / "calm", Path(folder) / "rough"
        killing.finished(calm, *options)
        kills = disturbed(rough, options, kills=given.kills, draw=random.Random(given.seed))
        killing.finished(rough, *options)
        differing = killing.different(killing.weights(calm), killing.weights(rough))
        tensors = len(killing.weights(calm))
    result = {
        "command": " ".join(["senet", *killing.command(Path("OUT"), *options)[3:]]),
        "kills": kills,
        "tensors": tensors,
        "differing_tensors": differing,
        "bit_identical": not differing,
        "seconds": round(time.monotonic() - began),
        "device": "cpu, one thread",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    Path(given.result).parent.mkdir(parents=True, exist_ok=True)
    Path(given.result).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"bit-identical: {not differing}; wrote {given.result}")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
