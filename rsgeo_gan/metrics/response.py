"""How much features change when an image moves by a few pixels, against how much they differ between images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["shift_response"]


@torch.no_grad()
def shift_response(
    features: Callable[[Tensor], Tensor], images: Tensor, shifts: Sequence[int] = (1, 2, 3, 8), *, margin_px: int = 0
) -> Tensor:
    """Measure R(k) = E|Φ(x) - Φ(x moved by k px)| / E|Φ(x) - Φ(x')|, x' another image.

    0 means blind to the shift, 1 that a moved image is as strange as another one. Moves are to the right and down, and
    bring in true content: windows of one image are compared, never a wrapped or padded one.

    Args:
        features: Φ: windows (B, C, h, w) to features (B, D, h / s, w / s) at any stride s; the identity gives the
            response of the image itself.
        images: Shape (B, C, H, W), unlike ones, B >= 2, wholly valid.
        shifts: k, in pixels.
        margin_px: Width of the border of a window whose features are left out, since they depend on padding.

    Returns:
        Response by shift, shape (len(shifts),), >= 0.

    Raises:
        ValueError: If there is one image only, or shifts and margin leave no window.
    """
    reach = max(abs(k) for k in shifts)
    h, w = images.shape[-2] - 2 * reach, images.shape[-1] - 2 * reach
    if images.ndim != 4 or len(images) < 2 or min(h, w) <= 2 * margin_px:
        raise ValueError(
            f"shift_response: expected two or more images (B, C, H, W) larger than {2 * (reach + margin_px)} px, got "
            f"{tuple(images.shape)}; give more or larger images, or smaller shifts"
        )

    def window(dx: int, dy: int) -> Tensor:
        found = features(images[..., reach - dy : reach - dy + h, reach - dx : reach - dx + w]).double()
        cut = -(-margin_px * found.shape[-1] // w)
        return found[..., cut : found.shape[-2] - cut, cut : found.shape[-1] - cut]

    still = window(0, 0)
    unlike = torch.stack([(still - still.roll(k, 0)).abs().mean() for k in range(1, len(still))]).mean()
    moved = [torch.stack([(still - window(*to)).abs().mean() for to in ((k, 0), (0, k))]).mean() for k in shifts]
    return (torch.stack(moved) / unlike).float()
