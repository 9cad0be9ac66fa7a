"""Rows of images between which one thing changes: truncation, latent, or a condition of the same place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rsgeo_gan.catalog import SyntheticProducts
from rsgeo_gan.conditions import Classes, Cyclic, Part
from rsgeo_gan.inference.synthesis import ALL, Cell, corner, plan, read_model
from rsgeo_gan.inference.synthesizer import Synthesizer
from rsgeo_gan.manifest import Manifest
from rsgeo_gan.provenance import noise_seed

__all__ = ["Walk", "between", "walks"]


class Walk(NamedTuple):
    """One row of images.

    Attributes:
        title: What changes, of what.
        captions: What each image is, shape (N,).
        images: Analysis units, float32, shape (N, C, H, W), NaN where a real image is invalid.
    """

    title: str
    captions: tuple[str, ...]
    images: np.ndarray


def walks(
    synthesizer: Synthesizer,
    settings: SyntheticProducts,
    tiles: Manifest | None = None,
    *,
    steps: int = 7,
    most_classes: int = 4,
) -> list[Walk]:
    """Walk through what a model can make.

    One row a class over the truncation from 0 to 1, one a class from one latent to another, and one for every
    condition of the model over all its values. Where the model has an encoder and tiles are given, the latter row shows
    the first tile itself and keeps its place.

    Args:
        synthesizer: The model.
        settings: Classes, seed and further conditions, as for products.
        tiles: Tiles that give conditions, and places to keep.
        steps: Images in a row.
        most_classes: Classes that get rows of their own.

    Returns:
        The rows.

    Raises:
        CatalogError, SourceError: As `synthesize`.
    """
    cells = plan(synthesizer, settings.model_copy(update={"count": 1, "latent": "noise"}), tiles)
    rows = [_truncation(synthesizer, cell, steps) for cell in cells[:most_classes]]
    rows += [_latents(synthesizer, cell, settings, steps) for cell in cells[:most_classes]]
    return rows + [_condition(synthesizer, cells[0], part, steps) for part in synthesizer.conditions.parts]


def between(first: Tensor, last: Tensor, share: float, *, uniform: bool = False) -> Tensor:
    """Return a latent between two others.

    Along the arc for normal priors, whose latents all have nearly the same length; along the line for uniform ones.

    Args:
        first: Shape (1, n).
        last: Same shape.
        share: 0 for the first, 1 for the last.
        uniform: Whether the prior is uniform.
    """
    cosine = torch.nn.functional.cosine_similarity(first, last).clamp(-1, 1)
    angle = torch.acos(cosine)
    if uniform or share in (0, 1) or float(angle.sin()) < 1e-4:
        return torch.lerp(first, last, share)
    return (torch.sin((1 - share) * angle) * first + torch.sin(share * angle) * last) / torch.sin(angle)


def _truncation(synthesizer: Synthesizer, cell: Cell, steps: int) -> Walk:
    latent = synthesizer.latent(cell.seed)
    values = np.linspace(0, 1, steps)
    images = [_make(synthesizer, latent, cell, cell.asked, truncation=float(psi)) for psi in values]
    return Walk(f"{_name(cell)}truncation", tuple(f"ψ = {psi:.2f}" for psi in values), np.stack(images))


def _latents(synthesizer: Synthesizer, cell: Cell, settings: SyntheticProducts, steps: int) -> Walk:
    first, last = (synthesizer.latent(noise_seed(f"{settings.seed}:{cell.label}:{number}")) for number in range(2))
    uniform = getattr(synthesizer.generator, "prior", "normal") == "uniform"
    values = np.linspace(0, 1, steps)
    images = [
        _make(synthesizer, between(first, last, float(share), uniform=uniform), cell, cell.asked, first)
        for share in values
    ]
    return Walk(f"{_name(cell)}one latent to another", tuple(f"{share:.2f}" for share in values), np.stack(images))


def _condition(synthesizer: Synthesizer, cell: Cell, part: Part, steps: int) -> Walk:
    """One condition over all its values, everything else as it is."""
    values = _values(part, steps)
    captions = [_caption(part, value) for value in values]
    images = []
    if synthesizer.encoder is not None and cell.tile is not None:
        image, valid = read_model(cell.tile, cell.box, synthesizer)
        latent, what = synthesizer.encode(image), "the same place"
        captions.insert(0, "real")
        images.append(np.where(valid, synthesizer.scaler.inverse(image), np.float32(np.nan)))
    else:
        latent, what = synthesizer.latent(cell.seed), "the same noise"
    images += [_make(synthesizer, latent, cell, {**cell.asked, part.name: value}) for value in values]
    rest = "" if isinstance(part, Classes) else _name(cell)
    return Walk(f"{rest}{part.name}, {what}", tuple(captions), np.stack(images))


def _values(part: Part, steps: int) -> Sequence[Any]:
    if isinstance(part, Classes):
        return part.classes
    if isinstance(part, Cyclic):
        return [part.period * number / steps for number in range(steps)]
    return [float(value) for value in np.linspace(part.low, part.high, steps)]


def _caption(part: Part, value: Any) -> str:
    return str(value) if isinstance(part, Classes) else f"{value:.4g} {part.unit}".rstrip()


def _name(cell: Cell) -> str:
    return "" if cell.label == ALL else f"{cell.label}: "


def _make(
    synthesizer: Synthesizer,
    latent: Tensor,
    cell: Cell,
    asked: Mapping[str, Any],
    noise: Tensor | None = None,
    truncation: float = 1.0,
) -> np.ndarray:
    model = synthesizer(latent, asked, origin_px=corner(cell.box), truncation=truncation, noise=noise)
    return synthesizer.scaler.inverse(model)
