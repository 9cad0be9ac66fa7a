"""Pictures of what is generated, for loggers that show some."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["picture", "show", "tiled"]

_NATURAL = (("b04", "red"), ("b03", "green"), ("b02", "blue"))


def picture(image: Tensor, bands: Sequence[str] | None) -> Tensor:
    """Choose up to three bands, (B, 3, H, W) in [0, 1]: red, green, blue where the names say so, else the first."""
    names = [name.lower() for name in bands or ()]
    natural = [next((k for k, name in enumerate(names) if name in kinds), None) for kinds in _NATURAL]
    known = [k for k in natural if k is not None]
    chosen = known if len(known) == 3 else [0, 1, 2] if image.shape[1] >= 3 else [0, 0, 0]
    return ((image[:, chosen].detach().float().cpu() + 1) / 2).clamp(0, 1)


def tiled(pictures: Tensor, columns: int) -> Tensor:
    """Lay pictures (B, 3, H, W) out in rows, white where the last row is short; shape (3, rows · H, columns · W)."""
    missing = -len(pictures) % columns
    whole = torch.cat([pictures, pictures.new_ones(missing, *pictures.shape[1:])])
    rows = [torch.cat(list(row), dim=-1) for row in torch.split(whole, columns)]
    return torch.cat(rows, dim=-2)


def show(loggers: Iterable[Any], title: str, image: Tensor, step: int) -> None:
    """Hand a picture (3, H, W) to every logger that takes pictures."""
    for logger in loggers:
        add = getattr(getattr(logger, "experiment", None), "add_image", None)
        if add is not None:
            add(title, image, step)
