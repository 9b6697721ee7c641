"""Every door that needs an extra says so: what needs which package, and the pip line."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from environments import Environment

# What a user may call without the package that it needs, and the extra that the error must name.
DOORS = {
    "senet.create_model('timm/resnet18')": "timm",
    "senet.create_model('timm/no_such_network')": "timm",
    "senet.create_model('torchvision/resnet18')": "timm",
    "senet.backbone('timm/resnet18')": "timm",
    "senet.backbone('resnet50')": "timm",
    "senet.list_models('timm/*')": "timm",
    "senet.register_with_timm()": "timm",
    "senet.load_weights(network(), 'timm/resnet50.a1_in1k')": "timm",
    "senet.load_weights(network(), 'torchvision/resnet50')": "timm",
    "senet.load_weights(network(), 'hf://owner/name')": "hub",
    "senet.from_pretrained('owner/name')": "hub",
    "senet.push_to_hub(network(), 'owner/name')": "hub",
    "senet.create_model('resnet5o')": "timm",
    "senet.export(network().eval(), 'x.onnx', torch.zeros(1, 3, 64, 64))": "export",
    "senet.export(network().eval(), 'x.xml', torch.zeros(1, 3, 64, 64))": "export",
    "__import__('senet.compare').compare": "train",
    "__import__('senet.training.job')": "train",
    "__import__('senet.training.evaluation')": "train",
    "__import__('senet.analysis.figures')": "report",
    "__import__('senet.analysis').analysis.paired_difference([1.0, 2.0], [2.0, 3.5])": "report",
    "recorded().to_dict()": "report",
    "__import__('senet.analysis.gate_page').analysis.gate_page.render_gates(recorded())": "report",
}
AT_THE_DOORS = """
import json, sys, warnings
import senet
import torch

network = lambda: senet.create_model("resnet50")

def recorded():
    from senet.analysis import record_gates

    net = senet.create_model("se_resnet20")
    return record_gates(net, [(torch.randn(6, 3, 32, 32), torch.arange(6) % 2)], classes="ab")

for call in json.loads(sys.argv[1]):
    try:
        print(json.dumps([call, "no error", repr(eval(call))]))
    except Exception as error:
        print(json.dumps([call, type(error).__name__, str(error)]))
"""


@pytest.fixture(scope="session")
def at_the_doors(core: Environment, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = core.run(
        *("-W", "ignore", "-c", AT_THE_DOORS, json.dumps([*DOORS])),
        cwd=tmp_path_factory.mktemp("doors"),
    )
    return {call: rest for call, *rest in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize(("call", "extra"), DOORS.items())
def test_a_door_says_what_is_missing(call: str, extra: str, at_the_doors: dict[str, Any]) -> None:
    kind, message = at_the_doors[call]

    assert kind == "MissingPackageError", message
    assert f'pip install "senet[{extra}]"' in message
    assert "\n" not in message


def test_a_misspelt_name_has_near_ones_without_any_extra(at_the_doors: dict[str, Any]) -> None:
    _, message = at_the_doors["senet.create_model('resnet5o')"]

    assert re.search(r"unknown model 'resnet5o'; did you mean: .*resnet50", message)


# What works without any extra, and what it gives.
OPEN = """
import hashlib, warnings
from pathlib import Path
import torch
import senet

model = senet.create_model("resnet20").eval()
print("resnet20" in senet.list_models(), "timm/resnet18" in senet.list_models())
senet.save_pretrained(model, "folder")
x = torch.randn(1, 3, 32, 32)
print(torch.equal(senet.from_pretrained("folder").eval()(x), model(x)))
torch.save(model.state_dict(), "weights.pth")
digest = hashlib.sha256(Path("weights.pth").read_bytes()).hexdigest()
Path("weights.pth").rename(f"resnet20-{digest[:8]}.pth")
other = senet.create_model("resnet20").eval()
senet.load_weights(other, f"resnet20-{digest[:8]}.pth")
print(torch.equal(other(x), model(x)))
"""


def test_networks_and_files_of_weights_need_no_extra(core: Environment, tmp_path: Path) -> None:
    done = core.run("-W", "ignore", "-c", OPEN, cwd=tmp_path)

    assert done.stdout == "True False\nTrue\nTrue\n", done.stderr


# A command line, the extras that are installed, and the one that is missing.
COMMANDS = [
    ("compare", (), "cli"),
    ("--help", (), "cli"),
    ("compare", ("cli",), "train"),
    ("train --recipe cifar", ("cli",), "train"),
    ("eval runs/none", ("cli",), "train"),
    ("export runs/none --format onnx", ("cli",), "train"),
    ("plan timm/resnet18", ("cli",), "timm"),
    ("cost torchvision/resnet18", ("cli",), "timm"),
    ("models 'timm/*'", ("cli",), "timm"),
]


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment as `pip install "senet[cli]"` leaves it."""
    return Environment(tmp_path_factory.mktemp("cli"), "cli")


@pytest.mark.parametrize(("line", "extras", "missing"), COMMANDS)
def test_a_command_says_what_is_missing(
    line: str,
    extras: tuple[str, ...],
    missing: str,
    core: Environment,
    command: Environment,
    tmp_path: Path,
) -> None:
    environment = command if extras else core

    done = environment.run("-m", "senet", *shlex.split(line), cwd=tmp_path)

    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    said = re.fullmatch(r"senet: error: .* needs the package \w+, .*: (pip .*)\n", done.stderr)
    assert said is not None, done.stderr
    assert said[1] == f'pip install "senet[{missing}]"'


def test_a_command_of_the_core_runs_with_the_command_alone(
    command: Environment, tmp_path: Path
) -> None:
    assert "16 sites" in command.run("-m", "senet", "plan", "resnet50", cwd=tmp_path).stdout
