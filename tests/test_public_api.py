"""What `import senet` promises: these names, documented, and nothing heavy loaded."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import senet

# The snapshot: a change here is a change for users, with a line in CHANGELOG.md.
PUBLIC = [
    "CostReport",
    "Deployment",
    "ExportReport",
    "FoldPlan",
    "Folding",
    "InsertionReport",
    "SEBatchNorm1d",
    "SEBatchNorm2d",
    "SEBatchNorm3d",
    "SEConfig",
    "SEParameters",
    "SESyncBatchNorm",
    "SenetError",
    "Site",
    "SitePlan",
    "SqueezeExcitation",
    "backbone",
    "backend",
    "convert_sync_batchnorm",
    "convert_weights",
    "cost",
    "create_model",
    "deploy",
    "export",
    "find_folds",
    "find_sites",
    "fold",
    "from_pretrained",
    "functional",
    "insert",
    "list_models",
    "load",
    "load_exported",
    "load_weights",
    "mask_padding",
    "preprocessing",
    "push_to_hub",
    "register_with_timm",
    "remove",
    "save",
    "save_pretrained",
    "se_modules",
    "se_parameters",
    "set_backend",
    "use_backend",
    "warm_up",
]

# Loaded where they are used, never by `import senet`.
HEAVY = {
    "datasets",
    "huggingface_hub",
    "lightning",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "openvino",
    "pandas",
    "pyarrow",
    "rich",
    "safetensors",
    "scipy",
    "sklearn",
    "timm",
    "torchmetrics",
    "torchvision",
    "typer",
}

# Rooms that only their own names load.
LAB = ("analysis", "cli", "compare", "models", "slim", "training")


def test_names_are_those_of_the_snapshot() -> None:
    assert sorted(senet.__all__) == PUBLIC


@pytest.mark.parametrize("name", sorted(senet.__all__))
def test_name_exists_and_has_a_docstring(name: str) -> None:
    thing = getattr(senet, name)

    assert (inspect.getdoc(thing) or "").strip(), f"senet.{name} has no docstring"
    # A dataclass without a docstring gets its signature for one.
    assert not (inspect.getdoc(thing) or "").startswith(f"{name}(")


@pytest.mark.parametrize("name", sorted(senet.__all__))
def test_name_is_in_the_pages(name: str, root: Path) -> None:
    pages = [*root.glob("README.md"), *(root / "docs").rglob("*.md")]
    mention = re.compile(rf"(senet\.|`){name}\b")

    assert any(mention.search(page.read_text()) for page in pages), (
        f"senet.{name} is public and stands in no page; describe it in docs/"
    )


def test_no_call_swallows_a_misspelt_option() -> None:
    for name in senet.__all__:
        thing = getattr(senet, name)
        is_error = inspect.isclass(thing) and issubclass(thing, Exception)
        if callable(thing) and not is_error:
            kinds = [parameter.kind for parameter in inspect.signature(thing).parameters.values()]
            assert inspect.Parameter.VAR_KEYWORD not in kinds, f"senet.{name} takes **options"


def run(root: Path, code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(root / "src")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout


def test_import_loads_torch_and_nothing_heavier(root: Path) -> None:
    loaded = set(
        json.loads(run(root, "import json, sys, senet; print(json.dumps(sorted(sys.modules)))"))
    )

    assert "torch" in loaded
    assert not loaded & HEAVY
    assert not loaded & {f"senet.{room}" for room in LAB}


def test_a_name_of_the_lab_loads_its_room_when_it_is_first_used(root: Path) -> None:
    printed = run(
        root,
        "import sys, senet\n"
        "print('create_model' in dir(senet), 'senet.models' in sys.modules)\n"
        "from senet import create_model\n"
        "print(senet.create_model is create_model, 'senet.models' in sys.modules)\n"
        "print(hasattr(senet, 'no_such_name'))",
    )

    assert printed.split() == ["True", "False", "True", "True", "False"]


def test_type_checkers_see_the_names_of_the_lab(root: Path, tmp_path: Path) -> None:
    """And no others: a misspelt name is an error for them."""
    program = tmp_path / "program.py"
    program.write_text("import senet\nreveal_type(senet.create_model)\nsenet.no_such_name\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", str(program)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert "Revealed type is" in done.stdout
    assert "torch.nn.modules.module.Module" in done.stdout
    assert 'Module has no attribute "no_such_name"' in done.stdout
