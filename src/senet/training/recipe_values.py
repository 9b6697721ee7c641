"""Every value of the recipes, with where it comes from and how sure it is.

A value that is not listed is a default of the configuration. "§6" and "table 2" without another
name are those of the SENet paper, arXiv 1709.01507v4; "issue" and "README" those of the authors'
repository, hujie-frank/SENet. [1] is V. Vryniotis, "How to Train State-Of-The-Art Models Using
TorchVision's Latest Primitives", pytorch.org/blog, 2021.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["CERTAINTIES", "CIFAR", "VALUES", "Value"]

# certainty: what it means
CERTAINTIES = {
    "paper": "stands in the SENet paper",
    "authors": "the authors said so elsewhere: their repository or its issues",
    "cited": "stands in the paper or code that the SENet paper refers to for it",
    "recalled": "common knowledge about the cited work, not read again in a source",
    "chosen": "not published; a choice of this project",
}


class Value(NamedTuple):
    """A value, how sure it is (see CERTAINTIES), and its source."""

    value: Any
    certainty: str
    source: str


_YES, _NO = True, False


def _v(value: Any, certainty: str, source: str) -> Value:
    return Value(value, certainty, source)


_IMAGES = {
    "data.name": _v("folder", "chosen", "give the folder with --data"),
    "train.augmentation": _v("resize-crop", "paper", "§5.1: scale and aspect ratio; flip"),
    "data.crop": _v(0.875, "paper", "§5.1: shorter side 256, centre 224"),
    "train.precision": _v("fp32", "chosen", "the paper's time"),
    "train.warmup_epochs": _v(0.0, "paper", "none is mentioned"),
    "train.nesterov": _v(_NO, "paper", "none is mentioned"),
    "train.momentum": _v(0.9, "paper", "§5.1"),
    "train.decay": _v("no-bias", "authors", "issue 8: decay_mult 0 for the biases of Scale"),
    "train.start": _v("he", "paper", "§5.1, reference 66"),
    "se.init": _v("paper", "paper", "§3: gates start near 0.5"),
    "se.reduction": _v(16, "paper", "§3.2 and table 10"),
}
_BLOCKS_BIAS = {"se.bias": _v(_YES, "authors", "the released models have biases")}
_RESNET_DECAY = {"train.weight_decay": _v(1e-4, "authors", "issue 37: as without SE")}

_PAPER = {
    **_IMAGES,
    **_BLOCKS_BIAS,
    **_RESNET_DECAY,
    "model": _v("se_resnet50", "paper", "table 2"),
    "data.normalization": _v("imagenet-mean", "paper", "§5.1: mean RGB subtraction"),
    "train.epochs": _v(100, "paper", "§5.1"),
    "train.batch_size": _v(1024, "paper", "§5.1"),
    "train.lr": _v(0.6, "paper", "§5.1"),
    "train.schedule": _v("step", "paper", "§5.1"),
    "train.milestones": _v((30, 60, 90), "paper", "§5.1: every 30 epochs"),
    "train.gamma": _v(0.1, "paper", "§5.1"),
}

VALUES: dict[str, dict[str, Value]] = {
    "imagenet_paper": _PAPER,
    "imagenet_released": {
        **_PAPER,
        "train.epochs": _v(120, "chosen", 'README: "more epoches", no number'),
        "train.batch_size": _v(256, "authors", "README: 8 GPUs, 256 in all"),
        "train.lr": _v(0.1, "authors", "README"),
        "train.milestones": _v((40, 70, 100), "chosen", "issue 48: by hand, at plateaus"),
        "train.rotation": _v(10.0, "authors", "README: -10..10 degrees"),
        "train.pixel_jitter": _v(20.0, "authors", "README and issue 38: -20..20"),
    },
    "ablation": {
        **_IMAGES,
        **_RESNET_DECAY,
        "model": _v("se_resnet50", "paper", "§6"),
        "se.bias": _v(_NO, "paper", "§6: without the biases of the layers"),
        "data.normalization": _v("imagenet-mean", "paper", "§6: augmentation as before"),
        "train.epochs": _v(270, "paper", "§6, footnote 2: the fixed schedule"),
        "train.batch_size": _v(256, "chosen", "not stated; as the released models"),
        "train.lr": _v(0.1, "paper", "§6"),
        "train.schedule": _v("step", "paper", "§6, footnote 2"),
        "train.milestones": _v((125, 200, 250), "paper", "§6, footnote 2"),
        "train.gamma": _v(0.1, "paper", "§6: three times by 10"),
        "train.label_smoothing": _v(0.1, "recalled", "§6 names it; 0.1 in reference 20"),
    },
    "senet154": {
        **_PAPER,
        "model": _v("senet154", "paper", "appendix"),
        "train.epochs": _v(100, "chosen", "not stated"),
        "train.batch_size": _v(2048, "paper", "appendix: 64 GPUs"),
        "train.lr": _v(1.0, "paper", "appendix"),
        "train.milestones": _v((30, 60, 90), "chosen", "not stated; as in §5.1"),
        "train.label_smoothing": _v(0.1, "recalled", "the appendix names it; 0.1 in reference 20"),
        "train.freeze_bn_epochs": _v(5, "chosen", 'appendix: "the last few epochs"'),
    },
    "mobile": {
        **_IMAGES,
        **_BLOCKS_BIAS,
        "model": _v("se_mobilenet_v1", "paper", "table 3"),
        "data.normalization": _v("imagenet-mean", "paper", "§5.1"),
        "train.epochs": _v(400, "paper", 'table 3: "about 400 epochs"'),
        "train.batch_size": _v(256, "paper", "table 3: 8 GPUs"),
        "train.lr": _v(0.1, "paper", "table 3"),
        "train.schedule": _v("step", "paper", "by 10 at plateaus"),
        "train.milestones": _v((200, 300, 360), "chosen", "the epochs are not stated"),
        "train.weight_decay": _v(4e-5, "authors", "version 3 of the paper; less than for ResNets"),
    },
    "places365": {
        **_PAPER,
        "model": _v("se_resnet152", "paper", "table 6"),
        "train.epochs": _v(30, "chosen", "issue 30: as ImageNet, more iterations; 8 M images"),
        "train.milestones": _v((9, 18, 27), "chosen", "as in §5.1, by the share of the run"),
    },
    "modern": {
        "model": _v("se_resnet50", "chosen", "the paper's network under today's recipe"),
        "data.name": _v("folder", "chosen", "give the folder with --data"),
        "data.image_size": _v(176, "cited", "torchvision's recipe of 2021 [1]"),
        "data.test_size": _v(224, "cited", "[1]"),
        "data.crop": _v(224 / 232, "cited", "[1]: shorter side 232"),
        "se.init": _v("identity", "chosen", "the network starts as the plain one"),
        "train.epochs": _v(600, "cited", "[1]"),
        "train.batch_size": _v(1024, "cited", "[1]: 8 x 128"),
        "train.lr": _v(0.5, "cited", "[1]"),
        "train.lr_batch": _v(1024, "cited", "[1]; another batch size scales it"),
        "train.nesterov": _v(_NO, "cited", "[1]"),
        "train.schedule": _v("cosine", "cited", "[1]"),
        "train.warmup_epochs": _v(5.0, "cited", "[1]"),
        "train.weight_decay": _v(2e-5, "cited", "[1]; none for norms"),
        "train.label_smoothing": _v(0.1, "cited", "[1]"),
        "train.mixup": _v(0.2, "cited", "[1]"),
        "train.cutmix": _v(1.0, "cited", "[1]"),
        "train.augmentation": _v("resize-crop", "cited", "[1]"),
        "train.rand_augment": _v("rand-m7-mstd0.5-inc1", "chosen", "[1] has TrivialAugment"),
        "train.erasing": _v(0.1, "cited", "[1]"),
        "train.ema": _v(0.99997, "chosen", "[1]'s, which averages every 32 steps, per step"),
        "train.precision": _v("bf16", "chosen", "today's GPUs"),
    },
    "finetune_se": {
        "model": _v("resnet50", "chosen", "any network"),
        "weights": _v(None, "chosen", "give the network's weights with --weights"),
        "data.name": _v("folder", "chosen", "give the folder with --data"),
        "se.init": _v("identity", "chosen", "starts as the very function of the weights"),
        "train.epochs": _v(10, "chosen", ""),
        "train.se_only_epochs": _v(3, "chosen", "the SE blocks alone, then everything"),
        "train.batch_size": _v(256, "chosen", ""),
        "train.lr": _v(0.01, "chosen", "a tenth of training from scratch at this batch"),
        "train.weight_decay": _v(1e-4, "chosen", "as in training from scratch"),
        "train.warmup_epochs": _v(0.5, "chosen", ""),
    },
}

_CIFAR_ALL = {
    "data.name": _v("torch/cifar10", "paper", "§5.1; CIFAR-100: --data torch/cifar100"),
    "data.normalization": _v("data", "paper", "§5.1: mean and standard deviation"),
    "train.augmentation": _v("crop-flip", "paper", "§5.1: flip, zero-pad 4, crop 32"),
    "train.batch_size": _v(128, "cited", "of each network's own work"),
    "train.momentum": _v(0.9, "recalled", "of each network's own work"),
    "train.start": _v("network", "cited", "He's, in this project's networks"),
    "train.decay": _v("all", "recalled", "the networks' own codes decay everything"),
    "se.init": _v("paper", "paper", "§3: gates start near 0.5"),
    "se.reduction": _v(16, "chosen", "not stated for CIFAR; the paper's default"),
}
_RESNET = {
    **_CIFAR_ALL,
    "train.lr": _v(0.1, "recalled", "pre-activation ResNet paper"),
    "train.nesterov": _v(_NO, "recalled", "pre-activation ResNet paper"),
    "train.weight_decay": _v(1e-4, "recalled", "pre-activation ResNet paper"),
    "train.epochs": _v(164, "recalled", "64,000 steps of 128 in 50,000 images"),
    "train.schedule": _v("step", "recalled", "pre-activation ResNet paper"),
    "train.milestones": _v((82, 123), "recalled", "32,000 and 48,000 steps"),
    "train.gamma": _v(0.1, "recalled", "pre-activation ResNet paper"),
    "train.warmup_epochs": _v(1.0, "chosen", "theirs: 400 steps (a batch of 128) at 0.01"),
}
_WIDE = {
    **_CIFAR_ALL,
    "train.lr": _v(0.1, "recalled", "wide-residual-networks"),
    "train.nesterov": _v(_YES, "recalled", "wide-residual-networks"),
    "train.weight_decay": _v(5e-4, "recalled", "wide-residual-networks"),
    "train.epochs": _v(200, "recalled", "wide-residual-networks"),
    "train.schedule": _v("step", "recalled", "wide-residual-networks"),
    "train.milestones": _v((60, 120, 160), "recalled", "wide-residual-networks"),
    "train.gamma": _v(0.2, "recalled", "wide-residual-networks"),
    "train.warmup_epochs": _v(0.0, "recalled", "none"),
}
_SHAKE = {
    **_CIFAR_ALL,
    "train.lr": _v(0.2, "cited", "README of shake-shake"),
    "train.nesterov": _v(_YES, "recalled", "code of shake-shake"),
    "train.weight_decay": _v(1e-4, "recalled", "code of shake-shake"),
    "train.epochs": _v(1800, "cited", "README of shake-shake"),
    "train.schedule": _v("cosine", "cited", "README of shake-shake"),
    "train.warmup_epochs": _v(0.0, "recalled", "none"),
    "train.cutout": _v(16, "cited", "README of Cutout, CIFAR-10"),
}

# plain name of a network: its recipe
CIFAR: dict[str, dict[str, Value]] = {
    **{f"resnet{depth}": _RESNET for depth in (20, 32, 44, 56, 110)},
    "preact_resnet164": _RESNET,
    "wrn16_8": _WIDE,
    "shake_shake26_2x96d": _SHAKE,
    "shake_even29_2x4x64d": {
        **_SHAKE,
        "data.name": _v("torch/cifar100", "paper", "table 5"),
        "train.cutout": _v(8, "cited", "README of Cutout, CIFAR-100"),
        "train.lr": _v(0.025, "recalled", "shake-shake for CIFAR-100, batch 32"),
        "train.batch_size": _v(32, "recalled", "shake-shake for CIFAR-100"),
    },
}
