"""Degradation of batches: the image that a coarser instrument would have taken, with its blur, grid and noise.

See `rsgeo_gan.optics` for the blur. Values are those of a linear quantity, or of one that is affine in it, such as
reflectance in the model domain; decibels have to become power first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rsgeo_gan.optics import LEAST_WEIGHT, MTF, reach_px, weights

__all__ = ["degrade", "reach_px"]

Contrast = float | Sequence[float] | None


def degrade(
    image: Tensor,
    mask: Tensor | None,
    scale: int,
    mtf: Contrast = MTF,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Blur, thin out and disturb; differentiable in the image.

    Coarse pixels begin at the corner of the image and are weighted means of the valid fine pixels around them.

    Args:
        image: Shape (B, C, s h, s w); what lies under an empty mask does not matter, unless it is NaN.
        mask: Validity, shape (B, 1, s h, s w); everything is valid when None.
        scale: Fine pixels per coarse pixel.
        mtf: Contrast at the coarse Nyquist frequency, one for all bands or one for each; None for plain means.
        noise: Standard deviation of the noise of each coarse pixel, units of the image.
        generator: Of the noise, on the CPU; torch's global one when None.

    Returns:
        Image (B, C, h, w), 0 where invalid, and its validity (B, 1, h, w): all own fine pixels of a coarse one are
        valid, and at least a quarter of its weight.

    Raises:
        ValueError: If the sides are no whole multiples of the scale, or there are not as many MTFs as bands.
    """
    batch, bands, height, width = image.shape
    if height % scale or width % scale:
        raise ValueError(f"degrade: expected sides of whole multiples of {scale}, got {height} x {width} pixels")
    contrasts = list(mtf) if isinstance(mtf, Sequence) else [mtf]
    if len(contrasts) not in (1, bands):
        raise ValueError(f"degrade: expected one MTF or one for each of {bands} bands, got {len(contrasts)}")
    rows, cols = height // scale, width // scale
    down, across = (
        torch.stack([torch.from_numpy(weights(size, scale, contrast).copy()) for contrast in contrasts]).to(image)
        for size in (rows, cols)
    )
    mask = image.new_ones(batch, 1, height, width) if mask is None else mask.to(image)
    across = across.transpose(1, 2)  # (1 or C, s w, w)
    total = down @ (image * mask) @ across  # (B, C, h, w)
    share = down @ mask @ across  # (B, 1 or C, h, w)
    whole = mask.view(batch, 1, rows, scale, cols, scale).amin(dim=(3, 5)) > 0
    valid = (whole & (share.amin(dim=1, keepdim=True) >= LEAST_WEIGHT)).to(image)
    low = total / share.clamp_min(1e-6)
    if noise:
        drawn = torch.randn(low.shape, generator=generator, device="cpu" if generator is not None else low.device)
        low = low + noise * drawn.to(low)
    return low * valid, valid
