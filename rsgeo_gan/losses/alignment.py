"""The shift-insensitive pair loss for images that are only roughly aligned.

It compares real and translated images in the early, low-passed features of the generators' own encoders:
Qing et al. (EO-SAR CycleGAN). Anti-aliasing and the frozen encoder are ours: without a low-pass, strided
features are more sensitive to shifts than pixels are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from rsgeo_gan.losses.correspondence import both_valid
from rsgeo_gan.losses.encoders import Encoder, EncoderTerm, downsample_weight, strict_mask
from rsgeo_gan.losses.reconstruction import masked_mean
from rsgeo_gan.losses.shift import best_shift, shift_tolerant_l1

__all__ = ["PairLoss", "best_shift", "downsample_weight", "shift_tolerant_l1", "strict_mask"]


class PairLoss(EncoderTerm):
    """L_X + L_Y with L_X = mean |h_G(x) - h_G(F(y))| and L_Y = mean |h_F(y) - h_F(G(x))|.

    h is the beginning of a generator's encoder: h_G sees the source domain only, h_F the target
    domain only. Each tap is divided by the detached mean of |h(real)|, so a weight keeps its meaning as h
    learns. With several taps their terms are averaged.

    Args:
        taps: Encoder taps to compare. `down2` is the third stage: stride 4.
        antialias: Low-pass before each stride of h, whatever the generator itself does, and average the taps by
            `pool`. False is the published form, strided and unpooled, which tolerates no shift.
        pool: Side of the averaged cells on each tap, with `antialias`.
        grad: "frozen": h is a moving average of the encoder without gradient, so the loss moves the
            other generator only. "through": h is the live encoder, as published; it can be satisfied by a
            constant h.
        decay: Of the moving average, per step.

    Reference: Qing et al., shift-insensitive EO-SAR translation (pair loss, N = 3).
    """

    def __init__(
        self,
        taps: Sequence[str] = ("down2",),
        *,
        antialias: bool = True,
        pool: int = 2,
        grad: Literal["frozen", "through"] = "frozen",
        decay: float = 0.999,
    ) -> None:
        super().__init__(taps, antialias=antialias, pool=pool, grad=grad, decay=decay)

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
        """Return `pair`; pixels count where both sides are valid over the tap's whole receptive field.

        Raises:
            RuntimeError: If `attach` was not called.
        """
        mask = both_valid(mask_source, mask_target)
        encoder, encoder_back = self._encoders()
        forth = self.compare(encoder, source, fake_source, mask, weight)
        back = self.compare(encoder_back, target, fake_target, mask, weight)
        return {"pair": forth + back}

    def compare(
        self, encoder: Encoder, real: Tensor, fake: Tensor, mask: Tensor | None, weight: Tensor | None
    ) -> Tensor:
        """Return one direction's term, L_X or L_Y."""
        total = torch.zeros((), device=real.device)
        for wanted, found, valid, trust in self.compared(encoder, real, fake, mask, weight):
            scale = masked_mean(wanted.detach().abs(), valid).clamp_min(1e-6)
            total = total + masked_mean((wanted - found).abs(), valid, trust) / scale
        return total / len(self.taps)
