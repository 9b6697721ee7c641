"""What labels would explain if they were dealt out at random: eta^2 and selectivity by chance.

eta^2 = SS_between / SS_total of N values in K groups of given sizes. Over all permutations of the
labels its mean is (K - 1) / (N - 1), whatever the values; its variance depends on the values by
their fourth moment only. Both are exact, so neither values nor shuffled labels are kept. The class
selectivity index is that of a largest class mean, so it is above 0 by chance, too: how far follows
from the values' mean and variance, for classes of more than a few images.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from senet.errors import optional

__all__ = ["Chance", "eta_squared_by_chance", "selectivity_by_chance"]


class Chance(NamedTuple):
    """The distribution of eta^2 over all permutations of the labels.

    Attributes:
        mean: (K - 1) / (N - 1).
        std: [C], its standard deviation; NaN for fewer than four values.
    """

    mean: float
    std: Tensor

    def beyond(self, eta2: Tensor) -> Tensor:
        """Return the probability [C] of an eta^2 at least as large as this by chance alone.

        It is that of the beta distribution with the same mean and variance, as Pitman proposed; NaN
        where there is no spread.
        """
        with optional("a probability"):
            from scipy.special import betaincc  # type: ignore[import-untyped]
        sharpness = self.mean * (1 - self.mean) / self.std.square() - 1
        a, b = self.mean * sharpness, (1 - self.mean) * sharpness
        x = eta2.clamp(0, 1)
        values = [float(betaincc(*row)) for row in torch.stack([a, b, x], 1).tolist()]
        return torch.tensor(values, dtype=torch.float64)


def eta_squared_by_chance(sizes: Tensor, second: Tensor, fourth: Tensor) -> Chance:
    """Return mean and standard deviation of eta^2 over all permutations of the labels.

    With deviations x from the mean, p2 = sum x^2 and p4 = sum x^4, values that are drawn without
    replacement have, for different i, j, k, l,

        E x_i^4         = p4 / N
        E x_i^3 x_j     = -p4 / N(N-1)
        E x_i^2 x_j^2   = (p2^2 - p4) / N(N-1)
        E x_i^2 x_j x_k = (2 p4 - p2^2) / N(N-1)(N-2)
        E x_i x_j x_k x_l = (3 p2^2 - 6 p4) / N(N-1)(N-2)(N-3)

    SS_between = sum_k T_k^2 / n_k, with T_k the sum over a group, so that the expectations of
    T_k^4 / n_k^2 and of T_k^2 T_l^2 / (n_k n_l) give its second moment.

    Args:
        sizes: images of each class, [K], those without an image left out.
        second: sum of (s - mean)^2 over all images, [C].
        fourth: sum of (s - mean)^4, [C].

    Source: E. J. G. Pitman, "Significance tests which may be applied to samples from any
        populations: III. The analysis of variance test", Biometrika 29, 1938.

    Example:
        >>> x = torch.tensor([-1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
        >>> two = torch.tensor([2, 2])  # eta^2 is 1/2 in four of six splits, 0 in two of them
        >>> chance = eta_squared_by_chance(two, (x**2).sum()[None], (x**4).sum()[None])
        >>> round(chance.mean, 4), [round(v, 4) for v in (chance.std**2).tolist()]
        (0.3333, [0.0556])
    """
    n_k = sizes.to(torch.float64)
    groups, n = len(n_k), float(n_k.sum())
    mean = (groups - 1) / (n - 1) if n > 1 else float("nan")
    if n < 4 or groups < 2:
        return Chance(mean, torch.full_like(second, float("nan")))
    p4 = fourth / second.square()  # of values whose p2 is 1
    four = p4 / n
    three_one = -p4 / (n * (n - 1))
    two_two = (1 - p4) / (n * (n - 1))
    two_one_one = (2 * p4 - 1) / (n * (n - 1) * (n - 2))
    one_each = (3 - 6 * p4) / (n * (n - 1) * (n - 2) * (n - 3))
    rest = n_k - 1
    own = (
        four * (1 / n_k).sum()
        + (4 * three_one + 3 * two_two) * (rest / n_k).sum()
        + 6 * two_one_one * (rest * (n_k - 2) / n_k).sum()
        + one_each * (rest * (n_k - 2) * (n_k - 3) / n_k).sum()
    )
    pairs = groups * (groups - 1)
    both = rest.sum() ** 2 - rest.square().sum()
    crossed = two_two * pairs + two_one_one * 2 * (groups - 1) * rest.sum() + one_each * both
    return Chance(mean, (own + crossed - mean**2).clamp_min(0).sqrt())


def selectivity_by_chance(sizes: Tensor, mean: Tensor, second: Tensor) -> Tensor:
    """Return the mean of the class selectivity index over permutations of the labels, [C].

    The index is (max - rest) / (max + rest), of the largest class mean and the mean of the others.
    Under permuted labels the class means m_k have the variance S^2 (1 / n_k - 1 / N) and the
    covariances -S^2 / N, with S^2 = second / (N - 1), and are normal for large n_k. A common term
    cancels in their differences, so that with independent standard normal Z_k

        e = E max_k Z_k / sqrt(n_k)
        E (max - rest) = K / (K - 1) S e
        E (max + rest) = 2 mean + (K - 2) / (K - 1) S e

    The quotient of the two is returned: it is the mean of the index but for a term of the order of
    the squared relative spread of the class means.

    Args:
        sizes: images of each class, [K], those without an image left out.
        mean: over all images, [C].
        second: sum of (s - mean)^2 over all images, [C].

    Returns:
        NaN for fewer than two classes.

    Source: W. Hoeffding, "A combinatorial central limit theorem", Annals of Mathematical Statistics
        22, 1951.

    Example:
        >>> mean, second = torch.tensor([0.5]).double(), torch.tensor([10.0]).double()
        >>> by_chance = selectivity_by_chance(torch.tensor([500, 500]), mean, second)
        >>> [round(value, 5) for value in by_chance.tolist()]  # 0.1 sqrt(2 / 500 / 2 pi) / 0.5
        [0.00505]
    """
    classes, images = len(sizes), int(sizes.sum())
    if classes < 2:
        return torch.full_like(mean, float("nan"))
    spread = (second / (images - 1)).sqrt() * _largest(sizes)
    apart = classes / (classes - 1) * spread
    return apart / (2 * mean + (classes - 2) / (classes - 1) * spread)


def _largest(sizes: Tensor) -> float:
    """Return E max_k Z_k / sqrt(n_k) of independent standard normal Z_k.

    With F the distribution of the maximum it is the integral of 1 - F(t) - F(-t) over t > 0. That
    is even in t, so with t = sinh(u) / sqrt(n_max) the trapezoidal rule is exact to rounding.
    """
    different, times = torch.unique(sizes.to(torch.float64), return_counts=True)
    roots = different.sqrt()
    u = torch.linspace(0, float((9 * roots[-1] / roots[0]).asinh()), 200, dtype=torch.float64)
    t = u.sinh() / roots[-1]
    above, below = (
        (torch.special.log_ndtr(side[:, None] * roots) * times).sum(1).exp() for side in (t, -t)
    )
    return float(torch.trapezoid((1 - above - below) * u.cosh() / roots[-1], u))
