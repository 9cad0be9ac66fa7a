"""A registration head: pairs that lie crooked are laid straight by a small network before they are compared.

Misalignment is taken as noise of the labels that a second network explains, so that the generator need not blur.

Reference: Kong et al., 2021, arXiv:2110.06465 (RegGAN). Ours are the bound in pixels, the trial shifts the network
looks at, and that a constant offset is not forgiven.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.losses.correspondence import Correspondence, both_valid, pooled_l1, stacked
from rsgeo_gan.losses.reconstruction import masked_mean
from rsgeo_gan.losses.shift import filled

__all__ = ["DisplacementNet", "RegistrationHead", "moved"]

_CELL = 2
"""Pixels averaged before trial shifts are compared: a sixth of the work, and a quarter of the speckle's power."""
_WINDOWS = (5, 13)
"""Cells along one side of the neighbourhoods that a trial shift is judged by, besides the whole image."""
_SHARPNESS = (0.0, 2.0, 18.0)
"""How much a relative difference in the neighbourhoods, the smallest first, counts at the beginning."""
_GAIN = 100.0
"""Brings the step of an optimiser made for convolutions to the size of a sharpness."""
_NODE = 4 * _CELL
"""Pixels between nodes of the displacement."""
_COVERED = 0.999
"""Share of valid pixels in a resampled one, below which it does not count."""


class DisplacementNet(nn.Module):
    """Displacement between two images of one kind: the mean of trial shifts, weighted by how well they fit.

    A trial shift is judged around every node of a lattice in three neighbourhoods, the largest of which is the whole
    image. How much each counts is learnt. Images that do not resemble each other fit nowhere better than elsewhere,
    which makes the displacement zero; beyond the trial shifts it cannot go.

    Args:
        max_px: Bound of each component, in pixels.
    """

    offsets: Tensor

    def __init__(self, max_px: float = 8.0) -> None:
        super().__init__()
        self.reach = math.ceil(max_px / _CELL)
        steps = torch.arange(-self.reach, self.reach + 1.0).clamp(-max_px / _CELL, max_px / _CELL) * _CELL
        self.register_buffer("offsets", torch.cartesian_prod(steps, steps).flip(1).T.contiguous(), persistent=False)
        self.sharpness = nn.Parameter(torch.tensor(_SHARPNESS) / _GAIN)

    def forward(self, fake: Tensor, real: Tensor, mask: Tensor | None = None) -> Tensor:
        """Estimate where the content of `real` lies relative to `fake`.

        Args:
            fake: Shape (B, C, H, W); no gradient goes through it.
            real: Same shape.
            mask: Validity of both on two channels, (B, 2, H, W): of `fake`, then of `real`.

        Returns:
            dx (right) and dy (down) at nodes 8 pixels apart, on the grid of `real`, pixels, shape (B, 2, H / 8, W / 8)
            rounded, float32.
        """
        costs = self.costs(fake, real, mask)  # (B, neighbourhoods, trials, rows, columns)
        score = -torch.einsum("s,bstrc->btrc", _GAIN * self.sharpness.float(), costs)
        return torch.einsum("btrc,dt->bdrc", score.softmax(dim=1), self.offsets)

    @torch.no_grad()
    def costs(self, fake: Tensor, real: Tensor, mask: Tensor | None) -> Tensor:
        """Compare at every trial shift: mean absolute difference relative to that of all shifts, 0 where unknown."""
        if mask is None:
            mask = torch.ones_like(real[:, :1]).expand(-1, 2, -1, -1)
        share = F.avg_pool2d(mask.float(), _CELL, ceil_mode=True)  # (B, 2, h, w)
        fake, real = (
            F.avg_pool2d(part, _CELL, ceil_mode=True) / share[:, k : k + 1].clamp_min(1e-6)
            for k, part in enumerate(filled(fake.float(), real.float(), mask))
        )
        r, (h, w) = self.reach, real.shape[-2:]
        known, known_fake = share[:, 1:], F.pad(share[:, :1], (r, r, r, r))
        fake = F.pad(fake, (r, r, r, r))
        errors, counts = [], []
        for row in range(2 * r, -1, -1):
            for column in range(2 * r, -1, -1):
                window = slice(row, row + h), slice(column, column + w)
                count = known * known_fake[..., *window]
                errors.append((real - fake[..., *window]).abs().mean(dim=1, keepdim=True) * count)
                counts.append(count)
        error, count = torch.cat(errors, dim=1), torch.cat(counts, dim=1)
        found = [_relative(_around(error, side), _around(count, side)) for side in _WINDOWS]
        whole = _relative(error.mean(dim=(2, 3), keepdim=True), count.mean(dim=(2, 3), keepdim=True))
        return torch.stack([*found, whole.expand_as(found[0])], dim=1)


