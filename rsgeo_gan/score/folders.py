"""From folders to scores: read, bring to one number and one storage, compare, write."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rsgeo_gan.errors import CatalogError, SourceError
from rsgeo_gan.manifest import check_writable
from rsgeo_gan.progress import Progress, silent
from rsgeo_gan.report.drawing import save
from rsgeo_gan.score.images import Folder, ImageSet, look, short_names, tiles_of
from rsgeo_gan.score.judging import JUDGES, Scores, compare, model_domain
from rsgeo_gan.score.networks import check_backend, make_backend
from rsgeo_gan.score.picture import picture
from rsgeo_gan.score.tables import write_tables
from rsgeo_gan.sensors import Scaler

__all__ = ["score_folders"]

log = logging.getLogger(__name__)

_FEWEST = 10
"""Tiles a set must have: half of them are compared, more than the neighbours of precision and recall."""
_LARGEST_PX = 128
_SMALLEST_PX = 16
_PERCENTILES, _MARGIN = (0.1, 99.9), 0.02
_MOST_VALUES = 2_000_000
_ALIKE = 1.25
"""Ratio of pixel sizes up to which nothing is said."""


def score_folders(
    real: Path | str,
    fakes: Sequence[Path | str],
    out: Path | str,
    *,
    backend: str = "random-conv",
    weights: Path | None = None,
    tile_px: int | None = None,
    bands: Sequence[int] | None = None,
    sensors: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    asset: str | None = None,
    split: str | None = None,
    judge: str = "quick",
    levels: bool = False,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    draws: int = 20,
    most: int = 1000,
    min_valid: float = 0.95,
    strict: bool = False,
    progress: Progress = silent,
) -> Scores:
    """Judge folders of rasters against a folder of real ones, and write a table and a figure.

    Any rasters that GDAL reads will do, georeferenced or not; only the number of bands must agree. They are cut to
    tiles, and values are scaled by the range of the real set. Rasters with whole numbers and such with floating point
    are brought to the same steps of values, so that storage gives nobody away.

    Args:
        real: Folder of real images.
        fakes: Folders to be judged.
        out: Folder for `scores.json`, `scores.csv`, `scores.md` and `scores.png`.
        backend: Feature network, one of `BACKENDS`.
        weights: Local file of its weights.
        tile_px: Side of the tiles; by default that of the smallest raster, at most 128.
        bands: Bands to use, counted from 1.
        sensors: What values are where files do not say: none, one for all folders, or one per folder, the real one
            first ("" for none).
        classes: Only these classes.
        asset: Asset of STAC items that holds the image.
        split: Of the real folder only items with this `rsgeo:split`.
        judge: How judges of the relative discriminative score are trained, one of `JUDGES`.
        levels: Whether to compare level by level of frequency too.
        seeds: One judge each; the first one also seeds every choice.
        draws: Random halves an interval is made of.
        most: Tiles of a set that are read.
        min_valid: Share of valid pixels a tile needs.
        strict: Refuse generated sets of unequal size instead of drawing as many tiles from each.
        progress: Receives the step and how far it is.

    Returns:
        The scores.

    Raises:
        CatalogError: If an argument is not one of its choices.
        SourceError: If a folder is empty, unreadable, has mixed or other bands than the real one, or too few tiles.
        CheckpointError: If weights are missing or do not fit.
        ProductError: If the output cannot be written.
    """
    if not fakes:
        raise CatalogError("There is nothing to judge: expected at least one folder beside the real one, got none.")
    if judge not in JUDGES:
        raise CatalogError(f"There is no judge {judge!r}; expected one of {', '.join(JUDGES)}.")
    check_backend(backend, weights)
    paths = [Path(real), *map(Path, fakes)]
    folders = [
        look(
            path,
            bands=bands,
            sensor=told or None,
            asset=asset,
            split=split if number == 0 else None,
            classes=classes,
        )
        for number, (path, told) in enumerate(zip(paths, _each(sensors, len(paths)), strict=True))
    ]
    notes = _together(folders)
    side = _side(folders, tile_px)
    names = ["real", *(f"generated {n}" if n == "real" else n for n in short_names(paths[1:]))]
    sets = [
        tiles_of(folder, name, side, most=most, min_valid=min_valid, seed=seeds[0], progress=progress)
        for folder, name in zip(folders, names, strict=True)
    ]
    notes += [note for one in sets for note in one.notes]
    for one in sets:
        if len(one) < _FEWEST:
            raise SourceError(
                f"Folder {one.folder.path}: expected at least {_FEWEST} tiles of {side} px with "
                f"{100 * min_valid:.0f} % valid pixels, got {len(one)} from "
                f"{len(one.folder.files)} rasters{_left_out(one)}; give more rasters, smaller tiles (--tile-px) or a "
                "lower --min-valid."
            )
    sets = [sets[0], *_equal(sets[1:], strict, seeds[0], notes)]
    _same_steps(sets, notes)
    scaler = _scaler(sets[0], folders)
    _same_range(sets, notes)
    images, mask = model_domain(sets[0], scaler)
    network = make_backend(backend, weights, scaler, images, mask)
    check_writable(Path(out))
    scores = compare(
        sets,
        scaler,
        network,
        judge=JUDGES[judge],
        levels=levels,
        seeds=seeds,
        draws=draws,
        notes=notes,
        progress=progress,
    )
    for note in notes:
        log.info("score: %s", note)
    write_tables(scores, Path(out))
    save(picture(scores, sets), Path(out) / "scores.png")
    return scores


def _left_out(one: ImageSet) -> str:
    return f" ({'; '.join(note.partition(': ')[2] for note in one.notes)})" if one.notes else ""


def _each(sensors: Sequence[str], count: int) -> list[str]:
    """One sensor per folder."""
    if len(sensors) in (0, 1):
        return list(sensors) * count if sensors else [""] * count
    if len(sensors) != count:
        raise CatalogError(
            f"Expected no sensor, one for all folders, or one for each of the {count} folders (the real one first), "
            f"got {len(sensors)}."
        )
    return list(sensors)


def _together(folders: Sequence[Folder]) -> list[str]:
    """Refuse folders that cannot be compared; say what makes a comparison doubtful."""
    real, notes = folders[0], []
    for other in folders[1:]:
        if len(other.bands) != len(real.bands):
            raise SourceError(
                f"Folder {other.path}: expected {len(real.bands)} bands as in {real.path} ({', '.join(real.bands)}), "
                f"got {len(other.bands)} ({', '.join(other.bands)}); choose the same bands in both (--bands)."
            )
        if other.unit != real.unit and "value" not in (other.unit, real.unit):
            raise SourceError(
                f"Folder {other.path}: expected values in {real.unit} as in {real.path}, got {other.unit}; name the "
                "sensors (--sensor, once per folder) or convert one of them."
            )
        if real.gsd_m and other.gsd_m and not 1 / _ALIKE < other.gsd_m / real.gsd_m < _ALIKE:
            notes.append(
                f"pixels differ in size: {real.gsd_m:.3g} m in {real.path.name}, {other.gsd_m:.3g} m in "
                f"{other.path.name}; textures of unlike scales are compared"
            )
    return notes


def _side(folders: Sequence[Folder], tile_px: int | None) -> int:
    smallest = min(folder.smallest_px for folder in folders)
    side = min(smallest, _LARGEST_PX) if tile_px is None else tile_px
    if side < _SMALLEST_PX:
        raise SourceError(
            f"Tiles of {side} px are too small: expected at least {_SMALLEST_PX}; "
            + ("give --tile-px, which leaves smaller rasters out." if tile_px is None else "give a larger --tile-px.")
        )
    return side


def _equal(fakes: Sequence[ImageSet], strict: bool, seed: int, notes: list[str]) -> list[ImageSet]:
    """Draw as many tiles from every generated set."""
    sizes = [len(one) for one in fakes]
    fewest = min(sizes)
    if fewest == max(sizes):
        return list(fakes)
    told = ", ".join(f"{one.name}: {len(one)}" for one in fakes)
    if strict:
        raise SourceError(
            f"Generated sets differ in size ({told} tiles): unequal sets bias their scores. Give the same number of "
            "tiles in every folder, or drop --strict to draw as many from each."
        )
    notes.append(f"generated sets differ in size ({told} tiles): {fewest} were drawn from each")
    rng = np.random.default_rng(seed)
    return [
        one if len(one) == fewest else one.taken(np.sort(rng.choice(len(one), fewest, replace=False))) for one in fakes
    ]


def _same_steps(sets: Sequence[ImageSet], notes: list[str]) -> None:
    """Round all sets to the coarsest steps of any; continuous values would give away who was stored how."""
    steps = np.max([one.folder.steps for one in sets], axis=0)
    if not steps.any() or all(np.allclose(one.folder.steps, steps) for one in sets):
        return
    for one in sets:
        here = steps.astype(np.float32)[:, None, None]
        rounded = np.round(one.images / np.where(here > 0, here, 1)) * here
        one.images = np.where(here > 0, rounded, one.images).astype(np.float32)
    notes.append(
        f"sets are stored in unlike steps of values: all were rounded to steps of {steps.min():.3g} to "
        f"{steps.max():.3g} {sets[0].folder.unit}"
        if steps.min() < steps.max()
        else f"sets are stored in unlike steps of values: all were rounded to steps of {steps.max():.3g}"
    )


def _scaler(real: ImageSet, folders: Sequence[Folder]) -> Scaler:
    """Scale by the range of the real set; display values keep 0 to 255."""
    bands, unit = real.folder.bands, real.folder.unit
    if all(folder.unit == "display" for folder in folders):
        low, high = (0.0,) * len(bands), (255.0,) * len(bands)
    else:
        values = real.images.transpose(1, 0, 2, 3).reshape(len(bands), -1)
        values = values[:, :: max(1, values.shape[1] // _MOST_VALUES)]
        ends = np.nanpercentile(values.astype(np.float64), _PERCENTILES, axis=1)
        room = _MARGIN * (ends[1] - ends[0])
        low, high = tuple((ends[0] - room).tolist()), tuple((ends[1] + room).tolist())
    try:
        return Scaler(str(real.folder.path.name), unit, bands, low, high)
    except ValueError as error:
        raise SourceError(f"Folder {real.folder.path}: {error} Leave constant bands out (--bands).") from error


def _same_range(sets: Sequence[ImageSet], notes: list[str]) -> None:
    """Say when the values of a set hardly meet those of the real one."""
    low, high = np.nanquantile(sets[0].images, (0.01, 0.99))
    for one in sets[1:]:
        here = np.nanquantile(one.images, (0.01, 0.99))
        overlap = min(high, here[1]) - max(low, here[0])
        if overlap < 0.05 * (high - low) or (here[1] - here[0]) > 20 * (high - low):
            notes.append(
                f"values of {one.name} ({here[0]:.3g} to {here[1]:.3g}) hardly meet the real ones ({low:.3g} to "
                f"{high:.3g}): are the units the same?"
            )
