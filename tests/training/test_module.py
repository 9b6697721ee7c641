"""The step size, the parameter groups and the loss are what the recipe says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.training import TrainConfig
from senet.training.module import Classifier, cosine_with_warmup, decay_groups, logits_of
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

    found = module.epoch_metrics()

    assert math.isnan(found.pop("train_loss") or 0)
    assert found == {"test_loss": None, "test_accuracy": None}


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

    found = module.epoch_metrics()

    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    logits = module.net(images)
    assert found["train_loss"] == 1.5
    assert found["test_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    correct = int((logits.argmax(1) == labels).sum())
    assert found["test_accuracy"] == correct / 10  # exactly, not to float32
    assert module.accuracy.update_count == module.train_loss.update_count == 0
