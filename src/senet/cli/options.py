"""The options of the commands; those of a configuration's field are made from the field."""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from senet.errors import ConfigError
from senet.insertion import SEConfig
from senet.schema import Config, overridden
from senet.training.config import (
    DataConfig,
    RunConfig,
    TrainConfig,
    parse_values,
    read_yaml,
    recipe,
)

__all__ = ["begun", "configured", "numbers"]

_RUN = "Run"
_SECTIONS: dict[str, tuple[type[Config], str | None]] = {
    "": (RunConfig, None),
    "data": (DataConfig, "Data"),
    "train": (TrainConfig, "Recipe"),
    "se": (SEConfig, "SE blocks"),
}
_FLAGS = {"data.name": "--data", "data.root": "--data-dir"}
NAME_HELP = "A network: this project's, torchvision/NAME or timm/NAME; see `senet models`."
_HELP = {
    "model": NAME_HELP,
    "weights": "What to start from: a file, timm/NAME, hf://...",
    "data.name": "digits, an image folder, hfds/PATH_OR_NAME, tar/, wds/, torch/cifar10: whatever "
    "timm.data.create_dataset opens.",
    "data.root": "Folder of the data, where the name is not one.",
    "se.stages": "Only these, as 3,4.",
    "se.init": "identity: the changed network starts as the same function; paper: gates near 0.5.",
}


def numbers(option: str, text: str | None, example: str) -> tuple[int, ...]:
    """Return the integers of a text such as 10,12-14.

    Raises:
        ConfigError: it holds something else.
    """
    values: list[int] = []
    try:
        for part in () if text is None else text.split(","):
            first, dash, last = part.partition("-")
            values += range(int(first), int(last if dash else first) + 1)
    except ValueError as error:
        raise ConfigError(f"{option} must be numbers such as {example}, got {text!r}") from error
    return tuple(values)


def configured(
    *names: str, defaults: Mapping[str, Any] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command an option for each of these fields, and --set.

    The command gets `changes`: the values that are given, by the full names of their fields, in the
    form that `senet.schema.overridden` takes.

    Args:
        *names: full names of fields of `RunConfig`, as "train.lr".
        defaults: what the help shows as the default, where it is not the field's.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(command, eval_str=True)
        own = [each for each in signature.parameters.values() if each.name != "changes"]
        made = {name: _option(name, defaults or {}) for name in names}

        @functools.wraps(command)
        def run(**given: Any) -> Any:
            changes = {name: given.pop(option.name) for name, option in made.items()}
            changes = {name: value for name, value in changes.items() if value is not None}
            if "se.stages" in changes:
                changes["se.stages"] = numbers("--stages", changes["se.stages"], "3,4")
            return command(changes=changes | parse_values(given.pop("sets") or ()), **given)

        parameters = sorted([*made.values(), _SETS, *own], key=lambda each: each.kind)
        run.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=parameters, return_annotation=None
        )
        return run

    return decorate


def begun(name: str | None, file: Path | None, start: RunConfig, model: str | None) -> RunConfig:
    """Return where the options begin: a recipe or `start`, with the values of a file over it."""
    if name is not None:
        chosen = recipe(name, model=model)
        start = replace(chosen, se=chosen.se or start.se)
    return start if file is None else overridden(start, read_yaml(file))


def _parameter(name: str, annotation: Any, option: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=option, annotation=annotation)


_SETS = _parameter(
    "sets",
    list[str] | None,
    typer.Option(None, "--set", metavar="KEY=VALUE", help="Any value, as lr=0.2; may be repeated."),
)


def _option(full: str, defaults: Mapping[str, Any]) -> inspect.Parameter:
    """Return the option of a field; its value is None where it is not given."""
    section, _, name = full.rpartition(".")
    kind, panel = _SECTIONS[section]
    declared = next(each for each in fields(kind) if each.name == name)
    flag = _FLAGS.get(full, f"--{name.replace('_', '-')}")
    default = defaults.get(full, None if declared.default is MISSING else declared.default)
    choices = getattr(declared.metadata.get("rule"), "choices", None)
    option = typer.Option(
        None,
        flag,
        rich_help_panel=panel,
        show_default=False if default is None or default is False else str(default),
        help=", ".join(choices) + "." if choices else _HELP.get(full) or _described(kind, name),
    )
    return _parameter(flag.lstrip("-").replace("-", "_"), _type_of(kind, name) | None, option)


def _type_of(kind: type[Config], name: str) -> Any:
    """Return the type in which an option's text is read."""
    declared = typing.get_type_hints(kind)[name]
    known = {declared, *typing.get_args(declared)}
    return next((each for each in (bool, float, int) if each in known), str)


def _described(kind: type[Config], name: str) -> str:
    """Return what the class's docstring says of a field."""
    listed = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2]
    match = re.search(
        rf"^    {name}: (.*?)(?:;|\.\n|\n\n|^    \w)", listed, re.MULTILINE | re.DOTALL
    )
    text = " ".join(match[1].split()) if match else ""
    return text[:1].upper() + text[1:].rstrip(".") + "." * bool(text)


# ---- options of several commands that are no field of a configuration
Name = Annotated[str, typer.Argument(metavar="NAME", help=NAME_HELP)]
Recipe = Annotated[
    str | None, typer.Option("--recipe", help="Where to begin: see `senet recipes`.")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="A YAML file of values, over the recipe's.")
]
Seeds = Annotated[int, typer.Option(rich_help_panel=_RUN, help="How many times to train each.")]
Out = Annotated[Path, typer.Option(rich_help_panel=_RUN, help="Results; a new or an empty folder.")]
Resume = Annotated[
    bool, typer.Option("--resume", rich_help_panel=_RUN, help="Go on with what is in --out.")
]
Devices = Annotated[int, typer.Option(rich_help_panel=_RUN, help="How many on each machine.")]
Nodes = Annotated[int, typer.Option(rich_help_panel=_RUN, help="How many machines.")]
SaveEvery = Annotated[
    int | None, typer.Option(rich_help_panel=_RUN, help="A checkpoint after so many steps, too.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", rich_help_panel=_RUN, help="Print every value and stop.")
]
Device = Annotated[str, typer.Option(rich_help_panel=_RUN, help="auto, cpu, cuda, cuda:1, mps.")]
NoTiming = Annotated[bool, typer.Option("--no-timing", help="Count only, measure no times.")]
ImageSize = Annotated[
    int | None, typer.Option(help="Height and width (default: what the network is made for).")
]
Classes = Annotated[
    int | None, typer.Option(help="Classes (default: 10 for 32x32 networks, else 1000).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
