"""The generators' own encoders as judges of a correspondence: copied or live, and masked at their strides."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.losses.correspondence import Correspondence, is_per_pixel

__all__ = ["Encoder", "EncoderTerm", "downsample_weight", "strict_mask"]


class Encoder(Protocol):
    """What these terms ask of a generator's `encoder`."""

    def __call__(
        self, x: Tensor, taps: Sequence[str], mask: Tensor | None = None, *, antialias: bool | None = None
    ) -> dict[str, Tensor]:
        """Return features by tap; see `rsgeo_gan.models.ResNetEncoder`."""

    def tap_stride(self, tap: str) -> int:
        """Return a tap's stride in input pixels."""

    def tap_radius_px(self, tap: str, *, antialias: bool | None = None) -> int:
        """Return half a tap's receptive field."""


class EncoderTerm(Correspondence):
    """What terms share that compare images in h, the beginning of a generator's encoder.

    h_G sees the source domain only, h_F the target domain only.

    Args:
        taps: Encoder taps to compare.
        antialias: Low-pass before each stride of h, whatever the generator itself does, and average the taps by
            `pool`.
        pool: Side of the averaged cells on each tap, with `antialias`.
        grad: "frozen": h is a moving average of the encoder without gradient. "through": h is the live encoder.
        decay: Of the moving average, per step.
    """

    def __init__(
        self, taps: Sequence[str], *, antialias: bool, pool: int, grad: Literal["frozen", "through"], decay: float
    ) -> None:
        super().__init__()
        kind = type(self).__name__
        if grad not in ("frozen", "through"):
            raise ValueError(f"{kind}: grad must be 'frozen' or 'through', got {grad!r}")
        if not taps or pool < 1 or not 0.0 <= decay < 1.0:
            raise ValueError(
                f"{kind}: expected one tap or more, pool >= 1 and 0 <= decay < 1, got {tuple(taps)}, {pool}, {decay}"
            )
        self.taps = tuple(taps)
        self.antialias = antialias
        self.pool = pool if antialias else 1
        self.grad = grad
        self.decay = decay
        self.encoder: nn.Module | None = None
        self.encoder_back: nn.Module | None = None

    def attach(self, generator: nn.Module, generator_back: nn.Module) -> None:
        """Copy both encoders ("frozen"), or remember them ("through").

        Raises:
            ValueError: If a generator has no `encoder` with the methods needed.
        """
        live = tuple(_encoder_of(network) for network in (generator, generator_back))
        if self.grad == "through":
            # Outside the module tree: the weights belong to the generators.
            object.__setattr__(self, "_live", live)
            return
        self.encoder, self.encoder_back = (copy.deepcopy(part).requires_grad_(False) for part in live)

    @torch.no_grad()
    def update(self, generator: nn.Module, generator_back: nn.Module) -> None:
        """Move the copies towards the live encoders."""
        if self.encoder is None or self.encoder_back is None:
            return
        for copied, network in ((self.encoder, generator), (self.encoder_back, generator_back)):
            average: list[Tensor] = list(copied.parameters())
            current: list[Tensor] = list(_encoder_of(network).parameters())
            torch._foreach_lerp_(average, current, 1.0 - self.decay)

    def features(self, encoder: Encoder, x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Compute Φ(x), the features the loss compares, by tap."""
        found = encoder(x, self.taps, mask, antialias=self.antialias)
        return {tap: self._pooled(found[tap]) for tap in self.taps}

    def compared(
        self, encoder: Encoder, real: Tensor, fake: Tensor, mask: Tensor | None, weight: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]:
        """Yield for every tap the features of real and fake, float32, their validity and their trust."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.grad == "through"):
            wanted = self.features(encoder, real, mask)
        found = self.features(encoder, fake, mask)
        for tap in self.taps:
            stride = encoder.tap_stride(tap)
            valid = None
            if mask is not None:
                valid = strict_mask(mask, stride, encoder.tap_radius_px(tap, antialias=self.antialias))
                valid = 1.0 - self._pooled(1.0 - valid, largest=True)
            trust = weight
            if is_per_pixel(weight):
                trust = self._pooled(downsample_weight(weight, stride))
            yield wanted[tap].float(), found[tap].float(), valid, trust

    def _pooled(self, x: Tensor, *, largest: bool = False) -> Tensor:
        side = min(self.pool, *x.shape[-2:])
        if side == 1:
            return x
        return F.max_pool2d(x, side) if largest else F.avg_pool2d(x, side)

    def _encoders(self) -> tuple[Encoder, Encoder]:
        pair: tuple[Any, Any] = getattr(self, "_live", (self.encoder, self.encoder_back))
        if pair[0] is None or pair[1] is None:
            raise RuntimeError(f"{type(self).__name__}: no encoders yet; call attach(generator, generator_back) first")
        return pair


def strict_mask(mask: Tensor, stride: int, radius_px: int) -> Tensor:
    """Bring validity to a feature map: a cell counts when its whole receptive field does.

    Args:
        mask: Validity, shape (B, 1, H, W).
        stride: Of the feature map; cell i lies on pixel stride * i.
        radius_px: Half the receptive field. The image's outside does not count against a cell.

    Returns:
        Shape (B, 1, ceil(H / stride), ceil(W / stride)), float32.
    """
    return 1.0 - F.max_pool2d(1.0 - mask.float(), 2 * radius_px + 1, stride, radius_px)


def downsample_weight(weight: Tensor, stride: int) -> Tensor:
    """Average per-pixel weights, (B, 1, H, W), over the cells of a feature map of this stride."""
    return F.avg_pool2d(weight.float(), stride, ceil_mode=True) if stride > 1 else weight.float()


def _encoder_of(network: nn.Module) -> nn.Module:
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, nn.Module) or not hasattr(encoder, "tap_radius_px"):
        raise ValueError(
            "This correspondence: expected a generator with an `encoder` that names its taps, got "
            f"{type(network).__name__}; use ResNetGenerator, or PooledL1 as the correspondence"
        )
    return encoder