def _around(x: Tensor, side: int) -> Tensor:
    """Average over `side` cells around every node."""
    near = F.avg_pool2d(x, side, 1, side // 2)
    return near[..., _NODE // _CELL // 2 :: _NODE // _CELL, _NODE // _CELL // 2 :: _NODE // _CELL]


def _relative(error: Tensor, count: Tensor) -> Tensor:
    known = (count > 0.25).float()
    error = known * error / count.clamp_min(1e-6)
    usual = error.sum(dim=1, keepdim=True) / known.sum(dim=1, keepdim=True).clamp_min(1.0)
    return known * (error / usual.clamp_min(1e-6) - 1.0)


class RegistrationHead(Correspondence):
    """Fakes are compared after a small network has moved them onto the image they are paired with.

    Every pair may lie off by what it likes, but not all of them the same way, because then the generator would have
    drifted from its geography and the network would be hiding it. So the running mean of the displacement is taken
    out of it before the fake is moved: a constant offset remains in `aligned`, and the generator has to go back.
    (An offset that all pairs have in common is hence learned into the product.)

    Terms: `aligned`, the mean absolute difference that is left; `smoothness`, squared first differences of the
    displacement, (px/px)²; `offset`, the squared running mean, px², to be watched: it has no gradient of its own.

    Args:
        max_px: Bound of each component of the displacement, in pixels.
        pool: Side of the cells over which the moved fake and the real image are averaged before they are compared,
            in pixels: speckle, which no shift explains, counts less.
        smoothness: Weight of `smoothness`, relative to `aligned`.
        decay: Of the running mean, per step.

    Attributes:
        mean_px: Running mean of dx and dy, one row for each direction, pixels.

    Reference: Kong et al., 2021, arXiv:2110.06465.
    """

    mean_px: Tensor

    def __init__(
        self,
        max_px: float = 8.0,
        pool: int = 1,
        smoothness: float = 10.0,
        decay: float = 0.99,
    ) -> None:
        super().__init__()
        if max_px <= 0 or pool < 1 or not 0.0 <= decay < 1.0:
            raise ValueError(
                f"RegistrationHead: expected max_px > 0, pool >= 1 and 0 <= decay < 1, got {max_px}, {pool}, {decay}"
            )
        self.pool = pool
        self.decay = decay
        self.head = DisplacementNet(max_px)
        self.head_back = DisplacementNet(max_px)
        self.factors: Mapping[str, float] = {"aligned": 1.0, "smoothness": smoothness, "offset": 1.0}
        self.register_buffer("mean_px", torch.zeros(2, 2))

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        fake_source: Tensor,
        fake_target: Tensor,
        mask_source: Tensor | None = None,
        mask_target: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return `aligned`, `smoothness` and `offset`, each summed over both directions."""
        forth = self._compare(0, fake_target, target, mask_source, mask_target, weight)
        back = self._compare(1, fake_source, source, mask_target, mask_source, weight)
        return {name: forth[name] + back[name] for name in self.factors}

    def displacement(
        self, fake: Tensor, real: Tensor, mask_fake: Tensor | None = None, mask_real: Tensor | None = None,
        *, back: bool = False,
    ) -> Tensor:  # fmt: skip
        """Estimate where the content of `real` lies relative to `fake`, for every pixel of `real`.

        Args:
            fake: Shape (B, C, H, W).
            real: Same shape.
            mask_fake: Validity of `fake`, shape (B, 1, H, W).
            mask_real: Validity of `real`.
            back: Whether these are source images, made from the target, instead of target images.

        Returns:
            dx (right) and dy (down), pixels, shape (B, 2, H, W), float32.
        """
        nodes = (self.head_back if back else self.head)(fake, real, stacked(mask_fake, mask_real, real))
        return _spread(nodes, real)

    def _compare(
        self,
        way: int,
        fake: Tensor,
        real: Tensor,
        mask_fake: Tensor | None,
        mask_real: Tensor | None,
        weight: Tensor | None,
    ) -> dict[str, Tensor]:
        nodes = (self.head, self.head_back)[way](fake, real, stacked(mask_fake, mask_real, real))
        shift = _spread(nodes, real)
        centre = self._centre(way, shift.detach(), both_valid(mask_fake, mask_real))
        warped, valid = moved(fake, shift - centre[:, None, None], mask_fake)
        if mask_real is not None:
            valid = valid * mask_real.float()
        steep = [nodes.diff(dim=dim).div(_NODE).square() for dim in (2, 3)]
        return {
            "aligned": pooled_l1(warped, real, valid, self.pool, weight),
            "smoothness": torch.stack([part.mean() if part.numel() else part.sum() for part in steep]).sum(),
            "offset": centre.square().sum(),
        }

    def _centre(self, way: int, shift: Tensor, mask: Tensor | None) -> Tensor:
        """Bring the running mean up to date while training; (dx, dy)."""
        if self.training and torch.is_grad_enabled() and (mask is None or bool(mask.any())):
            here = torch.stack([masked_mean(shift[:, k : k + 1], mask) for k in (0, 1)])
            self.mean_px[way].lerp_(here, 1.0 - self.decay)
        return self.mean_px[way].clone()


def moved(image: Tensor, displacement: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Move the content of an image by a displacement, bilinearly.

    Args:
        image: Shape (B, C, H, W).
        displacement: dx (right) and dy (down) on the grid of the result, pixels, shape (B, 2, H, W).
        mask: Validity of the image, shape (B, 1, H, W).

    Returns:
        The image, whose content at q comes from q - d(q), float32; and where it comes from valid pixels within the
        image alone, shape (B, 1, H, W).
    """
    h, w = image.shape[-2:]
    with torch.autocast(image.device.type, enabled=False):
        shift = displacement.float()
        x = torch.arange(w, device=image.device) - shift[:, 0]
        y = torch.arange(h, device=image.device)[:, None] - shift[:, 1]
        # Pixel centres 0 and n - 1 are -1 and 1 of the sampling grid, hence align_corners.
        grid = torch.stack([2.0 * x / max(w - 1, 1) - 1.0, 2.0 * y / max(h - 1, 1) - 1.0], dim=-1)
        image = image.float()
        if mask is None:
            mask = torch.ones_like(image[:, :1])
        image = torch.where(mask > 0, image, image.new_zeros(()))
        warped = F.grid_sample(image, grid, padding_mode="border", align_corners=True)
        covered = F.grid_sample(mask.float(), grid.detach(), padding_mode="zeros", align_corners=True)
    return warped, (covered > _COVERED).float()


def _spread(nodes: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(nodes, size=like.shape[-2:], mode="bilinear", align_corners=False)
