"""Each command answers, and says in one line what the user can mend."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from senet.cli import main
from senet.cli.commands import app
from senet.cli.result_tables import result_table, show_result
from senet.cli.terminal import showing_progress
from senet.errors import SenetError
from training.tiny import image_folder


def ran(*arguments: str) -> str:
    """What a command prints that ends well."""
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The line that `senet` ends with."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    out, err = capsys.readouterr()
    assert (end.value.code, err.count("\n")) == (2, 1)
    assert all(line.startswith(("reading ", "exporting ")) for line in out.splitlines())  # progress
    return err


# ---- cost, plan, models


def test_cost_prints_a_table() -> None:
    printed = ran("cost", "resnet20", "--no-timing")

    assert "269,722" in printed
    assert "+2,373" in printed


def test_cost_prints_json() -> None:
    report = json.loads(ran("cost", "resnet20", "--no-timing", "--json", "--batch", "2"))

    assert report["input"] == [[2, 3, 32, 32]]
    assert report["total"]["difference"]["parameters"] == 2373


def test_cost_prints_markdown_of_the_blocks_asked_for() -> None:
    printed = ran(
        *("cost", "resnet20", "--no-timing", "--markdown", "--reduction", "8", "--stages", "2"),
        *("--image-size", "16", "--classes", "5"),
    )

    # three blocks of 64 channels with 8 hidden units
    assert f"{3 * (2 * 64 * 8 + 64 + 8):+,}" in printed
    assert "| --- |" in printed or "|---|" in printed


def test_plan_lists_the_sites() -> None:
    printed = ran("plan", "resnet20", "--integration", "pre")

    assert "layer1.0" in printed
    assert "9 sites" in printed


def test_models_are_found_by_pattern_and_by_part() -> None:
    assert ran("models", "resnet20").splitlines()[0] == "resnet20"
    assert ran("models", "resnet1?0").splitlines()[:1] == ["resnet110"]
    assert "torchvision/resnet50" in ran("models", "resnet50").splitlines()
    assert len(ran("models").splitlines()) > 1000


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("cost", "resnet2"), "unknown model 'resnet2'; did you mean: "),
        (("plan", "resnet21"), "unknown model 'resnet21'; did you mean: "),
        (("models", "resnot20"), "unknown model 'resnot20'; did you mean: resnet20"),
        (("cost", "resnet20", "--batch", "0"), "--batch must be at least 1, got 0"),
        (("plan", "resnet20", "--stages", "a"), "--stages must be numbers such as 3,4, got 'a'"),
        (("convert", ".", "net.safetensors"), ". holds neither a run nor a saved network"),
        (("train", "--data", "wds/no"), "the folder of wds/no does not exist: no"),
        (("plan", "resnet20", "--reduction", "0"), "reduction must be a positive number"),
        (("compare", "--data", "digit"), "unknown data 'digit'; did you mean: digits?"),
        (("compare", "--data", "no/such"), "the image folder no/such does not exist"),
        (("compare", "--model", "resnet2"), "unknown model 'resnet2'; did you mean: "),
        (("compare", "--epochs", "0"), "epochs must be a whole number of at least 1, got 0"),
        (("compare", "--init", "zero"), "unknown init 'zero'"),
        (
            ("compare", "--model", "torchvision/vgg11", "--image-size", "8"),
            "torchvision/vgg11 cannot take images of 1x8x8: ",
        ),
    ],
)
def test_mistake_gives_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: tuple[str, ...],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)

    assert refused(capsys, *arguments).startswith(f"senet: error: {line}")
    assert list(tmp_path.iterdir()) == []


def test_every_error_of_the_library_becomes_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise SenetError("two\n  lines")

    monkeypatch.setattr("senet.models.list_models", broken)

    assert refused(capsys, "models") == "senet: error: two lines\n"


def test_a_full_disk_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "run.json")

    monkeypatch.setattr("senet.models.list_models", full)
    line = "senet: error: run.json: No space left on device; mend that, or name another place\n"
    assert refused(capsys, "models") == line


def test_usage_is_explained() -> None:
    result = CliRunner().invoke(app, ["compare", "--no-such-option"])

    assert result.exit_code == 2


# ---- compare

QUICK = ("--seeds", "1", "--epochs", "1", "--batch-size", "8", "--no-timing", "--device", "cpu")


@pytest.fixture(scope="module")
def image_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("data") / "images")


def test_compare_prints_the_table_and_the_report(image_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    printed = ran(
        *("compare", "--data", str(image_root), "--image-size", "8", "--out", str(out)),
        *("--reduction", "4", "--augmentation", "none", *QUICK),
    )

    assert "test accuracy, %" in printed
    assert "one seed: no interval, no verdict" in printed
    assert f"report: {out / 'report.html'}" in printed.replace("\n", "")
    result = json.loads((out / "results.json").read_text())
    assert result["config"]["se"]["reduction"] == 4
    assert result["config"]["augmentation"] == "none"
    assert result["cost"]["total"]["plain"]["latency_ms"] is None
    assert result["command"].split()[0] == "senet"

    again = CliRunner().invoke(
        app, ["compare", "--data", str(image_root), "--out", str(out), *QUICK]
    )
    assert "out must be a new or an empty folder" in str(again.exception)


def started(image_root: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    source = Path(__file__).resolve().parents[2] / "src"
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "senet", "compare", "--data", str(image_root)),
            *("--image-size", "8", "--out", str(out), "--seeds", "1", "--batch-size", "8"),
            *("--no-timing", "--device", "cpu", *more),
        ],
        env={**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    raise TimeoutError(path)


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_interrupt_keeps_what_is_there_and_says_how_to_go_on(
    image_root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = started(image_root, out, "--epochs", "1000")
    wait_for(out / "runs" / "plain-seed0" / "history.json", process)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=120)

    assert process.returncode == 130, printed
    assert "interrupted; go on with: senet compare " in printed
    assert printed.strip().endswith("--resume")
    assert "Traceback" not in printed
    result = json.loads((out / "results.json").read_text())
    assert result["state"] == result["runs"][0]["state"] == "partial"
    assert (out / "report.html").exists()


def test_interrupt_before_the_first_step_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("senet.compare.comparison.load_data", interrupted)
    result = CliRunner().invoke(app, ["compare", "--out", str(tmp_path / "out")])

    assert result.exit_code == 130
    assert "interrupted before the first step; nothing was written" in result.stderr
    assert not (tmp_path / "out").exists()


# ---- the table and the progress

RESULT: dict[str, Any] = {
    "config": {"model": "resnet20"},
    "data": {"name": "digits"},
    "summary": {
        "arms": {
            "plain": {"mean": 0.9, "std": 0.01, "n": 3},
            "se": {"mean": 0.92, "std": None, "n": 1},
        },
        "differences": [
            {
                "arm": "se",
                "against": "plain",
                "difference": {"mean": 0.02, "low": -0.01, "high": 0.05}
                | {"n": 3, "confidence": 0.95},
                "verdict": "no significant difference on 3 seeds",
            }
        ],
        "verdict": "no significant difference on 3 seeds",
    },
    "cost": {
        "input": [[64, 1, 8, 8]],
        "total": {
            "plain": {"parameters": 1000, "macs": 2e6, "bytes_kept": 3e6, "step_ms": None},
            "se": {"parameters": 1010, "macs": 2.5e6, "bytes_kept": 3e6, "step_ms": None},
            "difference": {"parameters": 10, "macs": 5e5, "bytes_kept": 0, "step_ms": None},
            "ratio": {"parameters": 1.01, "macs": 1.25, "bytes_kept": 1.0, "step_ms": None},
        },
    },
}


def printed_table(result: dict[str, Any]) -> list[list[str]]:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(result_table(result))
    lines = console.export_text().splitlines()
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]


def test_table_shows_percent_and_differences() -> None:
    assert printed_table(RESULT) == [
        ["test accuracy, %", "90.00 ± 1.00", "92.00", "+2.00", ""],
        ["95 % interval", "", "", "[-1.00, +5.00]", ""],
        ["parameters", "1,000", "1,010", "+10", "1.0100"],
        ["multiply-adds, M", "2.000", "2.500", "+0.500", "1.2500"],
        ["kept for backward, MB", "3.00", "3.00", "+0.00", "1.0000"],
    ]


def test_table_of_an_interrupted_comparison_has_gaps() -> None:
    open_ = {"arm": "se", "against": "plain", "difference": None, "verdict": "no seed has both"}
    summary = {"arms": {"plain": None, "se": None}, "differences": [open_]}

    assert printed_table(RESULT | {"summary": summary, "cost": None}) == [
        ["test accuracy, %", "-", "-", "-", ""]
    ]


def test_table_of_three_arms() -> None:
    gap = {"mean": 0.01, "low": 0.004, "high": 0.016, "n": 3, "confidence": 0.95}
    pairs = (("se", "plain", gap), ("constant", "plain", None), ("se", "constant", gap))
    differences = [{"arm": a, "against": b, "difference": d} for a, b, d in pairs]
    arms = RESULT["summary"]["arms"] | {"constant": None}
    rows = printed_table(RESULT | {"summary": {"arms": arms, "differences": differences}})

    assert rows[:3] == [
        ["test accuracy, %", "90.00 ± 1.00", "92.00", "-", "+1.00", "-", "+1.00", ""],
        ["95 % interval", "", "", "", "[+0.40, +1.60]", "", "[+0.40, +1.60]", ""],
        ["parameters", "1,000", "1,010", "", "+10", "", "", "1.0100"],
    ]


def test_result_names_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    show_result(Console(width=80), RESULT, Path("a" * 100) / "report.html")

    assert f"report: {'a' * 100}/report.html" in capsys.readouterr().out


@pytest.mark.parametrize("terminal", [False, True])
def test_progress(terminal: bool, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(force_terminal=terminal, width=100)
    with showing_progress(console) as tell:
        tell("reading train images", 10, 20)
        tell("plain, seed 1/3, epoch 1/2", 1, 30)
        tell("plain, seed 1/3, epoch 1/2: train loss 0.5000", 15, 30)
        tell("plain, seed 1/3, epoch 2/2, loss 0.5", 16, 30)
        tell("SE, seed 1/3, epoch 1/2", 16, 30)
    printed = capsys.readouterr().out

    if terminal:
        assert "SE, seed 1/3, epoch 1/2" in printed
        assert "53 %" in printed
    else:
        assert printed.splitlines() == [
            "reading train images",
            "plain, seed 1/3",
            "plain, seed 1/3, epoch 1/2: train loss 0.5000",
            "SE, seed 1/3",
        ]


def test_help_names_the_commands_and_the_script_is_declared(root: Path) -> None:
    printed = ran("--help")

    for command in ("compare", "cost", "plan", "models", "export"):
        assert command in printed
    assert 'senet = "senet.__main__:main"' in (root / "pyproject.toml").read_text()
