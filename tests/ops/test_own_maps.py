"""In evaluation a small map is written once: what is nobody else's is written over."""

from __future__ import annotations

import torch
from torch import Tensor

from senet import functional, ops
from tolerances import assert_close


def test_a_residual_tail_in_evaluation_makes_one_new_map() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Maps(TorchDispatchMode):
        """The storages of the maps that operators return."""

        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Tensor] = []  # kept, so that no storage is used again

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            self.seen += [out] if isinstance(out, Tensor) and out.shape == (2, 3, 5, 5) else []
            return out

    x, identity = torch.randn(2, 3, 5, 5), torch.randn(2, 3, 5, 5)
    kept = x.clone(), identity.clone()
    block = {"identity": identity, "activation": "relu"}
    layers = ops.TwoLayers(torch.randn(2, 3), None, torch.randn(3, 2), None)
    expected = functional.recalibrate(x, layers, **block)

    with torch.no_grad(), Maps() as maps:
        y = ops.recalibrate(x, layers, **block)

    assert_close(y, expected)  # product and sum are rounded once
    assert torch.equal(x, kept[0])
    assert torch.equal(identity, kept[1])
    assert len({each.data_ptr() for each in maps.seen}) == 1
    for other in (identity.double(), identity[:1]):  # what a sum in place cannot be
        with torch.no_grad():
            got = functional.recalibrate(x, layers, identity=other)
        assert torch.equal(got, functional.recalibrate(x, layers, identity=other))
