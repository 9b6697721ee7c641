"""A file is written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from senet.errors import MissingPackageError, first_line, optional
from senet.files import write_text, write_whole


def test_a_file_is_there_with_its_content_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "a.txt", "é")

    assert (tmp_path / "new" / "a.txt").read_bytes() == "é".encode()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "before")

    def fails(partial: Path) -> None:
        partial.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left") as raised:
        write_whole(path, fails)

    assert raised.value.filename == str(path)
    assert path.read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


def test_the_umask_decides_who_may_read(tmp_path: Path) -> None:
    def private(partial: Path) -> None:
        partial.write_text("x")
        partial.chmod(0o600)

    before = os.umask(0o022)
    try:
        write_whole(tmp_path / "a", private)
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_a_package_of_no_extra_is_no_missing_option() -> None:
    with pytest.raises(ModuleNotFoundError) as raised, optional("this"):
        raise ModuleNotFoundError("No module named 'left_pad'", name="left_pad")

    assert not isinstance(raised.value, MissingPackageError)


def test_the_first_line_of_an_error() -> None:
    assert first_line(ValueError("a\nb")) == "a"
    assert first_line(ValueError()) == "ValueError"
