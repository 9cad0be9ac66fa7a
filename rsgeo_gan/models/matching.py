"""Looks for the place in references that is most like each place of an image, and puts what lies there in its stead.

Places are cells of one coarse grid that image and references share. Since both know where they lie, the search can be
held to a window around the same place: its memory grows with the number of cells, that of a global search in chunks
likewise, never with the square of it.

Reference: Zhang et al., 2019, arXiv:1903.00834 (SRNTT), section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["PATCH", "Match", "match", "swap"]

PATCH = 3
"""Side of the compared patches, cells."""
_LEAST = 1e-6
_TIE = 1e-6
"""Similarities that differ by less are equal; rounding, which differs between windows of a scene, must not decide."""
_BUDGET = 2**24
"""Scores held at once by a global search."""


@dataclass(frozen=True)
class Match:
    """Where the most similar patches lie.

    Attributes:
        place: Reference, and rows and columns from the patch of the image to that of the reference, cells, shape
            (B, 3, h - 2, w - 2), int64; the reference is -1 where there is no candidate.
        similarity: Cosine of both patches, shape (B, 1, h - 2, w - 2), -1 to 1; -1 where there is no candidate.
    """

    place: Tensor
    similarity: Tensor


def match(
    query: Tensor,
    keys: Tensor,
    valid: Tensor | None = None,
    seen: Tensor | None = None,
    window: int | None = 8,
    budget: int = _BUDGET,
    least: float = _LEAST,
) -> Match:
    """Find for every 3 x 3 patch of an image the patch of the references with the largest cosine.

    Of equally similar patches within a window the nearest is taken, then that of the first reference; without one, the
    first.

    Args:
        query: Features of the image, shape (B, C, h, w), h and w at least 3.
        keys: Features of the references, shape (B, R, C, h, w).
        valid: Cells of the references that may be used, shape (B, R, h, w); a patch needs all of its own.
        seen: Cells of the image that something is wanted for, shape (B, 1, h, w); likewise.
        window: Largest distance of a match along rows and along columns, cells; None for the whole reference.
        budget: Scores held at once without a window; any number gives the same answer.
        least: Length of a patch's features below which it has no direction: shorter ones count as so long.

    Returns:
        The match of each patch, by its middle cell without the outermost ones.

    Raises:
        ValueError: If shapes do not fit or the image is smaller than a patch.
    """
    batch, height, width = len(query), *query.shape[-2:]
    if keys.ndim != 5 or keys.shape[0] != batch or keys.shape[2:] != query.shape[1:] or min(height, width) < PATCH:
        raise ValueError(
            f"match: expected an image of {PATCH} x {PATCH} cells or more and references on the same grid, got "
            f"{tuple(query.shape)} and {tuple(keys.shape)}"
        )
    count = keys.shape[1]
    query, keys = query.float(), keys.float()
    usable = _patches_of(valid, (batch, count, height, width), query)
    wanted = _patches_of(seen, (batch, 1, height, width), query)
    lengths = (
        _summed(query.square().sum(dim=1, keepdim=True)).clamp_min(0).sqrt().clamp_min(least),
        _summed(keys.square().sum(dim=2)).clamp_min(0).sqrt().clamp_min(least),
    )
    if window is None:
        best, place = _anywhere(query, keys, usable, lengths, budget)
    else:
        best, place = _near(query, keys, usable, lengths, window)
    found = wanted & torch.isfinite(best)
    place = torch.where(found, place, place.new_tensor([-1, 0, 0]).view(1, 3, 1, 1))
    return Match(place, torch.where(found, best.clamp(-1, 1), -1.0))


def _summed(x: Tensor) -> Tensor:
    """Sum over the patch around each inner cell, (B, N, h, w) to (B, N, h - 2, w - 2)."""
    return F.avg_pool2d(x, PATCH, 1) * PATCH**2


def _patches_of(cells: Tensor | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Which patches consist of given cells only."""
    inner = (*shape[:2], shape[2] - PATCH + 1, shape[3] - PATCH + 1)
    if cells is None:
        return torch.ones(inner, dtype=torch.bool, device=like.device)
    return -F.max_pool2d(-(cells > 0).float(), PATCH, 1) > 0


def _ring(reach_rows: int, reach_cols: int) -> list[tuple[int, int]]:
    """Offsets within reach, nearest first."""
    rows, cols = (range(-reach, reach + 1) for reach in (reach_rows, reach_cols))
    return sorted(((dy, dx) for dy in rows for dx in cols), key=lambda at: (at[0] ** 2 + at[1] ** 2, at))


