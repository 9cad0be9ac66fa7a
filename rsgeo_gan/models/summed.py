"""A generator and its residual as one network: what decoupled learning makes, for products and exports."""

from __future__ import annotations

import inspect
import math
from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ["SummedDecoders", "SummedGenerators", "SummedResolvers", "start_at_zero"]

_SHARED = ("in_channels", "out_channels", "size_px", "scale", "latent_dim", "condition_dim", "prior")


def start_at_zero(network: nn.Module) -> nn.Module:
    """Set a network's output layer, called `head`, to zero, so that a residual adds nothing at first.

    Raises:
        ValueError: If it has no such layer.
    """
    head = getattr(network, "head", None)
    if not isinstance(head, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        raise ValueError(
            f"{type(network).__name__}: a residual starts with an output of zero, which needs an output layer called "
            "`head`; use a network of this package, or call its output layer so"
        )
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    return network


class _Summed(nn.Module):
    """Holds both networks and the facts they agree on."""

    def __init__(self, generator: nn.Module, residual: nn.Module) -> None:
        super().__init__()
        self.generator = generator
        self.residual = residual
        for name in _SHARED:
            one, other = (getattr(network, name, None) for network in (generator, residual))
            if one != other:
                raise ValueError(
                    f"{type(self).__name__}: generator and residual are added up, but have {name} {one} and {other}"
                )
            if one is not None:
                setattr(self, name, one)

    @property
    def stride(self) -> int:
        """Pixels that a read origin must be a multiple of."""
        return math.lcm(*(int(getattr(network, "stride", 1)) for network in (self.generator, self.residual)))

    @property
    def receptive_radius_px(self) -> int | None:
        """The larger receptive radius; there is none where one of the networks has none."""
        networks: tuple[Any, ...] = (self.generator, self.residual)
        radii = [network.receptive_radius_px for network in networks]
        return None if None in radii else max(int(radius) for radius in radii)


class SummedGenerators(_Summed):
    """Sum of what two translating networks make, limited to the model domain.

    Args:
        generator: Network trained to be right.
        residual: Network trained to add what makes it look real.

    Raises:
        ValueError: If their bands differ.
    """

    def __init__(self, generator: nn.Module, residual: nn.Module) -> None:
        super().__init__(generator, residual)
        self._takes_mask = [
            "mask" in inspect.signature(network.forward).parameters for network in (generator, residual)
        ]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Translate (B, C, H, W) to (B, C', H, W), float32 in [-1, 1]; `mask` is the validity, (B, 1, H, W)."""
        made, added = (
            network(x, mask=mask) if takes else network(x)
            for network, takes in zip((self.generator, self.residual), self._takes_mask, strict=True)
        )
        return torch.clamp(made + added, -1.0, 1.0)


class SummedDecoders(_Summed):
    """Sum of what two decoders make of a code, limited to the model domain.

    Args:
        generator: Decoder trained to be right.
        residual: Decoder trained to add what makes it look real.

    Raises:
        ValueError: If bands, sizes, codes or conditions differ.
    """

    def forward(self, z: Tensor, condition: Tensor | None = None, origin_px: Tensor | None = None) -> Tensor:
        """Decode (B, d) to (B, C, H, W), float32 in [-1, 1]."""
        given: dict[str, Any] = {"condition": condition, "origin_px": origin_px}
        return torch.clamp(self.generator(z, **given) + self.residual(z, **given), -1.0, 1.0)


class SummedResolvers(_Summed):
    """Sum of what two networks of super-resolution make, under the constraint of the first one if it has any.

    Args:
        generator: Network trained to be right.
        residual: Network trained to add what makes it look real.

    Raises:
        ValueError: If bands or scales differ.
    """

    def __init__(self, generator: nn.Module, residual: nn.Module) -> None:
        super().__init__(generator, residual)
        self._takes_mask = [
            "mask" in inspect.signature(network.forward).parameters for network in (generator, residual)
        ]

    def forward(self, low: Tensor, mask: Tensor | None = None) -> Tensor:
        """Enlarge (B, C, h, w) to (B, C', s · h, s · w), float32; `mask` is the validity, (B, 1, h, w)."""
        made, added = (
            network(low, mask=mask) if takes else network(low)
            for network, takes in zip((self.generator, self.residual), self._takes_mask, strict=True)
        )
        return self.join(made, added, low, mask, self.generator, self.residual)

    @staticmethod
    def join(
        made: Tensor, added: Tensor, low: Tensor, mask: Tensor | None, generator: nn.Module, residual: nn.Module
    ) -> Tensor:
        """Add the details of a residual to an image, and impose the generator's constraint on the sum.

        Args:
            made: What the generator made.
            added: What the residual made: details on an enlargement of the image read, which is taken off.
            low: Image read.
            mask: Its validity.
            generator: Network whose `constrain` imposes its constraint; none is imposed where it has none.
            residual: Network whose `enlarged` tells the enlargement; nothing is taken off where it has none.
        """
        enlarged, constrain = getattr(residual, "enlarged", None), getattr(generator, "constrain", None)
        total = made.float() + (added if enlarged is None else added - enlarged(low, mask)).float()
        return total if constrain is None else cast(Tensor, constrain(total, low, mask))
