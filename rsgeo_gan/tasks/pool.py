"""A history of fakes, so that the discriminator does not forget what the generator did a while ago."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["ImagePool"]


class ImagePool:
    """Keeps earlier fakes and hands out a mix of them and of new ones.

    Once full, each new fake is with probability 1/2 exchanged for an older one, which it replaces. Draws come from
    torch's global CPU generator.

    Reference: Shrivastava et al., 2017, arXiv:1612.07828 (history of refined images).

    Args:
        size: Fakes kept; 0 hands every fake back at once.
    """

    def __init__(self, size: int = 50) -> None:
        if size < 0:
            raise ValueError(f"ImagePool: size must be >= 0, got {size}")
        self.size = size
        self._kept: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._kept)

    def __call__(self, images: Tensor) -> Tensor:
        """Exchange some images of a batch.

        Args:
            images: New fakes, detached, shape (B, C, H, W).

        Returns:
            Same shape.
        """
        if not self.size:
            return images
        chosen = []
        for image in images:
            if len(self._kept) < self.size:
                self._kept.append(image.clone())
                chosen.append(image)
            elif torch.rand(()) < 0.5:
                place = int(torch.randint(self.size, ()))
                kept = self._kept[place].to(image.device)
                chosen.append(kept if kept.shape == image.shape else image)
                self._kept[place] = image.clone()
            else:
                chosen.append(image)
        return torch.stack(chosen)

    def state(self) -> list[Tensor]:
        """Return the kept fakes, on the CPU."""
        return [image.cpu() for image in self._kept]

    def load(self, state: list[Any]) -> None:
        """Take over what `state` returned."""
        self._kept = list(state[: self.size])
