"""A file of torch.save is data: what is beside the weights is read past, and nothing is run."""

from __future__ import annotations

import argparse
import builtins
import collections
import datetime
import enum
import functools
import io
import os
import pickle
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from senet.errors import DataError
from senet.models.weights import inert
from senet.models.weights.inert import StandIn, read_torch

WEIGHTS = {"w": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2, dtype=torch.bfloat16)}


class Colour(enum.Enum):
    RED = 1


class Own:
    """A class of a training program, with every door through which a pickle could run it."""

    ran: ClassVar[list[str]] = []

    def __new__(cls, *_: object) -> Own:
        cls.ran.append("new")
        return super().__new__(cls)

    def __init__(self, value: int = 0) -> None:
        self.ran.append("init")
        self.value = value

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.ran.append("setstate")
        self.__dict__.update(state)

    def method(self) -> None: ...


class Items(dict[str, Any]):
    """A dict of a training program, as lightning's and easydict's."""


class Row(collections.namedtuple("Row", "a b")):
    pass


BESIDE: dict[str, Any] = {
    "options": argparse.Namespace(lr=0.1, resume=None),
    "number": np.float64(77.0),
    "array": np.arange(3),
    "random state": np.random.default_rng(0).bit_generator.state,
    "generator": np.random.default_rng(0),
    "dtype": np.dtype("float32"),
    "path": Path("runs/1"),
    "date": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "enum": Colour.RED,
    "key": {Colour.RED: 1},
    "set": {Own, Path},
    "default": collections.defaultdict(list, a=[1]),
    "counter": collections.Counter("aab"),
    "deque": collections.deque([1, 2]),
    "items": Items(a=1),
    "tuple": Row(1, 2),
    "own": Own(3),
    "class": Own,
    "function": os.path.join,
    "method": Own(1).method,
    "partial": functools.partial(print, "x"),
    "sparse": torch.eye(2).to_sparse(),
    "device": torch.device("cpu"),
    "size": torch.Size([1]),
    "layout": torch.strided,
    "optimizer": torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1, momentum=0.9).state_dict(),
    "module": nn.Linear(2, 2),
}


@pytest.mark.parametrize("kind", ["zip", "pickle"])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("what", BESIDE)
def test_what_is_beside_the_weights_is_read_past(
    what: str, kind: str, protocol: int, tmp_path: Path
) -> None:
    path = tmp_path / "net.pth"
    torch.save(
        {"before": BESIDE[what], "state_dict": WEIGHTS, "after": [BESIDE[what]]},
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=kind == "zip",
    )
    Own.ran.clear()

    state = read_torch(path)["state_dict"]

    assert state.keys() == WEIGHTS.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in WEIGHTS.items())
    assert Own.ran == []


def test_a_stand_in_holds_what_the_file_put_into_it(tmp_path: Path) -> None:
    torch.save({"own": Own(3), "items": Items(a=WEIGHTS)}, tmp_path / "net.pth")

    loaded = read_torch(tmp_path / "net.pth")

    assert type(loaded["own"]) is not Own
    assert isinstance(loaded["own"], StandIn)
    assert loaded["own"] == loaded["own"]
    assert loaded["own"] != loaded["items"]
    assert dict(loaded["own"]) == {"value": 3}
    assert torch.equal(loaded["items"]["a"]["w"], WEIGHTS["w"])


def test_tensors_of_every_kind_are_whole(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    attributed = nn.Parameter(torch.ones(2))
    attributed.no_decay = True  # type: ignore[attr-defined]
    tensors: dict[str, Tensor] = {
        "view": base[2:8].reshape(2, 3).t(),
        "shared": base,
        "parameter": nn.Parameter(torch.ones(3)),
        "attributed": attributed,
        "buffer": nn.Buffer(torch.ones(2)),
        "integer": torch.tensor(3),
        "empty": torch.empty(0, 4),
    }
    torch.save({"a": argparse.Namespace(), "state_dict": tensors}, tmp_path / "net.pth")

    state = read_torch(tmp_path / "net.pth")["state_dict"]

    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())
    assert state["view"].data_ptr() == state["shared"].data_ptr() + 2 * 4
    assert {type(tensor) for tensor in state.values()} == {torch.Tensor}


