"""The files of a finer scene: which there are, whether they are whole, and whether others may be put in their place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pystac

from rsgeo_gan import raster
from rsgeo_gan.errors import ProductError, SourceError
from rsgeo_gan.ingest.checks import check_whole

__all__ = ["BESIDE", "Sharp", "beside", "check_replaceable", "paths_of", "whole"]

BESIDE = ("similarity", "uncertainty")
"""Rasters that may lie beside the image."""


@dataclass(frozen=True)
class Sharp:
    """A product.

    Attributes:
        path: The COG.
        item: Its STAC item, side products among the assets.
        notes: What a person should know about it, in sentences.
        new: Whether it was made by this call.
    """

    path: Path
    item: pystac.Item
    notes: tuple[str, ...]
    new: bool

    def lines(self) -> list[str]:
        """Say what came of it, for a person."""
        told = self.item.properties
        lines = []
        for found in told.get("rsgeo:references") or ():
            if found.get("applied"):
                lines.append(
                    f"Reference {found['reference']}: moved by {found['dx_px']:+.2f}, {found['dy_px']:+.2f} px of the "
                    f"scene (expected error {found['sigma_px'] or 0:.2f} px)"
                )
        if "rsgeo:gate" in told:
            lines.append(
                f"References show {told['rsgeo:reference_share']:.0%} of the scene; let in there: "
                f"{told['rsgeo:gate']:.0%} on average"
            )
        lines += self.notes
        done = "" if self.new else " (was there already, made from the same inputs)"
        height, width = told["proj:shape"]
        beside = [Path(asset.href).name for name, asset in self.item.assets.items() if name not in ("data", "style")]
        more = f", beside it {', '.join(beside)}" if beside else ""
        return [*lines, f"{width} x {height} pixels in {self.path}{more}{done}"]


def paths_of(out: Path) -> tuple[Path, ...]:
    """Return the rasters that a product may consist of, the image first."""
    return out, *(beside(out, name) for name in BESIDE)


def beside(out: Path, name: str) -> Path:
    """Return where a side product lies."""
    return out.with_name(f"{out.stem}_{name}.tif")


def check_replaceable(out: Path) -> None:
    """See that nothing but an earlier product lies where one is to be written.

    Raises:
        ProductError: If anything else does.
    """
    for path in paths_of(out):
        if path.exists() and not _synthetic(path, out.with_suffix(".json")):
            raise ProductError(
                f"{path} is there already and no earlier product: expected a new name, or that of a product to be made "
                "again. Move it away, or choose another --out."
            )


def _synthetic(path: Path, item: Path) -> bool:
    """Whether a raster says that it was made here; of a damaged one, whether the item beside it does."""
    if not path.is_file():
        return False
    try:
        with raster.opened(path) as dataset:
            return dataset.tags().get("SYNTHETIC") == "YES"
    except SourceError:
        return item.is_file() and '"rsgeo:synthetic"' in item.read_text(encoding="utf-8", errors="replace")


def whole(item: pystac.Item) -> bool:
    """Tell whether all files of a product are there, and no raster is cut off."""
    try:
        for asset in item.assets.values():
            if not Path(asset.href).is_file():
                return False
            if asset.href.endswith(".tif"):
                check_whole(asset.href, "product")
    except SourceError:
        return False
    return True
