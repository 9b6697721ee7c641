"""The recorder sees the gates that the blocks give, and leaves no trace on the model."""

from __future__ import annotations

import copy
from collections import OrderedDict
from itertools import count
from typing import Any

import pytest
import torch
from torch import nn

from senet import SEBatchNorm2d, SqueezeExcitation
from senet.analysis import record_gates
from senet.errors import InputError
from tolerances import assert_close

CLASSES = ["zero", "one", "two"]


class Net(nn.Module):
    """SE blocks of both kinds, one that never runs, and maps of 16, 8 and 4 pixels."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.spare = SqueezeExcitation(8)
        self.late = SEBatchNorm2d(8, se={"reduction": 4})
        self.early = SqueezeExcitation(4, reduction=2, **options)
        self.first = nn.Conv2d(3, 4, 3, padding=1, stride=2)
        self.second = nn.Conv2d(4, 8, 3, padding=1, stride=2)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.late(self.second(self.drop(self.early(self.first(x))))).mean((2, 3))


def _batches(count: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.randn(5, 3, 16, 16), torch.randint(0, 3, (5,))) for _ in range(count)]


def _hooks(model: nn.Module) -> list[OrderedDict[int, Any]]:
    return [
        hooks
        for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
    ]


@pytest.mark.parametrize("squeeze", ["avg", "max", "none"])
def test_means_are_those_of_the_gates(squeeze: str) -> None:
    model, batches = Net(squeeze=squeeze), _batches()
    gates = record_gates(model, batches, classes=CLASSES)

    x, labels = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
    with torch.no_grad():
        u = model.first(x)
        z = {"avg": u.mean((2, 3)), "max": u.amax((2, 3)), "none": u}[squeeze]
        s = model.early.excite(z)
    s = s.flatten(2).mean(2) if squeeze == "none" else s
    expected = torch.stack([s[labels == k].mean(0) for k in range(3)])
    assert_close(gates.blocks[0].mean, expected, dtype=torch.float32)
    assert gates.images == tuple(torch.bincount(labels, minlength=3).tolist())


def test_blocks_come_in_the_order_in_which_they_run() -> None:
    gates = record_gates(Net(), _batches(1), classes=CLASSES)

    assert [(b.path, b.stage, b.channels) for b in gates.blocks] == [
        ("early", 1, 4),
        ("late.se", 2, 8),
    ]
    assert gates.never_ran == ("spare",)


def test_stage_is_known_where_the_norm_asks_for_the_gate_itself() -> None:
    class Fused(nn.BatchNorm2d):
        def __init__(self) -> None:
            super().__init__(3)
            self.se = SqueezeExcitation(3, hidden=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.se.excite(x.mean((2, 3)))[..., None, None]

    model = nn.Sequential(nn.MaxPool2d(4), Fused())

    assert record_gates(model, _batches(1), classes=CLASSES).blocks[0].stage == 2


def test_a_block_that_runs_twice_counts_twice() -> None:
    se = SqueezeExcitation(3, hidden=2)
    gates = record_gates(nn.Sequential(se, nn.ReLU(), se), _batches(1), classes=CLASSES)

    assert [block.path for block in gates.blocks] == ["0"]
    assert sum(gates.images) == 5


def test_modes_parameters_and_outputs_stay() -> None:
    model = Net().train()
    model.late.eval()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]

    record_gates(model, _batches(), classes=CLASSES)

    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(_hooks(model))
    assert all(p.grad is None for p in model.parameters())


class _Merging(nn.Conv2d):
    """An adapter that `eval()` merges and `train()` takes out again, as LoRA layers do."""

    merged = False

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        if mode == self.merged:
            self.weight.data += -1 if mode else 1
            self.merged = not mode
        return self


def test_what_eval_does_besides_the_mode_is_not_done() -> None:
    model = nn.Sequential(_Merging(3, 8, 3), SqueezeExcitation(8))
    weight = model[0].weight.detach().clone()

    record_gates(model, _batches(1), classes=CLASSES)

    assert torch.equal(model[0].weight, weight)
    assert (model[0].training, model[0].merged) == (True, False)


@pytest.mark.parametrize("how", ["torch.compile", "compile()", "compile() of a part"])
def test_a_model_that_was_compiled_before(how: str) -> None:
    torch.compiler.reset()
    plain = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), SqueezeExcitation(8, squeeze="max")))
    batches = _batches(1)
    expected = record_gates(plain, batches, classes=CLASSES)
    compiled: Any = plain
    if how == "torch.compile":
        compiled = torch.compile(plain, backend="eager")
    elif how == "compile()":
        plain.compile(backend="eager")
    else:
        plain[0].compile(backend="eager")
    plain.eval()
    with torch.no_grad():
        compiled(batches[0][0])  # the graph fits what is recorded, so it would be used

    gates = record_gates(compiled, batches, classes=CLASSES)

    assert [(b.path, b.stage) for b in gates.blocks] == [("0.1", 0)]
    assert_close(gates.blocks[0].mean, expected.blocks[0].mean, dtype=torch.float32)
    assert gates.images == expected.images
    assert not any(_hooks(plain))
    before = torch._dynamo.utils.counters["frames"]["total"]
    compiled(torch.randn(2, 3, 20, 20))  # of a new size: is compiled again, no longer eager
    assert torch._dynamo.utils.counters["frames"]["total"] > before


def test_hooks_and_modes_go_back_when_the_loader_fails() -> None:
    def broken() -> Any:
        yield from _batches(1)
        raise OSError("unreadable image")

    model = Net().train()
    with pytest.raises(OSError, match="unreadable image"):
        record_gates(model, broken(), classes=CLASSES)

    assert not any(_hooks(model))
    assert all(m.training for m in model.modules())


def test_nothing_stays_when_the_model_fails() -> None:
    model = Net().train()
    later = torch.randn(1, 5, 16, 16), torch.tensor([0])
    with pytest.raises(RuntimeError):
        record_gates(model, [*_batches(1), later], classes=CLASSES)

    assert not any(_hooks(model))
    assert all(m.training for m in model.modules())
    assert not torch.utils._python_dispatch._get_current_dispatch_mode_stack()


def test_other_hooks_stay() -> None:
    model = Net()
    model.early.gate.register_forward_hook(lambda *_: None)
    record_gates(model, _batches(1), classes=CLASSES)

    assert len(model.early.gate._forward_hooks) == 1


def test_parts_add_up_to_the_whole_and_without_classes_no_labels_are_needed() -> None:
    model, images = Net(), torch.randn(12, 3, 16, 16)
    whole = record_gates(model, [images[:4], images[4:8], images[8:]])
    parts = [record_gates(model, [part]) for part in images.split(4)]
    merged = parts[2].merge(parts[0]).merge(parts[1])

    assert (merged.classes, merged.images) == (("all",), (12,))
    for mine, theirs in zip(merged.blocks, whole.blocks, strict=True):
        theirs_sums = theirs.sums.state()
        for name, value in mine.sums.state().items():
            same = torch.allclose if name == "map" else torch.equal  # the map's are floating point
            assert same(value, theirs_sums[name]), name


def test_max_batches_takes_no_more_from_the_loader() -> None:
    loader = iter(_batches(3))
    gates = record_gates(Net(), loader, classes=CLASSES, max_batches=2)

    assert sum(gates.images) == 10
    assert len(list(loader)) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_and_double_models(dtype: torch.dtype) -> None:
    model = nn.Sequential(SqueezeExcitation(3, hidden=2)).to(dtype)
    batches = [(x.to(dtype), labels) for x, labels in _batches(1)]
    gates = record_gates(model, batches, classes=CLASSES)

    assert gates.blocks[0].mean.dtype == torch.float64
    assert 0 < gates.blocks[0].level.value < 1


def test_batches_of_a_data_loader() -> None:
    images, labels = torch.randn(10, 3, 8, 8), torch.arange(10) % 3
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), 4)

    assert record_gates(Net(), loader, classes=CLASSES).images == (4, 3, 3)


IMAGES = torch.randn(2, 3, 16, 16)
REFUSED: list[tuple[Any, str]] = [
    ([], "no batch came"),
    ([IMAGES], r"a batch must be \(images, labels\), got Tensor"),
    ([(IMAGES, torch.tensor([0, 3]))], r"labels must lie in 0\.\.2, .* got 0\.\.3"),
    ([(IMAGES, torch.tensor([-1, 0]))], r"got -1\.\.0"),
    ([(IMAGES, torch.eye(3)[:2])], r"labels must be integers \[N\], got torch.float32 of shape"),
    ([(IMAGES, torch.tensor([0, 1, 2]))], "a label for each image, got 3 for 2"),
]


@pytest.mark.parametrize(("batches", "message"), REFUSED)
def test_what_does_not_fit_is_refused(batches: Any, message: str) -> None:
    model = Net()
    with pytest.raises(InputError, match=message):
        record_gates(model, batches, classes=CLASSES)

    assert not any(_hooks(model))


def test_a_model_without_gates_is_refused() -> None:
    with pytest.raises(InputError, match="Conv2d has no gate to look at"):
        record_gates(nn.Conv2d(3, 3, 1), _batches(1), classes=CLASSES)


def test_no_class_is_refused() -> None:
    with pytest.raises(InputError, match="at least one class"):
        record_gates(Net(), _batches(1), classes=[])


def test_a_forward_that_is_never_the_same_is_refused() -> None:
    calls = count(1)

    class Dice(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(next(calls)):
                x = x + 1
            return super().forward(x)

    with pytest.raises(InputError, match="operators differ from one run to the next"):
        record_gates(Dice(), _batches(1), classes=CLASSES)


def test_a_forward_that_depends_on_the_number_of_images_is_followed() -> None:
    class Odd(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x * 1.0 if len(x) > 2 else x)

    torch.manual_seed(1)
    odd, even = Odd(), Net()
    even.load_state_dict(odd.state_dict())
    sizes = (1, 2, 5, 1, 4)
    batches = [(torch.randn(n, 3, 16, 16), torch.zeros(n).long()) for n in sizes]
    first, second = (record_gates(net, batches, classes=CLASSES) for net in (odd, even))

    assert first.images == second.images == (13, 0, 0)
    for mine, theirs in zip(first.blocks, second.blocks, strict=True):
        assert torch.equal(mine.sums.by_class, theirs.sums.by_class)
