"""Resampling of square maps by short separable filters, each axis one product with a small banded matrix.

A matrix product has cheap first and second derivatives on every device, unlike a depthwise convolution, and can hold
any rule for the edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["BINOMIAL", "LINEAR", "Fir", "double_by", "extend"]

BINOMIAL = (1.0, 3.0, 3.0, 1.0)
"""Even filter: the grids of both resolutions share their outer edges."""
LINEAR = (1.0, 2.0, 1.0)
"""Odd filter: cell i of the coarse grid lies on cell 2 i of the fine one."""


@cache
def _matrix(size: int, taps: tuple[float, ...], up: int, down: int, pad: tuple[int, int], edge: str) -> Tensor:
    """Weights from `size` inputs to the outputs of one axis."""
    total = sum(taps)
    outputs = (size * up + sum(pad) - len(taps)) // down + 1
    rows = torch.zeros(outputs, size, dtype=torch.float64)
    for row in range(outputs):
        for tap, weight in enumerate(taps):
            cell, between = divmod(row * down + tap - pad[0], up)
            if between or (edge == "zero" and not 0 <= cell < size):
                continue
            rows[row, min(max(cell, 0), size - 1)] += weight * up / total
    return rows.float()


class Fir(nn.Module):
    """Insert zeros, filter, and drop: along rows and columns of maps of one fixed size.

    The mean is kept. Past the edge lies the nearest cell again (a constant map stays constant), or zero.

    Args:
        size_px: Height and width of the input.
        taps: Filter, any scale.
        up: Zeros are inserted to this factor first.
        down: Every `down`-th output is kept.
        pad: Cells added before and after, at the resolution of the filter; taken away where negative.
        edge: `repeat` or `zero`.
    """

    matrix: Tensor

    def __init__(
        self,
        size_px: int,
        taps: Sequence[float] = BINOMIAL,
        *,
        up: int = 1,
        down: int = 1,
        pad: tuple[int, int] = (0, 0),
        edge: str = "repeat",
    ) -> None:
        super().__init__()
        self.register_buffer("matrix", _matrix(size_px, tuple(taps), up, down, pad, edge).clone(), persistent=False)

    @classmethod
    def doubling(cls, size_px: int, taps: Sequence[float] = BINOMIAL) -> Fir:
        """Double the resolution of maps of `size_px`."""
        return cls(size_px, taps, up=2, pad=(len(taps) // 2, (len(taps) - 1) // 2))

    @classmethod
    def halving(cls, size_px: int, taps: Sequence[float] = BINOMIAL) -> Fir:
        """Halve the resolution of maps of `size_px`, which is even."""
        return cls(size_px, taps, down=2, pad=((len(taps) - 1) // 2, (len(taps) - 1) // 2))

    @classmethod
    def smoothing(cls, size_px: int) -> Fir:
        """Finish a doubling of maps of `size_px`, see `double_by`."""
        return cls(2 * size_px + 5, pad=(-1, -1))

    def forward(self, x: Tensor) -> Tensor:
        """Filter, (B, C, H, H) to (B, C, H', H')."""
        matrix = self.matrix.to(x.dtype)
        return matrix @ (x @ matrix.mT)

    def extra_repr(self) -> str:
        """Name the sizes in the printed network."""
        return f"{self.matrix.shape[1]} px to {self.matrix.shape[0]} px"


def extend(x: Tensor) -> Tensor:
    """Repeat the outermost cells once: zeros there would draw a frame around what is generated."""
    return F.pad(x, (1, 1, 1, 1), mode="replicate")


def double_by(weight: Tensor, x: Tensor, smooth: Fir) -> Tensor:
    """Interpolate linearly to twice the resolution and convolve, repeating the outermost cells.

    Computed as a transposed convolution and a low-pass, the same operator at a quarter of the multiplications.

    Args:
        weight: Of the convolution, reversed along both axes, shape (C', C, 3, 3).
        x: Maps, shape (B, C, H, H).
        smooth: `Fir.smoothing(H)`.

    Returns:
        Maps, shape (B, C', 2H, 2H).
    """
    # Three of four cells are inserted zeros: the low-pass, of unit sum, would leave a quarter of the mean.
    return smooth(F.conv_transpose2d(extend(x), (4 * weight).transpose(0, 1), stride=2))
