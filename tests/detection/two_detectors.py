"""Two steps of a tiny detector, in each process that torchrun starts; each writes its weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

import senet
from detection.tiny_runs import tiny
from senet.detection import detector_runs
from senet.training.loop.placement import Placement

STEPS = {"train.steps": 2, "train.test_every": 2, "train.warmup_steps": 0, "train.batch_size": 4}

if __name__ == "__main__":
    torch.set_num_threads(1)
    senet.set_backend("reference")
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    nets, build = [], detector_runs._built
    detector_runs._built = lambda *args: nets.append(build(*args)) or nets[-1]  # type: ignore[func-returns-value]
    config = tiny(data, **STEPS)
    result = detector_runs.train_detector(config, out=out / "run", placement=Placement("cpu"))
    rank = torch.distributed.get_rank()
    torch.save(nets[0].state_dict(), out / f"rank{rank}.pt")
    (out / f"rank{rank}.json").write_text(json.dumps(result["epochs"]))
