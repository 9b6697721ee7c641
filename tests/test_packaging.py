"""A small core and a lab in extras: what is declared, and what runs with the core alone."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.requirements import Requirement

import architecture
from environments import project, requirements
from senet.errors import _EXTRAS

# An import name whose package has another one.
PUBLISHED_AS = {
    "PIL": "pillow",
    "google": "protobuf",
    "huggingface_hub": "huggingface-hub",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
DEVELOPMENT = {"dev", "docs"}
# The extra that a room needs to be whole.
EXTRA_OF_ROOM = {
    "analysis": "report",
    "cli": "cli",
    "compare": "train",
    "detection": "detect",
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
        if room in EXTRA_OF_ROOM and library in _EXTRAS:
            brought = {needed.name for needed in requirements(EXTRA_OF_ROOM[room])}
            if PUBLISHED_AS.get(library, library) not in brought:
                missing.append(f"{each.where}: senet[{EXTRA_OF_ROOM[room]}] lacks {library}")

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
