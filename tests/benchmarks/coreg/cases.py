"""Known displacements and known damage: what is done to a pair, and where its content then lies.

A `Warp` gives the displacement forwards, as a smooth function of where content was. The moved image is made by
inverting it, so that the truth at any position is an evaluation and not an estimate.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import RectBivariateSpline

__all__ = [
    "CASES",
    "FIELD_LENGTH_PX",
    "Case",
    "Tile",
    "Warp",
    "another_look",
    "cut",
    "damage",
    "draw_warp",
    "generator",
    "moved",
    "named",
]

Points = NDArray[np.float64]
Image = NDArray[np.float32]

FIELD_LENGTH_PX = 100.0
"""Distance of the nodes of a smooth field, which is about how long it stays the same."""

_INVERSE_STEP_PX = 8.0
_NOISE = 0.01
_NOISE_DB = 0.3


@dataclass(frozen=True)
class Tile:
    """One side of a case.

    Attributes:
        values: Shape (H, W), float32, NaN where there is no data.
        unit: "dn", "display", "dB" or "linear".
        modality: "optical" or "sar".
    """

    values: Image
    unit: str
    modality: str


@dataclass(frozen=True)
class Case:
    """What is done to the moving side of a pair.

    Attributes:
        name: Unique name.
        shift_px: Range of the length of the shift; its direction is free.
        turn_deg: Largest rotation; at least half of it is drawn, either way.
        scale: Largest relative change of scale, in the same manner.
        field_px: Root mean square length of a smooth field.
        holes: Share of the moving tile that is blanked; of the reference a third of it.
        looks: Looks of additional speckle on the moving tile; 0 for none.
    """

    name: str
    shift_px: tuple[float, float] = (0.0, 0.0)
    turn_deg: float = 0.0
    scale: float = 0.0
    field_px: float = 0.0
    holes: float = 0.0
    looks: float = 0.0


CASES = (
    Case("untouched"),
    Case("sub-pixel", (0.1, 1.0)),
    Case("1 to 5 px", (1.0, 5.0)),
    Case("5 to 12 px", (5.0, 12.0)),
    Case("turned", (0.0, 5.0), turn_deg=1.0, scale=0.01),
    Case("smooth field", (0.0, 5.0), field_px=2.0),
    Case("holes", (0.0, 5.0), holes=0.3),
    Case("speckle", (0.0, 5.0), looks=1.0),
    Case("all", (0.0, 8.0), turn_deg=0.5, scale=0.005, field_px=1.3, holes=0.15, looks=2.0),
)
"""The first one is run once a pair, the others once a draw."""


def generator(*parts: object) -> np.random.Generator:
    """Random numbers that depend on the names alone, not on what was run before."""
    return np.random.default_rng(zlib.crc32("/".join(map(str, parts)).encode()))


@dataclass(frozen=True)
class Warp:
    """A known displacement of content.

    Attributes:
        shift: x, y, pixels.
        linear: Part that grows with the distance from the centre, (2, 2), acting on column vectors (x, y).
        centre: x, y of the tile's centre.
        splines: Smooth field, one spline each for x and y over (row, column); none when empty.
    """

    shift: Points
    linear: Points
    centre: Points
    splines: tuple[RectBivariateSpline, ...] = ()

    def __call__(self, xy: Points) -> Points:
        """Displacement of what lay at xy, pixels, shape (N, 2)."""
        out = self.shift + (xy - self.centre) @ self.linear.T
        if self.splines:
            out = out + np.stack([part.ev(xy[:, 1], xy[:, 0]) for part in self.splines], axis=1)
        return out

    def origin(self, xy: Points) -> Points:
        """Where content lay that is at xy now."""
        found = xy - self(xy)
        # The displacement changes by at most a tenth of a pixel a pixel, so every round gains a digit.
        for _ in range(12):
            found = xy - self(found)
        return found

    @property
    def still(self) -> bool:
        """Whether nothing is moved at all."""
        return not (self.shift.any() or self.linear.any() or self.splines)


def draw_warp(case: Case, shape: tuple[int, int], rng: np.random.Generator) -> Warp:
    """Draw a displacement of the kind that a case asks for.

    Args:
        case: Ranges.
        shape: Rows and columns of the tile.
        rng: Random numbers.

    Returns:
        The displacement.
    """
    height, width = shape
    length, direction = rng.uniform(*case.shift_px), rng.uniform(0.0, 2 * np.pi)
    shift = length * np.array([np.cos(direction), np.sin(direction)])
    turn, stretch = (rng.uniform(0.5, 1.0, 2) * rng.choice((-1.0, 1.0), 2)) * (np.deg2rad(case.turn_deg), case.scale)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = (1.0 + stretch) * rotation - np.eye(2)
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    if not case.field_px:
        return Warp(shift, linear, centre)
    # Two nodes beyond the tile on each side, because content moves in from there.
    rows, columns = (
        np.arange(-2, int(np.ceil(side / FIELD_LENGTH_PX)) + 3) * FIELD_LENGTH_PX for side in (height, width)
    )
    nodes = rng.normal(size=(2, rows.size, columns.size))
    y, x = np.linspace(0, height - 1, 24), np.linspace(0, width - 1, 24)
    inside = np.stack([RectBivariateSpline(rows, columns, part)(y, x) for part in nodes])
    nodes *= case.field_px / np.sqrt((inside**2).sum(axis=0).mean())
    return Warp(shift, linear, centre, tuple(RectBivariateSpline(rows, columns, part) for part in nodes))


def cut(values: Image, corner: tuple[int, int], shape: tuple[int, int]) -> Image:
    """A copy of a part: corner is row, column."""
    return values[corner[0] : corner[0] + shape[0], corner[1] : corner[1] + shape[1]].copy()


def moved(tile: Tile, warp: Warp, corner: tuple[int, int], shape: tuple[int, int]) -> Tile:
    """Resample once, cubic, so that content lies where the warp says; SAR in linear power.

    Args:
        tile: Image larger than the result, so that real content moves in.
        warp: The displacement, in pixels of the result.
        corner: Row and column of the result's corner in the image.
        shape: Rows and columns of the result.

    Returns:
        The moved tile; NaN where the image had no data.
    """
    if warp.still:
        return Tile(cut(tile.values, corner, shape), tile.unit, tile.modality)
    height, width = shape
    y, x = (np.arange(-1, -(-side // _INVERSE_STEP_PX) + 2) * _INVERSE_STEP_PX for side in shape)
    lattice = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    back = (warp.origin(lattice) - lattice).reshape(y.size, x.size, 2)
    row, column = np.arange(height, dtype=float), np.arange(width, dtype=float)
    from_x = column[None, :] + RectBivariateSpline(y, x, back[..., 0])(row, column)
    from_y = row[:, None] + RectBivariateSpline(y, x, back[..., 1])(row, column)
    at = np.stack([from_y + corner[0], from_x + corner[1]])

    values = _linear(tile.values) if tile.unit == "dB" else tile.values
    known = np.isfinite(values)
    lowest, middle, highest = (float(f(values[known])) for f in (np.min, np.median, np.max))
    filled = np.where(known, values, np.float32(middle))
    out = ndimage.map_coordinates(filled, at, order=3, mode="nearest", output=np.float32)
    out = np.clip(out, lowest, highest)
    missing = ndimage.map_coordinates((~known).astype(np.float32), at, order=1, mode="constant", cval=1.0)
    out[missing > 0.01] = np.nan
    return Tile(_decibel(out) if tile.unit == "dB" else out, tile.unit, tile.modality)


def damage(reference: Tile, moving: Tile, case: Case, rng: np.random.Generator) -> tuple[Tile, Tile]:
    """Speckle the moving tile and punch holes into both, as the case asks.

    Speckle is that of intensity for dB and linear power, that of amplitude for other units.
    """
    values = moving.values
    if case.looks:
        power = rng.gamma(case.looks, 1 / case.looks, values.shape).astype(np.float32)
        if moving.unit == "dB":
            values = values + 10 * np.log10(np.maximum(power, 1e-6))
        else:
            values = values * (power if moving.unit == "linear" else np.sqrt(power))
    here = reference.values
    if case.holes:
        values, here = _punched(values, case.holes, rng), _punched(here, case.holes / 3, rng)
    return (
        Tile(here, reference.unit, reference.modality),
        Tile(values.astype(np.float32), moving.unit, moving.modality),
    )


def another_look(tile: Tile, rng: np.random.Generator) -> Tile:
    """The same content as another acquisition might show it: gain, offset, gamma and a little noise."""
    values = tile.values
    if tile.unit == "dB":
        out = values + rng.uniform(-3, 3) + rng.normal(0, _NOISE_DB, values.shape)
        return Tile(out.astype(np.float32), tile.unit, tile.modality)
    low, high = np.nanpercentile(values, (0.5, 99.5))
    span = max(float(high - low), 1e-6)
    gamma, gain, offset = rng.uniform(0.8, 1.25), rng.uniform(0.75, 1.3), rng.uniform(0.0, 0.2)
    level = np.clip((values - low) / span, 0, None) ** gamma
    out = low + span * (gain * level + offset + rng.normal(0, _NOISE, values.shape))
    return Tile(np.maximum(out, 1e-3).astype(np.float32), tile.unit, tile.modality)


def _punched(values: Image, share: float, rng: np.random.Generator) -> Image:
    """Blank rectangles until a share of the pixels is missing that was not missing before."""
    out = values.copy()
    height, width = out.shape
    before = np.isnan(out).mean()
    while np.isnan(out).mean() - before < share * (1 - before):
        tall, wide = (
            rng.integers(max(2, height // 16), height // 5 + 1),
            rng.integers(max(2, width // 16), width // 5 + 1),
        )
        row, column = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
        out[row : row + tall, column : column + wide] = np.nan
    return out


def _linear(decibel: Image) -> Image:
    return np.power(np.float32(10), decibel / np.float32(10))


def _decibel(power: Image) -> Image:
    return 10 * np.log10(np.maximum(power, np.float32(1e-6)))


def named(names: Sequence[str] | None) -> tuple[Case, ...]:
    """The untouched case and those asked for."""
    return tuple(case for case in CASES if not names or case.name in names or case.name == "untouched")
