"""A Brownian path that a seed fixes, to be read at any noise level."""

import math

import mlx.core as mx
import numpy as np

_LOW, _HIGH = -20, 20  # the path is split at 2^_LOW … 2^_HIGH
_DEPTH = 16  # halvings of that range: leaves are 0.04 % wide


class BrownianPath:
    """W(sigma), of variance sigma, for 2^-20 ≤ sigma ≤ 2^20.

    The path is known at both ends, and anywhere between by halving the range in
    ln(sigma): each middle is drawn around the line between its neighbours, from a key
    that its place in the tree gives. So a level has the same noise in every schedule.

    Source: Lévy's construction, as in Li et al. 2020 (arXiv 2001.01328), alg. 3.
    """

    def __init__(self, seed: int, shape: tuple[int, ...]):
        # Split, so that no node of one seed has the key of another seed's.
        self._key = np.array(mx.random.split(mx.random.key(seed))[0])
        self._shape = shape
        self._known: dict[float, mx.array] = {}
        self._path: dict[int, mx.array] = {}  # W at the middles above the last level

    def between(self, low: float, high: float) -> mx.array:
        """The path's rise from low to high, as unit noise; low < high."""
        self._known = {sigma: self._at(sigma) for sigma in (low, high)}
        rise = self._known[high] - self._known[low]
        return rise * (1 / math.sqrt(high - low))

    def _at(self, sigma: float) -> mx.array:
        if sigma in self._known:  # the end of the step before
            return self._known[sigma]
        low, high = 2.0**_LOW, 2.0**_HIGH
        left, right = mx.zeros(self._shape), self._normal(0) * math.sqrt(high - low)
        node, path = 1, {}
        for _ in range(_DEPTH):
            middle = math.sqrt(low * high)
            w = self._path.get(node)
            if w is None:
                w = self._bridge(node, middle, (low, left), (high, right))
            path[node] = w
            if sigma < middle:
                high, right, node = middle, w, 2 * node
            else:
                low, left, node = middle, w, 2 * node + 1
        self._path = path
        return self._bridge(node, sigma, (low, left), (high, right))

    def _bridge(
        self,
        node: int,
        sigma: float,
        start: tuple[float, mx.array],
        end: tuple[float, mx.array],
    ) -> mx.array:
        """W(sigma), drawn between two levels where W is known."""
        (low, left), (high, right) = start, end
        part = (sigma - low) / (high - low)
        spread = math.sqrt(max(part * (high - sigma), 0.0))
        return left + (right - left) * part + self._normal(node) * spread

    def _normal(self, node: int) -> mx.array:
        key = mx.array(self._key ^ np.array([node, 0], np.uint32))
        return mx.random.normal(self._shape, key=key)
