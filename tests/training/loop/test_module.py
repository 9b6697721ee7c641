"""The learning rate, the parameter groups and the loss are what the recipe says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.training import TrainConfig
from senet.training.data.memory import cut_out
from senet.training.loop.checkpoints import load_weights
from senet.training.loop.module import Classifier, logits_of
from senet.training.loop.runner import train_run
from senet.training.loop.schedule import cosine_with_warmup, decay_groups
from senet.training.loop.stopping import Stop
from training.tiny import TinyNet, tiny_data


def test_schedule_rises_then_falls_along_a_cosine_to_zero() -> None:
    factors = [cosine_with_warmup(step, steps=100, warmup=10) for step in range(101)]

    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == pytest.approx(0, abs=1e-12)


def test_schedule_without_warmup_and_with_nothing_else() -> None:
    assert cosine_with_warmup(0, steps=5, warmup=0) == 1
    assert [cosine_with_warmup(step, steps=2, warmup=2) for step in range(3)] == [0.5, 1, 1]


def test_weights_decay_and_vectors_do_not() -> None:
    net = TinyNet(2)
    net.linear.weight.requires_grad_(requires_grad=False)
    decayed, free = decay_groups(net, 0.1)

    assert {id(p) for p in decayed["params"]} == {id(net.stem[0].weight), id(net.branch[0].weight)}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert len(free["params"]) == 6  # conv bias, two gammas, two betas, linear bias


def test_loss_that_is_no_number_shows(tmp_path: Path) -> None:
    module = Classifier(TinyNet(2), tiny_data(tmp_path), TrainConfig(epochs=2, test_every=2))
    for loss in (1.0, math.nan, 2.0):
        module.train_loss(torch.tensor(loss), weight=4)

    metrics = module.epoch_metrics()

    assert math.isnan(metrics.pop("train_loss") or 0)
    names = {"loss", "accuracy", "top5", "balanced_accuracy", "macro_f1", "majority_share"}
    assert metrics == dict.fromkeys(f"test_{name}" for name in (*names, "only_answer"))


class Heads(NamedTuple):
    logits: Tensor
    auxiliary: Tensor | None


def test_logits_of_one_head_and_of_several() -> None:
    logits, auxiliary = torch.randn(2, 3), torch.randn(2, 3)

    assert logits_of(logits)[0] is logits
    assert logits_of(Heads(logits, auxiliary)) == [logits, auxiliary]
    assert logits_of(Heads(logits, None)) == [logits]


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.main, self.side = nn.Linear(192, 2), nn.Linear(192, 2)

    def forward(self, x: Tensor) -> Any:
        x = x.flatten(1)
        return Heads(self.main(x), self.side(x)) if self.training else self.main(x)


def test_auxiliary_head_adds_its_weighted_loss(tmp_path: Path) -> None:
    data = tiny_data(tmp_path)
    module = Classifier(TwoHeads(), data, TrainConfig(label_smoothing=0.1))
    images, labels = next(iter(data.train_batches(TrainConfig(batch_size=8), epoch=0)))
    heads = module.net(images)

    loss = module.training_step((images, labels), 0)

    parts = [F.cross_entropy(head, labels, label_smoothing=0.1) for head in heads]
    torch.testing.assert_close(loss, parts[0] + 0.3 * parts[1])


def test_metrics_are_those_of_all_test_images(tmp_path: Path) -> None:
    data = tiny_data(tmp_path, test=5)
    module = Classifier(TinyNet(2), data, TrainConfig(batch_size=4)).eval()
    batches = list(data.test_batches(TrainConfig(batch_size=4)))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    module.train_loss(torch.tensor(1.5))
    for batch in batches:
        module.validation_step(batch, 0)

    metrics = module.epoch_metrics()

    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    logits = module.net(images)
    assert metrics["train_loss"] == 1.5
    assert metrics["test_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    correct = int((logits.argmax(1) == labels).sum())
    assert metrics["test_accuracy"] == correct / 10  # exactly, not to float32
    assert module.counts.update_count == module.train_loss.update_count == 0


def test_averaged_weights_follow_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """a <- d a + (1 - d) w after each step; the first copies w. Two parts make a step."""
    seen: list[Tensor] = []
    step = Classifier.optimizer_step

    def spied(module: Classifier, *args: Any, **options: Any) -> None:
        step(module, *args, **options)
        seen.append(module.net.linear.weight.detach().clone())  # type: ignore[union-attr]

    monkeypatch.setattr(Classifier, "optimizer_step", spied)
    train = TrainConfig(epochs=2, batch_size=8, ema=0.75, accumulate=2)
    train_run(
        *(TinyNet(2), tiny_data(tmp_path), train),
        folder=tmp_path / "run",
        device=torch.device("cpu"),
        title="",
        on_progress=lambda *_: None,
        stop=Stop(),
    )

    assert len(seen) == 6  # 24 images in two epochs
    average = seen[0]
    for weight in seen[1:]:
        average = 0.75 * average + 0.25 * weight
    loaded = load_weights(TinyNet(2), tmp_path / "run")
    torch.testing.assert_close(loaded.linear.weight.detach(), average)  # type: ignore[union-attr]
    assert not torch.equal(seen[-1], average)


def test_what_decays() -> None:
    net = TinyNet(2)
    counts = {
        decay: [len(group["params"]) for group in decay_groups(net, 0.1, decay=decay)]
        for decay in ("weights", "no-bias", "all")
    }
    # three layers' weights, two gammas, four biases
    assert counts == {"weights": [3, 6], "no-bias": [5, 4], "all": [9, 0]}


def test_learning_rate_is_scaled_to_the_batch() -> None:
    assert TrainConfig(lr=0.1).peak_lr == 0.1
    assert TrainConfig(lr=0.1, lr_batch=256, batch_size=1024).peak_lr == pytest.approx(0.4)


def test_mixed_images_have_mixed_labels(tmp_path: Path) -> None:
    """Mixup of images that are constant: the loss is that of the shares in each image."""
    data = tiny_data(tmp_path)
    module = Classifier(TwoHeads(), data, TrainConfig(mixup=1.0, augmentation="none"))
    images = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 3, 8, 8).contiguous()
    seen: list[Tensor] = []
    module.net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    torch.manual_seed(3)
    loss = module.training_step((images, torch.tensor([0, 1])), 0)

    share = seen[0].mean((1, 2, 3))  # of the second image, and so of its class
    assert 0 < share[0] < 1
    labels = torch.stack([1 - share, share], 1)
    heads = module.net(seen[0])
    expected = [F.cross_entropy(head, labels) for head in heads]
    torch.testing.assert_close(loss, expected[0] + 0.3 * expected[1])


def test_square_is_cut_out() -> None:
    images = torch.ones(64, 2, 9, 9)
    cut = cut_out(images, side=4, generator=torch.Generator().manual_seed(0)) == 0
    sizes = cut[:, 0].sum((1, 2))

    assert torch.equal(cut[:, 0], cut[:, 1])
    assert sizes.max() == 16
    assert sizes.min() >= 4  # a centre in the corner keeps a quarter
    rows, columns = cut[:, 0].any(2).sum(1), cut[:, 0].any(1).sum(1)
    assert torch.equal(rows * columns, sizes)  # rectangles
    assert len(cut[:, 0].flatten(1).unique(dim=0)) > 20
