"""Scores by class are scikit-learn's, whatever classes are missing."""

from __future__ import annotations

import warnings

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score

from senet.training.loop.counts import Counts


@pytest.mark.parametrize("missing", [False, True])
def test_scores_by_class_are_those_of_scikit_learn(missing: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 7, generator=generator)
    labels = torch.multinomial(torch.tensor([0.6, 0.2, 0.1, 0.05, 0.03, 0.02, 0.0]), 300, True)
    logits[torch.arange(300), labels] += 1
    if missing:
        logits[:, 2] -= 100  # a class that is never answered
    counts = Counts(7)
    for part in range(0, 300, 64):
        counts.update(logits[part : part + 64], labels[part : part + 64])
    scores, answers = counts.compute(), logits.argmax(1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn says which class is missing
        balanced = balanced_accuracy_score(labels, answers)
        macro = f1_score(labels, answers, average="macro")
    assert scores["balanced_accuracy"] == pytest.approx(balanced, abs=1e-12)
    assert scores["macro_f1"] == pytest.approx(macro, abs=1e-12)
    assert scores["majority_share"] == labels.bincount().max().item() / 300
    assert scores["top1"] == (labels == answers).sum().item() / 300
    assert (scores["images"], scores["only_answer"]) == (300, None)


def test_who_answers_one_class_only_is_found() -> None:
    counts = Counts(3)
    counts.update(torch.tensor([[0.0, 1.0, 0.0]] * 4), torch.tensor([1, 1, 1, 0]))
    scores = counts.compute()

    assert scores["only_answer"] == 1
    assert (scores["top1"], scores["majority_share"]) == (0.75, 0.75)
    assert scores["balanced_accuracy"] == 0.5
