"""Check what insertion promises over one network of every timm family and all of torchvision's.

    make sweep

runs the networks in batches, each in a process of its own, keeps each result in
benchmarks/results/insertion.json as it comes (a run that was stopped goes on where it was; --again
starts over), and writes docs/coverage.md.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import copy
import itertools
import json
import platform
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / part) for part in ("src", "tests/insertion", "tests/deploy")]
RESULTS = ROOT / "benchmarks" / "results" / "insertion.json"
PAGE = ROOT / "docs" / "coverage.md"
BATCH = 8  # networks to a process: its start costs more than most of them
# run last: they need most memory and time
LARGE = ("128gf", "vit_h", "vit_l", "32gf", "large", "412m", "167m", "88m")

# One network of each module of timm: of those with random weights that build, about the smallest.
TIMM = """
beit_base_patch16_224 halonet_h1 repvgg_a0 cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32
convnext_atto cpubone_nano crossvit_tiny_240 csatv2 cspresnet50 cspnext_tiny davit_tiny
deepseek_vit_412m deit_tiny_patch16_224 densenet121 dla46x_c dpn48b edgenext_xx_small
efficientformer_l1 efficientformerv2_s0 efficientnet_lite0 efficientvim_m1 efficientvit_b0
efficientvit_m0 vit_tiny_patch16_dinov3_qkvb fasternet_t0 fastvit_t8 focalnet_tiny_srf
gcvit_xxtiny gemma4_vit_167m ghostnet_050 hardcorenas_b hgnetv2_b0 hiera_tiny_224 sam2_hiera_tiny
hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2 inception_v3 inception_v4
lcnetv2_small levit_128s lowformer_b0 test_mambaout coatnet_0_rw_224 poolformerv2_s12
gmlp_ti16_224 mobilenetv3_small_050 mobilenetv5_base mobilevit_xxs mvitv2_tiny
naflexvit_base_patch16_parfac_gap nasnetalarge nest_tiny nextvit_small nf_resnet26 pit_ti_224
pnasnet5large pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_002 repghostnet_050 repvit_m1
res2net50_14w_8s resnest14d resnet26 resnetv2_18 rexnet_100 selecsls42 legacy_seresnet18
sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224
swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_legacy_patch16_224 tresnet_m
twins_svt_small vgg11_bn visformer_tiny test_vit vit_tiny_r_s16_p8_224 test_vit_relpos
samvit_base_patch16_224 vitamin_small_224 volo_d1_224 vovnet39a legacy_xception xception41
xcit_nano_12_p8_224
""".split()  # noqa: SIM905 a list of a hundred lines is harder to read

INTRODUCTION = """\
What `senet.insert` does with one network of every module of timm and with every classification
network of torchvision, random weights, `SEConfig()`. **works** means that all of this held: outputs
and running statistics equal bit for bit before and after, in evaluation and in training; every key
of the base stays and its checkpoint loads; saved and rebuilt on a fresh base with the same outputs;
removed with types, keys, hooks and outputs as before. `compile` is `torch.compile(fullgraph=True)`
(Dynamo, backend `eager`), `export` is `torch.export`; *not the plain one* means that the network
itself does not go through, without any SE block. `deployed` is `senet.deploy` in both forms, with
the inserted blocks or the network's own: outputs equal in float64 to 1e-10 of the largest, in
float32 to 1e-5 or to three times the network's own rounding, and the same classes; *kept* are batch
norms that nothing in front can take, and gates of a form of their own. An empty cell has not been
run."""


def names() -> list[str]:
    """All networks to run: the table above and every classification network of torchvision."""
    import timm
    import torchvision

    modules = {timm.models.model_entrypoint(name).__module__.rpartition(".")[2] for name in TIMM}
    if missing := set(timm.list_modules()) - modules:
        raise SystemExit(
            f"the table must have a network of every module of timm; none of {sorted(missing)}"
        )
    theirs = torchvision.models.list_models(module=torchvision.models)
    return [f"timm/{name}" for name in TIMM] + [f"torchvision/{name}" for name in theirs]


def example_for(name: str, model: Any) -> Any:
    """A batch of two images of the smallest size at which the network trains."""
    import torch

    cfg = getattr(model, "pretrained_cfg", None) or {}
    default = tuple(cfg.get("input_size", (3, 299 if "inception_v3" in name else 224, 0)))[1]
    if cfg.get("fixed_input_size"):
        return torch.randn(2, 3, default, default)
    for size in (64, 128):
        with contextlib.suppress(Exception), torch.no_grad():
            for training in (True, False):
                copy.deepcopy(model).train(training)(torch.randn(2, 3, size, size))
            return torch.randn(2, 3, size, size)
    return torch.randn(2, 3, default, default)


def redrawn(model: Any) -> Any:
    """A copy with other weights, as another seed gives; much faster than to build it again."""
    import torch

    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.9 + 0.2 * torch.rand(()))
    return other


def attempt(step: Any, *args: Any) -> str:
    """Return "" where a step works, else its error."""
    try:
        step(*args)
    except Exception as error:  # noqa: BLE001 whatever a network throws is the result
        return f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0][:200]}"
    return ""


def deployment(name: str) -> dict[str, Any]:
    """Deploy one network, with SE blocks inserted where they can be, and return its columns.

    In float64 its outputs must agree to 1e-10 of the largest, in float32 to rounding.
    """
    import as_trained
    import families
    import torch

    import senet

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        net = families.build(name)
        example = example_for(name, net)
        with contextlib.suppress(senet.errors.NoSitesError):
            senet.insert(net, example)
        done = as_trained.deploys(net, example)
    except Exception as error:  # noqa: BLE001
        return {"deployed": f"{type(error).__name__}: {str(error).strip()[:300]}"}
    finally:
        torch.set_default_dtype(torch.float32)
    return {"deployed": "yes", "deployed_blocks": done.blocks, "deployed_kept": len(done.kept)}


def run(name: str, known: dict[str, Any] | None) -> dict[str, Any]:
    """Check what is not known of one network, and return the row of the table."""
    return (known or properties_of(name)) | deployment(name)


def properties_of(name: str) -> dict[str, Any]:
    """Insert into one network and return the columns of insertion."""
    import families
    import properties
    import torch

    import senet

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    start = time.perf_counter()
    row: dict[str, Any] = {"name": name}
    try:
        base = families.build(name)
        example = example_for(name, base)
        row["size"] = example.shape[-1]
        report = properties.check(lambda: redrawn(base), example)
    except senet.errors.NoSitesError as error:
        reason = (
            "has SE blocks, or gates of their kind, already"
            if "already" in str(error)
            else "tokens only"
        )
        return row | {"state": "refused", "reason": reason, "message": str(error)}
    except Exception as error:  # noqa: BLE001
        return row | {
            "state": "fails",
            "message": f"{type(error).__name__}: {str(error).strip()[:300]}",
        }
    model = copy.deepcopy(base)
    senet.insert(model, example)
    for key, step in (("compile", properties.compiles), ("export", properties.exports)):
        error = attempt(step, model, example)
        row[key] = (
            "yes" if not error else "not the plain one" if attempt(step, base, example) else error
        )
    kinds = sorted({site.kind for site in report.sites})
    added = 100 * report.parameters / report.base_parameters
    return row | {
        "state": "works",
        "sites": len(report.sites),
        "behind": ", ".join(kinds).replace("_", " "),
        "skipped": len(report.skipped),
        "parameters_added_percent": round(added, 2),
        "seconds": round(time.perf_counter() - start, 1),
    }


def run_apart(batch: list[str], limit: float, *, again: bool) -> Iterator[dict[str, Any]]:
    """Check a batch of networks in a process of its own, and yield each result as it comes."""
    command = [sys.executable, __file__, "--these", *batch, *(["--again"] if again else [])]
    log = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 closed with the process
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    watch = threading.Timer(limit * len(batch), process.kill)
    watch.start()
    left = list(batch)
    for line in process.stdout or ():
        if line.startswith('{"name"'):
            row: dict[str, Any] = json.loads(line)
            left.remove(row["name"])
            yield row
    code = process.wait()
    watch.cancel()
    if left:
        log.seek(0)
        message = f"ended with {code}: {log.read()[-200:].strip()}"
        yield {"name": left[0], "state": "fails", "message": message}
        yield from run_apart(left[1:], limit, again=again) if left[1:] else ()


def cell(row: dict[str, Any]) -> str:
    """One line of the table."""
    if row["state"] == "works":
        verdict = [
            row["name"],
            "works",
            row["sites"],
            row["behind"],
            f"+{row['parameters_added_percent']} %",
        ]
        verdict += [row["compile"], row["export"]]
    else:
        reason = row.get("reason") or row["message"].replace("|", "/")
        verdict = [row["name"], row["state"], "", reason, "", "", ""]
    kept = f", {row['deployed_kept']} kept" if row.get("deployed_kept") else ""
    verdict.append((row.get("deployed", "") + kept).replace("|", "/"))
    return "| " + " | ".join(str(v) for v in verdict) + " |"


def page(data: dict[str, Any]) -> str:
    """Return docs/coverage.md."""
    rows = sorted(data["rows"].values(), key=lambda row: (row["name"].split("/")[0], row["name"]))
    count = {
        state: sum(r["state"] == state for r in rows) for state in ("works", "refused", "fails")
    }
    versions = ", ".join(f"{key} {value}" for key, value in data["versions"].items())
    deployed = [r for r in rows if r["state"] == "works" and r.get("deployed") == "yes"]
    head = (
        "| network | state | sites | behind / reason | parameters | compile | export | deployed |"
    )
    return "\n".join(
        [
            "# Coverage",
            "",
            INTRODUCTION,
            "",
            f"Of {data['networks']} networks {len(rows)} have been run: "
            f"{count['works']} work, {count['refused']} are refused with a reason, "
            f"{count['fails']} fail. {len(deployed)} of those that work deploy. "
            f"Made by `make sweep` with {versions}.",
            "",
            head,
            "|---|---|---|---|---|---|---|---|",
            *map(cell, rows),
            "",
        ]
    )


def earlier(*, again: bool) -> dict[str, Any]:
    """The results that are there already, under the versions of now."""
    import timm
    import torch
    import torchvision

    import senet

    data: dict[str, Any] = {"rows": {}}
    if RESULTS.exists() and not again:
        data = json.loads(RESULTS.read_text())
    libraries = (senet, torch, torchvision, timm)
    data["versions"] = {library.__name__: library.__version__ for library in libraries}
    data["versions"]["Python"] = platform.python_version()
    return data


def done(data: dict[str, Any]) -> set[str]:
    """The networks of which everything is known; without blocks none need be deployed."""
    rows = data["rows"].items()
    return {
        name
        for name, r in rows
        if r["state"] == "refused" or (r["state"] == "works" and r.get("deployed") == "yes")
    }


def sweep(data: dict[str, Any], todo: list[str], options: argparse.Namespace) -> None:
    """Run the networks and keep each result as it comes."""
    RESULTS.parent.mkdir(exist_ok=True)
    batches = [todo[i : i + BATCH] for i in range(0, len(todo), BATCH)]
    lock, done = threading.Lock(), itertools.count(1)

    def keep(batch: list[str]) -> None:
        for row in run_apart(batch, options.limit, again=options.again):
            with lock:
                data["rows"][row["name"]] = row
                RESULTS.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")
                options.write.write_text(page(data))
                text = f"{next(done)}/{len(todo)} {row['name']}: {row['state']}"
                print(f"{text} {row.get('message', '')}"[:200], flush=True)

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(keep, batches))


def main() -> None:
    """Run what is not yet there, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", type=Path, default=PAGE, help="the page to write")
    parser.add_argument("--these", nargs="+", help="check these networks and print their rows")
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--limit", type=float, default=900, help="seconds for one network")
    options = parser.parse_args()
    data = earlier(again=options.again)
    known = {name: row for name, row in data["rows"].items() if row["state"] != "fails"}
    if options.these:
        for name in options.these:
            print(json.dumps(run(name, known.get(name))), flush=True)
        return
    finished = done(data)
    everything = names()
    data["networks"] = len(everything)
    todo = [name for name in everything if name not in finished]
    todo.sort(key=lambda name: any(part in name for part in LARGE))
    sweep(data, todo, options)
    options.write.write_text(page(data))
    failures = [row["name"] for row in data["rows"].values() if row["name"] not in done(data)]
    print(f"wrote {options.write}; failures: {failures or 'none'}")


if __name__ == "__main__":
    main()
