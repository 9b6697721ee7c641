"""Which backend runs, why, and what is said about it."""

from __future__ import annotations

import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from ops.cases import needs_compiler, problem, recalibrate
from senet import ops
from senet.errors import UnknownNameError
from senet.ops import backends, inductor, native


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(backends, "_warned", set())
    monkeypatch.setattr(inductor, "_missing", lambda device: None)
    ops.set_backend("auto")
    yield
    ops.set_backend("auto")


def runs(*shape: int, training: bool = True) -> str:
    return backends.choose(torch.empty(shape), training=training).name


def test_auto_compiles_for_training_on_maps_that_are_worth_it():
    assert runs(8, 256, 28, 28) == "inductor"
    assert runs(2, 16, 8, 8) == "reference"
    assert runs(1, 256, 56, 56, training=False) == "reference"
    assert runs(2, 256, 56, 56, training=False) == "inductor"
    assert (
        backends.choose(torch.empty(8, 256, 28, 28, device="meta"), training=True).name == "eager"
    )


def test_auto_without_a_compiler_warns_once_and_says_why(monkeypatch):
    monkeypatch.setattr(inductor, "_missing", lambda device: "there is no C++ compiler 'g++'")
    with pytest.warns(RuntimeWarning, match=r"'reference', not 'inductor': there is no C"):
        assert runs(8, 256, 28, 28) == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert runs(8, 256, 28, 28) == "reference"
        assert (
            str(ops.backend()) == "reference (in place of inductor: there is no C++ compiler 'g++')"
        )


def test_a_choice_holds_until_the_next_and_a_block_of_code_ends():
    ops.set_backend("reference")
    assert runs(8, 256, 28, 28) == "reference"
    with ops.use_backend("inductor"):
        assert runs(2, 3, 4, 4) == "inductor"
        with ops.use_backend("eager"):
            assert ops.backend().name == "eager"
    assert ops.backend().requested == ops.backend().name == "reference"


def test_a_block_of_code_ends_with_an_error_too():
    with pytest.raises(KeyError), ops.use_backend("eager"):
        raise KeyError
    assert ops.backend().requested == "auto"


def test_an_unknown_backend_is_refused_before_anything_changes():
    with pytest.raises(UnknownNameError, match="backend 'inducter'; did you mean: inductor"):
        ops.set_backend("inducter")
    assert ops.backend().requested == "auto"


def test_the_report_names_backend_reason_and_compilation():
    report = ops.backend()
    assert (report.name, report.requested) == ("inductor", "auto")
    assert str(report).startswith("inductor (auto: for maps with statistics of the batch from")
    assert ops.backend("cuda").name == "inductor"


def test_a_failed_compilation_warns_once_and_the_result_is_right(monkeypatch):
    broken = inductor.Inductor()

    def fail(*_, **__):
        raise RuntimeError("no such instruction\nmore")

    monkeypatch.setattr(inductor, "_compile", fail)
    monkeypatch.setattr(backends, "INDUCTOR", broken)
    p = problem((2, 3, 4, 4))
    with ops.use_backend("inductor"):
        with pytest.warns(RuntimeWarning, match="Inductor failed: no such instruction. To"):
            y = recalibrate(p, fast=True)
        torch.testing.assert_close(y, recalibrate(p, fast=False))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            y.backward(p.grad)
            recalibrate(p, fast=True)
            assert ops.backend().name == "reference"


def test_the_backward_runs_on_the_backend_of_the_forward(monkeypatch):
    called = []
    monkeypatch.setattr(
        backends.INDUCTOR,
        "run",
        lambda stage, *a, **k: called.append(stage) or backends.plain(stage, *a, **k),
    )
    p = problem((2, 3, 4, 4))
    with ops.use_backend("inductor"):
        y = recalibrate(p, fast=True)
    before = len(called)
    with ops.use_backend("reference"):
        y.backward(p.grad)
    assert len(called) > before


@needs_compiler
def test_the_operator_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    native.NATIVE.ready()

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(subprocess, "run", never)
    assert native.Native().ready()


@needs_compiler
def test_without_the_operator_there_is_a_warning_and_inductor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "native.cpp"
    broken.write_text("#error not for this machine\n")
    monkeypatch.setattr(native, "SOURCE", broken)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    tried = native.Native()
    with pytest.warns(RuntimeWarning, match="small maps by Inductor.* was not built: "):
        assert not tried.ready()
    assert not tried.ready()
    assert "not for this machine" in str(tried.broken)
    assert not list(tmp_path.rglob("*.so"))
    monkeypatch.setattr(backends, "NATIVE", tried)
    ops.set_backend("native")
    report = ops.backend()
    assert report.name == "inductor"
    assert "not for this machine" in report.reason
