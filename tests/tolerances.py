"""How far two computations of the same value may be apart, by dtype. One table for all tests."""

from __future__ import annotations

from typing import Any

import torch

# dtype: (rtol, atol)
TOLERANCES: dict[torch.dtype, tuple[float, float]] = {
    # Sums of up to 1e5 terms in another order: about sqrt(1e5) roundings of 1.1e-16.
    torch.float64: (1e-10, 1e-12),
    # The same with roundings of 6e-8, through a few layers; atol for sums that nearly cancel.
    torch.float32: (1e-4, 1e-5),
    # Values are rounded to 11 bits (4.9e-4) where they are stored, a few times in a row;
    # sums and gates are computed in float32, so no more than that is added.
    torch.float16: (4e-3, 1e-3),
    # The same with 8 bits (3.9e-3).
    torch.bfloat16: (3e-2, 1e-2),
}


def assert_close(
    actual: torch.Tensor,
    expected: torch.Tensor,
    *,
    dtype: torch.dtype | None = None,
    name: str = "",
) -> None:
    """Compare two tensors with the tolerance of `dtype`, by default of `actual`.

    Shapes must agree; dtypes need not, since a reference is often computed in float64.
    """
    rtol, atol = TOLERANCES[dtype or actual.dtype]
    options: dict[str, Any] = {"rtol": rtol, "atol": atol, "check_dtype": False}
    torch.testing.assert_close(actual, expected, msg=lambda text: f"{name}: {text}", **options)
