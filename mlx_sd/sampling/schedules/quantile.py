"""Quantiles of the beta distribution."""

import math


def beta_quantile(share: float, a: float, b: float) -> float:
    """The x below which `share` of the distribution lies; all from 0 to 1; a, b > 0."""
    if share in (0, 1):
        return float(share)
    low, high = 0.0, 1.0
    for _ in range(45):
        middle = (low + high) / 2
        if _share_below(middle, a, b) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _share_below(x: float, a: float, b: float, terms: int = 20) -> float:
    """The regularised incomplete beta function, by its continued fraction.

    Source: NIST's Digital Library of Mathematical Functions, 8.17.4 and 8.17.22.
    """
    if x > (a + 1) / (a + b + 2):  # beyond, the fraction converges slowly
        return 1 - _share_below(1 - x, b, a, terms)
    fraction = 1.0
    for m in range(terms, 0, -1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        n = m - 1
        odd = -(a + n) * (a + b + n) * x / ((a + 2 * n) * (a + 2 * n + 1))
        fraction = 1 + odd / (1 + even / fraction)
    log = a * math.log(x) + b * math.log1p(-x)
    log += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(log) / (a * fraction)
