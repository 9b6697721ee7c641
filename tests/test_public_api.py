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
    "find_sites",
    "from_pretrained",
    "functional",
    "insert",
    "list_models",
    "load",
    "load_weights",
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
]

# Loaded where they are used, never by `import senet`.
HEAVY = {
    "datasets",
    "huggingface_hub",
    "lightning",
    "matplotlib",
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


def test_import_loads_torch_and_nothing_heavier(root: Path) -> None:
    code = "import json, sys, senet; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(root / "src")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    loaded = set(json.loads(done.stdout))

    assert "torch" in loaded
    assert not loaded & HEAVY
