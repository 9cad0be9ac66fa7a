"""What a training measures once on its first batches, the same in every process: statistics of features, a floor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn

__all__ = ["agree", "fit_features"]


@torch.no_grad()
def agree(measured: bool, values: Iterable[Tensor]) -> bool:
    """Give all processes what the first of them holds that has measured something.

    All processes must call this, with values of the same shapes.

    Args:
        measured: Whether this process has.
        values: Tensors that are written in place.

    Returns:
        Whether any process has; the same in all of them.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return measured
    every: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(every, measured)
    if not any(every):
        return False
    for value in values:
        distributed.broadcast(value, every.index(True))
    return True


def fit_features(module: nn.Module | None, images: Tensor, mask: Tensor) -> bool:
    """Standardise the feature networks within a module that are not yet, on the valid part of images.

    Args:
        module: Anything with feature networks in it, such as a perceptual distance.
        images: Shape (B, C, H, W), model domain.
        mask: Validity, shape (B, 1, H, W).

    Returns:
        Whether all are standardised now, in every process alike.
    """
    done = True
    for part in [] if module is None else module.modules():
        if getattr(part, "fitted", None) is None or bool(part.fitted):
            continue
        cast(Any, part).fit(images, mask)
        done = agree(bool(part.fitted), part.buffers()) and done
    return done