def _near(
    query: Tensor, keys: Tensor, usable: Tensor, lengths: tuple[Tensor, Tensor], window: int
) -> tuple[Tensor, Tensor]:
    """Search offset by offset: of the scores only the best so far are kept."""
    count, (height, width) = keys.shape[1], query.shape[-2:]
    best = torch.full_like(lengths[0], -torch.inf)
    place = torch.zeros(len(query), 3, *best.shape[-2:], dtype=torch.int64, device=query.device)
    for dy, dx in _ring(*(min(window, size - PATCH) for size in (height, width))):
        # What moves out of the reference is cut off the image as well.
        here = (slice(max(0, -dy), height - max(0, dy)), slice(max(0, -dx), width - max(0, dx)))
        there = (slice(max(0, dy), height - max(0, -dy)), slice(max(0, dx), width - max(0, -dx)))
        inner, moved = (tuple(slice(s.start, s.stop - PATCH + 1) for s in part) for part in (here, there))
        part, at, opposite = query[(..., *here)], (..., inner[0], inner[1]), (..., moved[0], moved[1])
        for number in range(count):
            product = (part * keys[:, number][(..., *there)]).sum(dim=1, keepdim=True)
            norm = lengths[0][at] * lengths[1][:, number, None][opposite]
            score = _summed(product) / norm
            score = torch.where(usable[:, number, None][opposite], score, -torch.inf)
            better = score > best[at] + _TIE
            best[at] = torch.where(better, score, best[at])
            place[at] = torch.where(better, place.new_tensor([number, dy, dx]).view(1, 3, 1, 1), place[at])
    return best, place


def _anywhere(
    query: Tensor, keys: Tensor, usable: Tensor, lengths: tuple[Tensor, Tensor], budget: int
) -> tuple[Tensor, Tensor]:
    """Search all patches of all references, so many of them at a time as the budget allows."""
    batch, count = keys.shape[:2]
    rows, cols = usable.shape[-2:]
    total = rows * cols
    wanted = F.unfold(query, PATCH) / lengths[0].flatten(2)  # (B, 9 C, N)
    best = torch.full((batch, total), -torch.inf, device=query.device)
    index = torch.zeros(batch, total, dtype=torch.int64, device=query.device)
    chunk = max(1, budget // (batch * total))
    for number in range(count):
        offered = F.unfold(keys[:, number], PATCH) / lengths[1][:, number].flatten(1)[:, None]
        allowed = usable[:, number].flatten(1)
        for start in range(0, total, chunk):
            part = slice(start, start + chunk)
            score = offered[:, :, part].transpose(1, 2) @ wanted  # (B, chunk, N)
            score = score.masked_fill(~allowed[:, part, None], -torch.inf)
            top, at = score.max(dim=1)
            better = top > best
            best = torch.where(better, top, best)
            index = torch.where(better, number * total + start + at, index)
    own = torch.arange(total, device=query.device)
    which, there = index // total, index % total
    place = torch.stack([which, there // cols - own // cols, there % cols - own % cols], dim=1)
    return best.view(batch, 1, rows, cols), place.view(batch, 3, rows, cols)


def swap(values: Tensor, place: Tensor, cells: int = 1) -> Tensor:
    """Put the matched patches of the references in the places of an image's own, averaged where they overlap.

    Args:
        values: Features of the references, shape (B, R, C, n · h, n · w).
        place: Of a match on the grid of h x w cells.
        cells: n, features along one cell of that grid; patches are 3 n wide and n apart.

    Returns:
        Shape (B, C, n · h, n · w); 0 where no patch with a match lies.
    """
    batch, count, channels = values.shape[:3]
    height, width = values.shape[-2] // cells, values.shape[-1] // cells
    table = values.reshape(batch, count, channels, height, cells, width, cells)
    table = table.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, channels * cells * cells)
    rows, cols = height - PATCH + 1, width - PATCH + 1
    found = (place[:, :1] >= 0).permute(0, 2, 3, 1).to(values.dtype)  # (B, h - 2, w - 2, 1)
    first = torch.arange(batch, device=values.device).view(-1, 1, 1) * count + place[:, 0].clamp_min(0)
    top = place[:, 1] + torch.arange(rows, device=values.device).view(-1, 1)
    left = place[:, 2] + torch.arange(cols, device=values.device)
    total = values.new_zeros(batch, height, width, table.shape[1])
    share = values.new_zeros(batch, height, width, 1)
    for dy in range(PATCH):
        for dx in range(PATCH):
            taken = table[(first * height + top + dy) * width + left + dx]
            total[:, dy : dy + rows, dx : dx + cols] += torch.where(found > 0, taken, taken.new_zeros(()))
            share[:, dy : dy + rows, dx : dx + cols] += found
    made = (total / share.clamp_min(1)).view(batch, height, width, channels, cells, cells)
    return made.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, height * cells, width * cells)
