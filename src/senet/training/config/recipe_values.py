"""Every value of the recipes, with where it comes from and how sure it is.

A value that is not listed is a default of the configuration. "§6", "table 2" and "reference 20"
without another name are those of the SENet paper, arXiv 1709.01507v4; "issue" and "README" those of
the authors' repository, hujie-frank/SENet. [1] is V. Vryniotis, "How to Train State-Of-The-Art
Models Using TorchVision's Latest Primitives", pytorch.org/blog, 2021.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

__all__ = ["CERTAINTIES", "CIFAR", "VALUES", "Value"]

# certainty: what it means
CERTAINTIES = {
    "paper": "stands in the SENet paper",
    "authors": "the authors said so elsewhere: their repository or its issues",
    "cited": "stands in the paper or code that the source names",
    "chosen": "not published; a choice of this project",
}


class Value(NamedTuple):
    """A value, how sure it is (see CERTAINTIES), and its source."""

    value: Any
    certainty: str
    source: str


def _given(section: str, certainty: str, source: str, /, **values: Any) -> dict[str, Value]:
    """Return values of one section with the same certainty and source, by their full names."""
    return {section + name: Value(value, certainty, source) for name, value in values.items()}


_own, _data, _train, _se = (partial(_given, name) for name in ("", "data.", "train.", "se."))


def _also(values: dict[str, Value], certainty: str, why: str) -> dict[str, Value]:
    """Return values that the paper gives for another experiment, taken over for a reason."""
    return {
        name: Value(each.value, certainty, f"{why} {each.source}")
        if each.certainty == "paper"
        else each
        for name, each in values.items()
    }


_NOT_STATED = ("chosen", "not stated; as in")
_FOLDER = _data("chosen", "give the folder with --data", name="folder")
_GATE = _se("authors", "§3.2: sigmoid; issue 74: He's start or a Gaussian's", init="paper")

_IMAGES = {
    **_FOLDER,
    **_GATE,
    **_data("paper", "§5.1: 224 of 256 (Inception-ResNet-v2: 299 of 352)", crop=0.875),
    **_data("paper", "§5.1: mean RGB subtraction", normalization="imagenet-mean"),
    **_train("paper", "§5.1: scale and aspect ratio; flip", augmentation="resize-crop"),
    **_train("paper", "§5.1", momentum=0.9),
    **_train("paper", "§5.1, reference 66", start="he"),
    **_train("chosen", "none is mentioned", warmup_epochs=0.0, nesterov=False),
    **_train("chosen", "not stated", precision="fp32"),
    **_train("authors", "issue 8: decay_mult 0 for the biases of Scale", decay="no-bias"),
    **_train("authors", "issue 37: as without SE; SE-BN-Inception 2e-4", weight_decay=1e-4),
    **_se("paper", "§5.1; §6.1, table 10", reduction=16),
    **_se("authors", "the released models have biases; issue 78: either works", bias=True),
}
_PAPER = {
    **_IMAGES,
    **_own("paper", "table 2", model="se_resnet50"),
    **_train("paper", "§5.1", epochs=100, batch_size=1024, lr=0.6, schedule="step", gamma=0.1),
    **_train("paper", "§5.1: every 30 epochs", milestones=(30, 60, 90)),
}
_RELEASED = {
    **_also(_PAPER, *_NOT_STATED),
    **_data("authors", "README: 224 of 256", crop=0.875),
    **_data("authors", "issue 53: 123, 117, 104; here ImageNet's", normalization="imagenet-mean"),
    **_se("authors", "README", reduction=16),
}

VALUES: dict[str, dict[str, Value]] = {
    "imagenet_paper": _PAPER,
    "imagenet_released": {
        **_RELEASED,
        **_own("authors", "README", model="se_resnet50"),
        **_train("authors", "README: 8 GPUs, 256 in all", batch_size=256),
        **_train("authors", "README", lr=0.1),
        **_train("authors", "README: 8-100 %, 3/4-4/3; mirror", augmentation="resize-crop"),
        **_train("authors", "README: -10..10 degrees", rotation=10.0),
        **_train("authors", "README and issue 38: -20..20", pixel_jitter=20.0),
        **_train("authors", "issue 8: msra", start="he"),
        **_train("authors", "issue 48: by 10, by hand, at plateaus", schedule="step", gamma=0.1),
        **_train("chosen", "issue 48 names no epochs", milestones=(40, 70, 100)),
        **_train("chosen", 'README: "more epoches", no number', epochs=120),
    },
    "ablation": {
        **_also(_IMAGES, *_NOT_STATED),
        **_own("paper", "§6", model="se_resnet50"),
        **_se("paper", "§6: without the biases of the layers", bias=False),
        **_se("paper", "§6.1, table 10", reduction=16),
        **_train("paper", "§6: as in §5.1", augmentation="resize-crop"),
        **_train("paper", "§6", lr=0.1),
        **_train("paper", "§6: three times by 10", schedule="step", gamma=0.1),
        **_train("paper", "footnote 2; tables 10-16: plateaus, ~300 epochs", epochs=270),
        **_train("paper", "footnote 2; tables 10-16: at plateaus", milestones=(125, 200, 250)),
        **_train("chosen", "not stated; as the released models", batch_size=256),
        **_train("cited", "§6 names it; 0.1 in reference 20", label_smoothing=0.1),
    },
    "senet154": {
        **_RELEASED,
        **_own("paper", "appendix", model="senet154"),
        **_train("paper", "appendix: 64 GPUs", batch_size=2048),
        **_train("paper", "appendix", lr=1.0),
        **_train("cited", "the appendix names it; 0.1 in reference 20", label_smoothing=0.1),
        **_train("chosen", 'appendix: "the last few" epochs', freeze_bn_epochs=5),
    },
    "mobile": {
        **_IMAGES,
        **_own("paper", "table 3", model="se_mobilenet_v1"),
        **_se("chosen", "not stated; table 3's 4.7 M fit either way", bias=True),
        **_train("paper", "§5.1, mobile setting", batch_size=256, lr=0.1, momentum=0.9),
        **_train("paper", "§5.1, mobile setting: about 400 epochs", epochs=400),
        **_train("paper", "§5.1, mobile setting: by 10 at plateaus", schedule="step", gamma=0.1),
        **_train("chosen", "the epochs are not stated", milestones=(200, 300, 360)),
        **_train("chosen", '§5.1: "slightly less aggressive"', augmentation="resize-crop"),
        **_train("cited", "§5.1 follows reference 65; also in version 3", weight_decay=4e-5),
    },
    "places365": {
        **_also(_PAPER, "authors", "issue 30: as ImageNet;"),
        **_own("paper", "table 6", model="se_resnet152"),
        **_data("authors", "reference 72: 224 of 256, there of both sides", crop=0.875),
        **_train("chosen", "issue 30: more iterations; 8 M images", epochs=30),
        **_train("chosen", "as in §5.1, by the share of the run", milestones=(9, 18, 27)),
    },
    "modern": {
        **_FOLDER,
        **_own("chosen", "the paper's network under today's recipe", model="se_resnet50"),
        **_data("cited", "[1]", image_size=176, test_size=224),
        **_data("cited", "[1]: shorter side 232", crop=224 / 232),
        **_se("chosen", "the network starts as the plain one", init="identity"),
        **_train("cited", "[1]", epochs=600, lr=0.5, momentum=0.9, nesterov=False),
        **_train("cited", "[1]", schedule="cosine", warmup_epochs=5.0, augmentation="resize-crop"),
        **_train("cited", "[1]", label_smoothing=0.1, mixup=0.2, cutmix=1.0, erasing=0.1),
        **_train("cited", "[1]: 8 x 128", batch_size=1024),
        **_train("cited", "[1]", weight_decay=2e-5),
        **_train("chosen", "[1]: none for norms; here none for biases either", decay="weights"),
        **_train("chosen", "[1]'s batch size; another one scales lr", lr_batch=1024),
        **_train("chosen", "[1] has TrivialAugment", rand_augment="rand-m7-mstd0.5-inc1"),
        **_train("chosen", "[1]'s, which averages every 32 steps, per step", ema=0.99997),
        **_train("chosen", "today's GPUs", precision="bf16"),
    },
    "finetune": {
        **_FOLDER,
        **_own("chosen", "any network", model="resnet50"),
        **_own("chosen", "give the network's weights with --weights", weights=None),
        **_se("chosen", "starts as the very function of the weights", init="identity"),
        **_train("chosen", "", epochs=10, batch_size=64, warmup_epochs=0.5),
        **_train("chosen", "a tenth of training from scratch", lr=0.01),
        **_train("chosen", "what is new, as in training from scratch", lr_se=0.1, lr_head=0.1),
        **_train("chosen", "as in training from scratch", weight_decay=1e-4),
        **_train("chosen", "the user's images are others", bn_statistics="updated"),
    },
    "finetune_se": {
        **_FOLDER,
        **_own("chosen", "any network", model="resnet50"),
        **_own("chosen", "give the network's weights with --weights", weights=None),
        **_se("chosen", "starts as the very function of the weights", init="identity"),
        **_train("chosen", "", epochs=10, batch_size=256, warmup_epochs=0.5),
        **_train("chosen", "the SE blocks alone, then everything", se_only_epochs=3),
        **_train("chosen", "a tenth of training from scratch at this batch", lr=0.01),
        **_train("chosen", "as in training from scratch", weight_decay=1e-4),
    },
}

_CIFAR_ALL = {
    **_GATE,
    **_data("paper", "table 4; table 5: --data torch/cifar100", name="torch/cifar10"),
    **_data("paper", "§5.1: mean and standard deviation", normalization="data"),
    **_train("paper", "§5.1: flip, zero-pad 4, crop 32", augmentation="crop-flip"),
    **_train("cited", "references 13, 14, 67, 68: He's; here by fan-in", start="network"),
    **_se("chosen", "not stated for CIFAR; the paper's default", reduction=16),
}
_HE = ("cited", "references 13 (§4.2) and 14 (appendix)")
_RESNET = {
    **_CIFAR_ALL,
    **_train(*_HE, batch_size=128, momentum=0.9, lr=0.1, weight_decay=1e-4),
    **_train(*_HE, schedule="step", gamma=0.1),
    **_train("cited", "reference 13: 64,000 steps of 128 in 50,000 images", epochs=164),
    **_train("cited", "references 13, 14: 32,000 and 48,000 steps", milestones=(82, 123)),
    **_train("chosen", "theirs: 400 steps (a batch of 128) at 0.01", warmup_epochs=1.0),
    **_train("chosen", "none is mentioned", nesterov=False),
    **_train("chosen", "not stated; as in the other networks' code", decay="all"),
}
_ZAGORUYKO = ("cited", "code of reference 67, wide-residual-networks")
_WIDE = {
    **_CIFAR_ALL,
    **_train(*_ZAGORUYKO, batch_size=128, momentum=0.9, nesterov=True, lr=0.1, epochs=200),
    **_train(*_ZAGORUYKO, schedule="step", milestones=(60, 120, 160), gamma=0.2),
    **_train(*_ZAGORUYKO, warmup_epochs=0.0, weight_decay=5e-4, decay="all"),
}
_GASTALDI = ("cited", "README and code of reference 68, shake-shake")
_SHAKE = {
    **_CIFAR_ALL,
    **_train(*_GASTALDI, batch_size=128, momentum=0.9, nesterov=True, lr=0.2, epochs=1800),
    **_train(*_GASTALDI, schedule="cosine", warmup_epochs=0.0, weight_decay=1e-4, decay="all"),
    **_train("cited", "README of reference 69, Cutout", cutout=16),
}

# plain name of a network: its recipe
CIFAR: dict[str, dict[str, Value]] = {
    **{f"resnet{depth}": _RESNET for depth in (20, 32, 44, 56, 110)},
    "preact_resnet164": _RESNET,
    "wrn16_8": _WIDE,
    "shake_shake26_2x96d": _SHAKE,
    "shake_even29_2x4x64d": {
        **_SHAKE,
        **_data("paper", "table 5", name="torch/cifar100"),
        **_train(*_GASTALDI, batch_size=32, lr=0.025, weight_decay=5e-4),
        **_train("cited", "README of reference 69, Cutout", cutout=8),
    },
}
