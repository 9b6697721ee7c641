"""A small core and a lab in extras: what is declared, and what runs with the core alone."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import architecture
from environments import ROOT, Environment, project, requirements
from senet.errors import _EXTRAS
from test_pages import same_output

# An import name whose package has another one.
PUBLISHED_AS = {
    "PIL": "pillow",
    "huggingface_hub": "huggingface-hub",
    "sklearn": "scikit-learn",
    "torch_pruning": "torch-pruning",
    "yaml": "pyyaml",
}
DEVELOPMENT = {"dev", "docs"}
# The extra that a room needs to be whole; one file has an extra of its own.
EXTRA_OF_FILE = {"training/loop/loggers.py": "loggers"}
EXTRA_OF_ROOM = {
    "analysis": "report",
    "cli": "cli",
    "compare": "train",
    "detection": "detect",
    "slim": "slim",
    "training": "train",
}


def extras() -> dict[str, list[Requirement]]:
    tables = project()["optional-dependencies"]
    return {extra: [Requirement(line) for line in lines] for extra, lines in tables.items()}


def test_the_core_is_torch_and_safetensors() -> None:
    assert [Requirement(line).name for line in project()["dependencies"]] == [
        "safetensors",
        "torch",
    ]


def test_each_package_is_in_the_extra_that_its_error_names() -> None:
    named = {PUBLISHED_AS.get(package, package): extra for package, extra in _EXTRAS.items()}
    declared = [
        (each.name, extra)
        for extra, wanted in extras().items()
        for each in wanted
        if extra not in DEVELOPMENT and each.name != "senet"
    ]

    assert sorted(declared) == sorted(named.items())


def test_what_is_imported_is_declared(root: Path) -> None:
    """A package that is imported is a dependency by itself, not by the grace of another one."""
    used = {each.target.split(".")[0] for each in architecture.imports(root / "src" / "senet")}
    used -= architecture.EVERYWHERE | {"safetensors"}

    assert "timm" in used
    assert used <= set(_EXTRAS)


def test_an_extra_brings_what_its_rooms_import(root: Path) -> None:
    missing = []
    for each in architecture.imports(root / "src" / "senet"):
        library = each.target.split(".")[0]
        room = each.importer[0] if each.importer else ""
        extra = EXTRA_OF_FILE.get(each.where.partition(":")[0], EXTRA_OF_ROOM.get(room))
        if extra and library in _EXTRAS:
            brought = {needed.name for needed in requirements(extra)}
            if PUBLISHED_AS.get(library, library) not in brought:
                missing.append(f"{each.where}: senet[{extra}] lacks {library}")

    assert missing == []


def test_all_is_every_extra_of_users() -> None:
    (everything,) = extras()["all"]

    assert everything.name == "senet"
    assert everything.extras == set(extras()) - DEVELOPMENT - {"all"}


def test_the_lock_pins_what_is_declared(root: Path) -> None:
    lines = (root / "requirements.lock").read_text().splitlines()
    pins = re.findall(r"^([a-z0-9-]+)==([^\s;]+)", "\n".join(lines), re.MULTILINE)

    for needed in requirements(*DEVELOPMENT):
        versions = [version for name, version in pins if name == needed.name]
        assert versions, f"{needed.name} is not in requirements.lock; run make lock"
        assert all(map(needed.specifier.contains, versions))


def test_every_dependency_has_its_reason(root: Path) -> None:
    page = (root / "docs" / "dependencies.md").read_text()
    rows = re.findall(r"^\| ([a-z0-9-]+) \| ([a-z]*) ?\| .", page, re.MULTILINE)

    wanted = [(Requirement(line).name, "") for line in project()["dependencies"]]
    wanted += [(each.name, extra) for extra, packages in extras().items() for each in packages]
    assert sorted(row for row in rows if row[0] != "package") == sorted(
        each for each in wanted if each[0] != "senet"
    )


CORE = """
import sys
import torch
import senet
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
    nn.Conv2d(16, 32, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4),
)
x = torch.randn(4, 3, 16, 16)
keys = list(model.state_dict())
before = model.eval()(x)
print("planned", len(senet.find_sites(model, x)))
senet.insert(model, x)
print("equal", torch.equal(model(x), before))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
nn.functional.cross_entropy(model.train()(x), torch.arange(4)).backward()
optimizer.step()
after = model.eval()(x)
print("trained", not torch.equal(after, before))
senet.save(model, "network")
print("cost", senet.cost(model, x, repeats=1, warmup=0).total.difference("parameters"))
senet.remove(model)
print("removed", list(model.state_dict()) == keys)
senet.load(model, "network")
print("loaded", torch.equal(model(x), after))
print("hidden", sorted({"timm", "torchvision", "lightning", "typer"} & set(sys.modules)))
"""


def test_the_core_runs_on_torch_and_safetensors(core: Environment, tmp_path: Path) -> None:
    for hidden in ("timm", "torchvision", "huggingface_hub", "scipy", "yaml", "rich"):
        assert not (core.site / hidden).exists()

    done = core.run("-W", "error", "-c", CORE, cwd=tmp_path)

    assert done.stdout.splitlines() == [
        "planned 2",
        "equal True",
        "trained True",
        # per block: C = 16, 32 with hidden = 1, 2: 2 C hidden + hidden + C
        f"cost {(32 + 1 + 16) + (128 + 2 + 32)}",
        "removed True",
        "loaded True",
        "hidden []",
    ], done.stderr


FIRST_LINES = re.compile(r"^```python\n(.*?)^```\n+```text\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from what a clone holds: nothing comes from an earlier build."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(folder))
    (built,) = folder.glob("*.whl")
    return built


def pip(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--no-input", *arguments],
        check=True,
        timeout=240,
    )


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    package = ROOT / "src" / "senet"
    files = {
        f"senet/{path.relative_to(package)}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}

    assert "senet/py.typed" in files
    assert held == files


def test_the_first_lines_of_the_readme_run_where_only_the_wheel_is_installed(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")  # as without a C++ compiler, and cheaper
    environment = Environment(tmp_path / "environment")
    pip("install", "--no-deps", "--target", str(environment.site), str(wheel))
    first = FIRST_LINES.search((ROOT / "README.md").read_text())
    assert first is not None
    code, printed = first.groups()
    assert len(code.splitlines()) <= 10

    done = environment.run("-c", code, cwd=tmp_path, source=False)
    assert same_output(done.stdout, printed), f"{done.stdout}{done.stderr}"
    assert "senet[cli]" in environment.run("-m", "senet", cwd=tmp_path, source=False).stderr
