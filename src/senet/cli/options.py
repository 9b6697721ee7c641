"""The options of the commands: type, flag and help text; their defaults are the library's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from senet.functional import EXCITATIONS, SQUEEZES
from senet.insertion.config import INTEGRATIONS
from senet.training import AUGMENTATIONS, NORMALIZATIONS, PRECISIONS

_DATA, _RECIPE, _BLOCKS, _RUN = "Data", "Recipe", "SE blocks", "Run"


def _one_of(names: Iterable[str]) -> str:
    return ", ".join(names)


NAME_HELP = "A network: this project's, torchvision/NAME or timm/NAME; see `senet models`."

Name = Annotated[str, typer.Argument(metavar="NAME", help=NAME_HELP)]
Pattern = Annotated[
    str | None, typer.Argument(metavar="[PATTERN]", help="A shell pattern, or a part of the name.")
]

# ---- data
Model = Annotated[str, typer.Option("--model", help=NAME_HELP)]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        rich_help_panel=_DATA,
        help="digits, an image folder, hfds/PATH_OR_NAME, wds/, torch/cifar10: whatever "
        "timm.data.create_dataset opens.",
    ),
]
DataDir = Annotated[
    str | None,
    typer.Option(
        "--data-dir", rich_help_panel=_DATA, help="Folder of the data, where the name is not one."
    ),
]
TrainSplit = Annotated[
    str | None,
    typer.Option("--train-split", rich_help_panel=_DATA, help="(default: the usual names)"),
]
TestSplit = Annotated[
    str | None,
    typer.Option("--test-split", rich_help_panel=_DATA, help="(default: the usual names)"),
]
ImageKey = Annotated[
    str | None,
    typer.Option("--image-key", rich_help_panel=_DATA, help="Column of the images, for hfds/."),
]
LabelKey = Annotated[
    str | None,
    typer.Option("--label-key", rich_help_panel=_DATA, help="Column of the labels, for hfds/."),
]
ImageSize = Annotated[
    int | None,
    typer.Option("--image-size", help="Height and width (default: what the network is made for)."),
]
TrainImages = Annotated[
    int | None,
    typer.Option(
        "--train-images",
        rich_help_panel=_DATA,
        help="Train on a fixed stratified subset of so many images.",
    ),
]
Normalization = Annotated[
    str,
    typer.Option("--normalization", rich_help_panel=_DATA, help=_one_of(NORMALIZATIONS) + "."),
]
Download = Annotated[
    bool,
    typer.Option("--download", rich_help_panel=_DATA, help="Let torchvision download its data."),
]

# ---- recipe
Epochs = Annotated[int, typer.Option("--epochs", rich_help_panel=_RECIPE)]
BatchSize = Annotated[int, typer.Option("--batch-size", rich_help_panel=_RECIPE)]
Lr = Annotated[
    float, typer.Option("--lr", rich_help_panel=_RECIPE, help="The largest step size of SGD.")
]
Momentum = Annotated[float, typer.Option("--momentum", rich_help_panel=_RECIPE, help="Nesterov's.")]
WeightDecay = Annotated[float, typer.Option("--weight-decay", rich_help_panel=_RECIPE)]
LabelSmoothing = Annotated[float, typer.Option("--label-smoothing", rich_help_panel=_RECIPE)]
WarmupEpochs = Annotated[
    float,
    typer.Option("--warmup-epochs", rich_help_panel=_RECIPE, help="Linear rise before the cosine."),
]
Augmentation = Annotated[
    str, typer.Option("--augmentation", rich_help_panel=_RECIPE, help=_one_of(AUGMENTATIONS) + ".")
]
TestEvery = Annotated[
    int, typer.Option("--test-every", rich_help_panel=_RECIPE, help="Test after so many epochs.")
]
Precision = Annotated[
    str, typer.Option("--precision", rich_help_panel=_RECIPE, help=_one_of(PRECISIONS) + ".")
]

# ---- SE blocks
Reduction = Annotated[
    float, typer.Option("--reduction", rich_help_panel=_BLOCKS, help="The paper's r.")
]
Squeeze = Annotated[
    str, typer.Option("--squeeze", rich_help_panel=_BLOCKS, help=_one_of(SQUEEZES) + ".")
]
Excitation = Annotated[
    str, typer.Option("--excitation", rich_help_panel=_BLOCKS, help=_one_of(EXCITATIONS) + ".")
]
Integration = Annotated[
    str, typer.Option("--integration", rich_help_panel=_BLOCKS, help=_one_of(INTEGRATIONS) + ".")
]
Stages = Annotated[
    str | None,
    typer.Option("--stages", rich_help_panel=_BLOCKS, help="Only these, as 3,4 (default: all)."),
]
Init = Annotated[
    str,
    typer.Option(
        "--init",
        rich_help_panel=_BLOCKS,
        help="identity: the changed network starts as the same function; paper: gates near 0.5.",
    ),
]

# ---- run
Seeds = Annotated[
    int, typer.Option("--seeds", rich_help_panel=_RUN, help="How many pairs to train.")
]
Out = Annotated[
    Path, typer.Option("--out", rich_help_panel=_RUN, help="Results; a new or an empty folder.")
]
Resume = Annotated[
    bool, typer.Option("--resume", rich_help_panel=_RUN, help="Go on with what is in --out.")
]
Device = Annotated[
    str, typer.Option("--device", rich_help_panel=_RUN, help="auto, cpu, cuda, cuda:1, mps.")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", rich_help_panel=_RUN, help="Processes that read large images."),
]
NoTiming = Annotated[bool, typer.Option("--no-timing", help="Count only, measure no times.")]

# ---- cost
Batch = Annotated[int, typer.Option("--batch", help="Images in the example input.")]
Classes = Annotated[
    int | None,
    typer.Option("--classes", help="Classes (default: 10 for 32x32 networks, else 1000)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AsMarkdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown, all tables.")]

# ---- convert
Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A file, hf://OWNER/REPOSITORY/FILE, timm/NAME or torchvision/NAME.",
    ),
]
WeightsOut = Annotated[Path, typer.Argument(metavar="OUT", help="The .safetensors to write.")]
Recognised = Annotated[
    str | None,
    typer.Option("--model", help="A network of this project (default: whose tensors these are)."),
]
Sha256 = Annotated[
    str | None, typer.Option("--sha256", help="Of SOURCE, or its first 8 digits or more.")
]
