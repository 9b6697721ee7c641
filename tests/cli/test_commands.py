"""`senet`, `senet plan` and `senet convert`: what they refuse, and how."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from senet import __version__, create_model
from senet.cli import main
from senet.cli.commands import app


def test_a_plan_without_a_site_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(("plan", "resnet20", "--stages", "9"))
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert "looked at 73 module calls" in out
    assert err == (
        "senet: error: resnet20 has no place for an SE block with these options; loosen them\n"
    )


def test_the_version_is_said() -> None:
    answer = CliRunner().invoke(app, ["--version"])
    assert (answer.exit_code, answer.output) == (0, f"senet {__version__}\n")


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from senet import __version__, create_model
from senet.cli import main
main(["convert", sys.argv[1], sys.argv[2]])
"""


@pytest.mark.skipif(os.name == "nt", reason="limits the size of files")
def test_a_disk_that_is_full_in_convert_is_one_line(tmp_path: Path) -> None:
    torch.save(create_model("resnet20").state_dict(), tmp_path / "net.pth")
    out = tmp_path / "net.safetensors"
    answer = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "net.pth"), str(out)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 2
    assert answer.stderr == (
        f"senet: error: {out}: File too large; mend that, or name another place\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["net.pth"]
