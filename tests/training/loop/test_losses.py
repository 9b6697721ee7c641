"""Losses and weights of classes are those of their libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from senet.errors import ConfigError
from senet.training import TrainConfig
from senet.training.loop.losses import balanced_weights, loss_of

LOGITS, LABELS = (
    torch.randn(12, 3, generator=torch.Generator().manual_seed(0)),
    torch.tensor([0] * 8 + [1] * 3 + [2]),
)
IMAGES = LABELS.bincount()


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=LABELS.numpy())
    assert balanced_weights(IMAGES).tolist() == pytest.approx(theirs.tolist(), rel=1e-6)
    assert balanced_weights(torch.tensor([4, 0])).tolist() == [1.0, 0.0]


def test_each_loss_is_what_its_name_says() -> None:
    plain = loss_of(TrainConfig(label_smoothing=0.1), IMAGES)(LOGITS, LABELS)
    assert torch.equal(plain, F.cross_entropy(LOGITS, LABELS, label_smoothing=0.1))
    weighted = loss_of(TrainConfig(class_weights="balanced"), IMAGES)(LOGITS, LABELS)
    by_hand = torch.stack(
        [F.cross_entropy(LOGITS[k == LABELS], LABELS[k == LABELS]) for k in range(3)]
    )
    torch.testing.assert_close(weighted, by_hand.mean())  # each class counts alike
    bce = loss_of(TrainConfig(loss="bce"), IMAGES)(LOGITS, LABELS)
    target = F.one_hot(LABELS).float()
    torch.testing.assert_close(bce, F.binary_cross_entropy_with_logits(LOGITS, target))
    assert loss_of(TrainConfig(loss="asymmetric"), IMAGES)(LOGITS, LABELS).isfinite()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"loss": "bce", "class_weights": "balanced"},
            "class_weights go with loss 'cross-entropy'",
        ),
        ({"loss": "asymmetric", "mixup": 0.2}, "takes no mixup, cutmix or label_smoothing"),
        ({"warmup_epochs": 30}, "warmup_epochs must be at most the number of epochs, 10, got 30"),
    ],
)
def test_what_does_not_go_together_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**values)  # type: ignore[arg-type]
