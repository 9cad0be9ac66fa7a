"""PatchNCE between paired images of one kind, tolerant to small shifts.

Reference: Park et al., 2020, arXiv:2007.15651 (CUT). Ours are encoders that see their own domain on both sides, and
that any key near the query's position is a positive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from rsgeo_gan.losses.correspondence import both_valid
from rsgeo_gan.losses.encoders import Encoder, EncoderTerm

__all__ = ["PatchNCE", "window_nce"]


class PatchNCE(EncoderTerm):
    """A place of a fake must resemble its own surroundings in the paired image more than other places of it.

    Queries are h_F(G(x)) and h_G(F(y)), keys h_F(y) and h_G(x), detached unless `grad` is "through". Features are
    taken relative to their mean over the image, so that their cosine tells places apart without a trained projection.

    Args:
        taps: Encoder taps to compare; with several their terms are averaged.
        window: Positives lie up to this many positions of the tap (4 px for `down2`) from the query.
        positions: Most queries, and most negatives, an image and tap; drawn where both sides are valid.
        temperature: Of the softmax.
        antialias: As in `PairLoss`.
        pool: As in `PairLoss`.
        grad: As in `PairLoss`.
        decay: As in `PairLoss`.
    """

    factors: Mapping[str, float] = MappingProxyType({"nce": 1.0})

    def __init__(
        self,
        taps: Sequence[str] = ("down2",),
        *,
        window: int = 1,
        positions: int = 256,
        temperature: float = 0.07,
        antialias: bool = True,
        pool: int = 1,
        grad: Literal["frozen", "through"] = "frozen",
        decay: float = 0.999,
    ) -> None:
        super().__init__(taps, antialias=antialias, pool=pool, grad=grad, decay=decay)
        if window < 0 or positions < 1 or temperature <= 0:
            raise ValueError(
                "PatchNCE: expected window >= 0, positions >= 1 and temperature > 0, got "
                f"{window}, {positions}, {temperature}"
            )
        self.window = window
        self.positions = positions
        self.temperature = temperature

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
        """Return `nce`, summed over both directions.

        Raises:
            RuntimeError: If `attach` was not called.
        """
        mask = both_valid(mask_source, mask_target)
        encoder, encoder_back = self._encoders()
        back = self._compare(encoder, source, fake_source, mask, weight)
        return {"nce": back + self._compare(encoder_back, target, fake_target, mask, weight)}

    def _compare(
        self, encoder: Encoder, real: Tensor, fake: Tensor, mask: Tensor | None, weight: Tensor | None
    ) -> Tensor:
        total = torch.zeros((), device=real.device)
        for keys, queries, valid, trust in self.compared(encoder, real, fake, mask, weight):
            total = total + window_nce(queries, keys, valid, trust, self.window, self.positions, self.temperature)
        return total / len(self.taps)


def window_nce(
    queries: Tensor,
    keys: Tensor,
    valid: Tensor | None = None,
    weight: Tensor | None = None,
    window: int = 1,
    positions: int = 256,
    temperature: float = 0.07,
) -> Tensor:
    """Cross-entropy of finding a query's surroundings among the places of its own image.

    With the sums of exp(cosine / temperature) P over valid keys within the window and N over the drawn ones beyond
    it, -log(P / (P + N)), averaged over queries.

    Args:
        queries: Features, shape (B, C, h, w).
        keys: Features, same shape.
        valid: Where positions count, shape (B, 1, h, w).
        weight: Trust, (B,) or broadcastable to (B, 1, h, w); scales a query's term and is not divided out.
        window: Largest distance of a positive along either axis, in positions.
        positions: Most queries and negatives an image.
        temperature: Of the softmax.

    Returns:
        Scalar, float32; zero when nothing is valid.
    """
    b, _, h, w = queries.shape
    valid = queries.new_ones(b, 1, h, w) if valid is None else valid
    trust = queries.new_ones(b, 1, h, w)
    if weight is not None:
        trust = trust * (weight.float().view(-1, 1, 1, 1) if weight.ndim == 1 else weight.float())
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys = (_unit(part.float(), valid) for part in (queries, keys))
        total, count = queries.sum() * 0.0, 0
        for query, key, known, believed in zip(queries, keys, valid[:, 0] > 0, trust[:, 0], strict=True):
            places = known.nonzero()  # (n, 2)
            if not len(places):
                continue
            chosen = places[torch.randperm(len(places), device=places.device)[:positions].sort().values]
            row, column = chosen.unbind(1)
            here = query[:, row, column].T / temperature  # (p, C)
            far = (chosen[:, None] - chosen).abs().amax(dim=2) > window
            others = (here @ key[:, row, column]).masked_fill(~far, -torch.inf)
            steps = torch.arange(-window, window + 1, device=places.device)
            near = chosen[:, None] + torch.cartesian_prod(steps, steps).view(-1, 2)  # (p, k, 2)
            inside = F.pad(known, (window,) * 4)[(near + window).unbind(2)]
            at = near[..., 0].clamp(0, h - 1), near[..., 1].clamp(0, w - 1)
            own = torch.einsum("pc,cpk->pk", here, key[:, *at]).masked_fill(~inside, -torch.inf)
            term = torch.cat([own, others], dim=1).logsumexp(dim=1) - own.logsumexp(dim=1)
            total, count = total + (term * believed[row, column]).sum(), count + len(chosen)
    return total / max(count, 1)


def _unit(features: Tensor, valid: Tensor) -> Tensor:
    """Length 1 along the channels, after the image's mean over valid positions is taken out."""
    mean = (features * valid).sum(dim=(2, 3), keepdim=True) / valid.sum(dim=(2, 3), keepdim=True).clamp_min(1.0)
    return F.normalize((features - mean) * valid, dim=1, eps=1e-6)
