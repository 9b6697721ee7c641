"""Reads a file of torch.save as data: its tensors, plain containers, and stand-ins for the rest.

`torch.load(weights_only=True)` refuses a whole file for one object beside the weights, such as the
options of the training program or a number of NumPy. Here such an object becomes a `StandIn`, which
holds what the file put into it. No name of a file is ever looked up: what a file may call is the
table `_CALLED`, functions that make a tensor of its memory, and nothing else. Names whose only use
in such a file is to act on the machine are refused aloud, so that a file with a payload is not
taken for an ordinary one. Why this is safe: docs/adr/0012-foreign-checkpoints.md.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import torch
from torch import Tensor

from senet.errors import DataError, first_line

__all__ = ["StandIn", "read_torch"]

# Modules and builtins of Python that act on the machine, and that no object of a checkpoint needs.
_ACTING = re.compile(
    r"(os|posix|nt|sys|subprocess|shutil|socket|ctypes|runpy|importlib|pty|commands|webbrowser)\..*"
    r"|(builtins|__builtin__|io|_io)\.(eval|exec|execfile|compile|open|file|input|breakpoint|__import__)"
)


# What a pickle of a module with inserted blocks wraps the module's state in: see graft.py there.
_INSERTED = "senet.insertion.graft._State"


class _RefusedError(pickle.UnpicklingError):
    """A file asks for a function that acts on the machine."""


class _ForeignError(pickle.UnpicklingError):
    """A file is a pickle, but not of torch.save."""


class StandIn(dict[Any, Any]):
    """An object of a class that is not looked up: what the file put into it, and no behaviour."""

    asked = ""  # for what: the name in the file
    dump_patches = False  # torch asks for it where a file holds the source of a class

    def __hash__(self) -> int:  # type: ignore[override] # a file may have it as a key
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __new__(cls, *_: object, **__: object) -> StandIn:  # noqa: D102
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def __call__(self, *_: object, **__: object) -> StandIn:  # noqa: D102
        return StandIn()

    def __setstate__(self, state: object) -> None:
        if isinstance(state, StandIn) and state.asked == _INSERTED:
            self.__setstate__(state.get("base"))
            blocks, modules = state.get("blocks"), self.setdefault("_modules", {})
            if isinstance(blocks, dict) and isinstance(modules, dict):
                modules.update(blocks)
            return
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.update(part)

    def ignore(self, *_: object) -> None:
        """Take the items of a list or a set."""

    append = extend = add = ignore


class _Called:
    """A function that is called for a file, and that the file cannot change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: object) -> NoReturn:
        raise pickle.UnpicklingError("a function cannot be given a state")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: object) -> Tensor:
    """Return a tensor on memory of the file, without the gradient's flag and without hooks."""
    if isinstance(storage, StandIn):  # pickle.dump writes the memory of a tensor as a call of torch
        raise _ForeignError
    rebuilt: Tensor = torch._utils._rebuild_tensor(  # type: ignore[no-untyped-call]
        storage, offset, size, stride
    )
    return rebuilt


def _first(tensor: Tensor, *_: object) -> Tensor:
    return tensor


def _of_type(function: Callable[..., Tensor], _kind: object, args: Any, *_: object) -> Tensor:
    return function(*args)


# All that a file can call. The names are those that torch writes.
_CALLED: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch._tensor._rebuild_from_type": _of_type,
    "torch._tensor._rebuild_from_type_v2": _of_type,
}


class _Unpickler(pickle.Unpickler):
    """The Unpickler of Python that finds nothing but `_CALLED` and stand-ins."""

    def find_class(self, module: str, name: str) -> Any:
        asked = f"{module}.{name}"
        if asked in _CALLED:
            return _Called(_CALLED[asked])
        if _ACTING.fullmatch(asked):
            raise _RefusedError(asked)
        return type("StandIn", (StandIn,), {"__module__": __name__, "asked": asked})


# What torch.load takes for the module pickle: its Unpickler, and a load for the values in front.
_PICKLE: Any = SimpleNamespace(
    __name__=__name__,
    Unpickler=_Unpickler,
    load=lambda file, **options: _Unpickler(file, **options).load(),
)


def read_torch(path: Path) -> Any:
    """Return what a file of `torch.save` holds, without running anything in it.

    torch reads it first and decides what kind of file it is. Only where its restricted unpickler
    refuses an object, or a text of Python 2, is the file read again with stand-ins.

    Raises:
        DataError: the file is cut off or broken, not of `torch.save`, or asks for a function that
            acts on the machine.
    """
    with path.open("rb") as file:
        mapped = file.read(2) == b"PK"
    options: dict[str, Any] = {"map_location": "cpu", "mmap": mapped}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice to who saved the file
            try:
                return torch.load(path, weights_only=True, **options)
            except (pickle.UnpicklingError, UnicodeDecodeError):
                options |= {"pickle_module": _PICKLE, "encoding": "latin1"}  # bytes of Python 2
                return torch.load(path, weights_only=False, **options)
    except _RefusedError as error:
        raise DataError(
            f"{path} must hold tensors only, but asks to run {error}; it was refused, and "
            "nothing of it was run. If you trust where it comes from, save its state dict again"
        ) from error
    except Exception as error:
        raise _damage(path, error) from error


def _damage(path: Path, error: Exception) -> DataError:
    text = first_line(error)[:200]
    if "explicit pickle_module" in text:
        return DataError(
            f"{path} holds more than tensors, and TORCH_FORCE_WEIGHTS_ONLY_LOAD forbids to read "
            "past that; unset it for this file: nothing in it is run"
        )
    if isinstance(error, _ForeignError) or "magic number" in text:
        return DataError(
            f"{path} must be a file of torch.save, but is a pickle of another program; "
            "save its tensors with torch.save(state_dict, file)"
        )
    return DataError(
        f"{path} must be a whole file of torch.save, but is cut off or broken ({text}); "
        "fetch or copy it again"
    )