class OfPython2(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes texts as the bytes that they were in Python 2."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_bytes_of(self, text: str) -> None:
        data = text.encode("latin-1")
        self.write(b"U" + bytes([len(data)]) + data)
        self.memoize(text)

    dispatch[str] = save_bytes_of


@pytest.mark.parametrize("author", ["ascii", "Universit\xe9"])
def test_files_of_python_2(author: str, tmp_path: Path) -> None:
    def dump(value: object, file: Any, protocol: int = 2) -> None:
        OfPython2(file, protocol).dump(value)

    module: Any = SimpleNamespace(Pickler=OfPython2, dump=dump, __name__="python2")
    torch.save(
        {"state_dict": WEIGHTS, "author": author},
        tmp_path / "net.pth",
        pickle_module=module,
        pickle_protocol=2,
        _use_new_zipfile_serialization=False,
    )

    loaded = read_torch(tmp_path / "net.pth")

    assert loaded["author"] == author
    assert torch.equal(loaded["state_dict"]["w"], WEIGHTS["w"])


def test_a_cut_off_file_with_foreign_objects_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    for zipped in (True, False):
        torch.save({"a": Own(1), "w": torch.ones(999)}, path, _use_new_zipfile_serialization=zipped)
        data = path.read_bytes()
        for size in (60, len(data) // 3, len(data) - 20):
            path.write_bytes(data[:size])
            with pytest.raises(DataError, match=r"must be a whole file .* cut off or broken"):
                read_torch(path)


# ---- files that want to run something


class Call:
    """Pickled, it is a call of a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def written(content: Any, path: Path, kind: str) -> None:
    if kind == "bare":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")


@pytest.mark.parametrize("kind", ["zip", "pickle", "bare"])
@pytest.mark.parametrize("place", ["beside", "instead"])
@pytest.mark.parametrize(
    "function", [os.mkdir, os.system, subprocess.Popen, eval, exec, builtins.open, sys.exit]
)
def test_functions_that_act_are_refused(
    function: Any, place: str, kind: str, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    argument = {
        os.system: f"mkdir {made}",
        subprocess.Popen: ["mkdir", str(made)],
        eval: f"__import__('os').mkdir({str(made)!r})",
        exec: f"import os; os.mkdir({str(made)!r})",
    }.get(function, str(made))
    arguments = (str(made), "w") if function is builtins.open else (argument,)
    call = Call(function, *arguments)
    content = {"w": call} if place == "instead" else {"a": [{"b": call}], "state_dict": WEIGHTS}
    written(content, tmp_path / "net.pth", kind)

    with pytest.raises(
        DataError, match=r"tensors only, but asks to run .*; it was refused, and no"
    ):
        read_torch(tmp_path / "net.pth")
    assert not made.exists()


def made_by_this_file(folder: str) -> None:
    Path(folder).mkdir()


@pytest.mark.parametrize("kind", ["zip", "pickle"])
def test_other_functions_are_not_called(kind: str, tmp_path: Path) -> None:
    """Of any package that is installed: what is not called needs no list."""
    calls = [
        Call(made_by_this_file, str(tmp_path / "made")),
        Call(Path.mkdir, tmp_path / "made"),
        Call(np.save, str(tmp_path / "made"), 1),
        Call(torch.save, 1, str(tmp_path / "made")),
        Call(torch.hub.load, str(tmp_path), "made"),
        Call(getattr, Path(), "cwd"),
        Call(functools.partial(made_by_this_file, str(tmp_path / "made"))),
    ]
    written({"state_dict": WEIGHTS, "calls": calls}, tmp_path / "net.pth", kind)

    loaded = read_torch(tmp_path / "net.pth")

    assert torch.equal(loaded["state_dict"]["w"], WEIGHTS["w"])
    assert all(isinstance(call, StandIn) for call in loaded["calls"])
    assert [path.name for path in tmp_path.iterdir()] == ["net.pth"]


def test_no_name_of_a_file_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every module that is loaded, and of one that is not."""
    unpickler = inert._Unpickler(io.BytesIO(b""))
    monkeypatch.setattr(builtins, "__import__", lambda *_: pytest.fail("an import"))
    names = [(name, each) for name, module in [*sys.modules.items()] for each in [*vars(module)]]
    assert len(names) > 10_000

    for module, name in [*names, ("not_loaded", "name"), ("torch.nn", "Module.forward")]:
        try:
            loaded = unpickler.find_class(module, name)
        except pickle.UnpicklingError:
            continue  # refused
        if isinstance(loaded, inert._Called):
            assert f"{module}.{name}" in inert._CALLED
        else:
            assert issubclass(loaded, StandIn)
            assert vars(loaded).keys() <= {"__module__", "__doc__", "asked"}


@pytest.mark.parametrize("state", [b"}", b"N}\x86"], ids=["attributes", "slots"])
def test_functions_of_the_table_cannot_be_changed(state: bytes, tmp_path: Path) -> None:
    build = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + state + b"b."
    with pytest.raises(pickle.UnpicklingError, match="cannot be given a state"):
        inert._Unpickler(io.BytesIO(build)).load()
    (tmp_path / "net.pth").write_bytes(build)
    with pytest.raises(DataError, match="cut off or broken"):
        read_torch(tmp_path / "net.pth")


def test_every_way_of_a_pickle_to_make_an_object_makes_a_stand_in() -> None:
    """REDUCE, INST, OBJ, NEWOBJ and STACK_GLOBAL with a class that would tell."""
    where = f"{Own.__module__}\nOwn\n".encode()
    length = bytes([len(Own.__module__)])
    ways = [
        b"c" + where + b")R.",
        b"(i" + where + b".",
        b"(c" + where + b"o.",
        b"c" + where + b")\x81.",
        b"\x80\x04\x8c" + length + Own.__module__.encode() + b"\x8c\x03Own\x93)\x81.",
    ]
    Own.ran.clear()
    for way in ways:
        assert isinstance(inert._Unpickler(io.BytesIO(way)).load(), StandIn)
    assert Own.ran == []


def test_torch_never_runs_a_program_for_this_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.load hands TorchScript and tar files to other readers; the first look refuses both."""
    script = tmp_path / "script.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Linear(1, 1), torch.ones(1)), script)
    with tarfile.open(tmp_path / "tar.pth", "w") as archive:
        archive.add(__file__, "storages")
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("a program was loaded"))
    monkeypatch.setattr(tarfile.TarFile, "extract", lambda *_, **__: pytest.fail("extracted"))

    for path in (script, tmp_path / "tar.pth"):
        with pytest.raises(DataError):
            read_torch(path)


def test_a_user_who_forbids_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"state_dict": WEIGHTS, "args": argparse.Namespace()}, tmp_path / "net.pth")
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")

    with pytest.raises(DataError, match="TORCH_FORCE_WEIGHTS_ONLY_LOAD forbids to read past that"):
        read_torch(tmp_path / "net.pth")
