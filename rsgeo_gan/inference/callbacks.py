"""Writes the tiles that `rsgeo-gan predict` translates, as GeoTIFFs with provenance, as they come."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from rsgeo_gan.errors import CheckpointError, ProductError
from rsgeo_gan.inference.encoding import Encoding
from rsgeo_gan.manifest import Manifest, item_box, make_item
from rsgeo_gan.provenance import Direction, Provenance, digest_of, fingerprint, sides
from rsgeo_gan.raster import write
from rsgeo_gan.sensors import SENSORS, Scaler

__all__ = ["GeoTIFFWriter"]


class GeoTIFFWriter(BasePredictionWriter):
    """Write each predicted tile on the box of its tile, and a manifest of them.

    The task returns `prediction`, shape (B, C, H, W), in model units, and `tile`, shape (B,), the row of
    the tile in its manifest; the batch holds the validity of the side read, shape (B, 1, H, W). What exceeds the
    tile on all sides is halo and is cropped.

    Args:
        tiles: Folder of the tiles, or their manifest.
        out: Folder of the predictions; `products.json` is written there at the end.
        direction: Which way the task translates; decides the scaler.
    """

    def __init__(self, tiles: str, out: str, direction: Direction = "source_to_target") -> None:
        super().__init__(write_interval="batch")
        sides(direction)
        self.tiles = tiles
        self.out = Path(out)
        self.direction = direction
        self._items: list[pystac.Item] | None = None
        self._products: Manifest | None = None
        self._checkpoint = ""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See that the task translates the way the products are to be scaled.

        Raises:
            ProductError: If it translates another way.
        """
        ways: Any = getattr(pl_module, "ways", {})
        made = next(iter(ways.values()), self.direction)
        if made != self.direction:
            raise ProductError(
                f"GeoTIFFWriter: the task predicts {made}, the writer expects {self.direction}; set its direction "
                f"to {made}."
            )

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Crop, denormalise and write the tiles of a batch."""
        if self._items is None or self._products is None:
            self._items = Manifest.read(self.tiles).items
            self._products = Manifest(self.out / "products.json")
            path = trainer.ckpt_path
            self._checkpoint = digest_of(path) if path and Path(path).is_file() else "none: weights in memory"
        read = "mask_valid" if sides(self.direction)[0] == "source" else "mask_valid_target"
        facts = getattr(pl_module, "facts", {})
        scaler = _scaler(facts, sides(self.direction)[1])
        encoding = Encoding.of(scaler, SENSORS.get(scaler.sensor))
        for image, mask, row in zip(prediction["prediction"], batch[read], prediction["tile"], strict=True):
            tile = self._items[int(row)]
            item = self._write(tile, image, mask, encoding, facts)
            self._products.add(item)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the manifest."""
        if self._products is not None:
            self._products.save()

    def _write(
        self,
        tile: pystac.Item,
        image: Tensor,
        mask: Tensor,
        encoding: Encoding,
        facts: dict[str, Any],
    ) -> pystac.Item:
        box = item_box(tile)
        values = _crop(image.detach().float().cpu().numpy(), (box.shape.y, box.shape.x), tile.id)
        valid = _crop(mask.detach().cpu().numpy(), (box.shape.y, box.shape.x), tile.id)[0] > 0
        provenance = Provenance(
            direction=self.direction,
            checkpoint=self._checkpoint,
            recipe=str(facts.get("recipe") or "unknown"),
            sources=(tile.id,),
            radius_px=int(facts.get("radius_px") or 0),
            grid="declared",
            inputs=fingerprint({"tile": tile.id}),
        )
        target = write(
            self.out / f"{tile.id}.tif",
            encoding(values.copy(), valid),
            box,
            valid=valid,
            nodata=encoding.nodata,
            names=encoding.names,
            unit=encoding.unit,
            scale=encoding.scale,
            offset=encoding.offset,
            tags=provenance.tags(),
        )
        return make_item(
            tile.id,
            box,
            when=tile.datetime or datetime.now(UTC),
            properties=provenance.properties(),
            assets={"data": target.resolve()},
        )


def _scaler(facts: dict[str, Any], side: str) -> Scaler:
    if side not in facts:
        raise CheckpointError(
            f"the task knows no scaler of the {side} side, so predictions cannot get physical units; give the "
            "checkpoint (--ckpt_path) that was trained with PairDataModule."
        )
    return Scaler.from_dict(facts[side])


def _crop(values: np.ndarray, shape: tuple[int, int], where: str) -> np.ndarray:
    """Cut the halo, equally wide on opposite sides."""
    rows, cols = (have - want for have, want in zip(values.shape[-2:], shape, strict=True))
    if rows < 0 or cols < 0 or rows % 2 or cols % 2:
        raise ProductError(
            f"{where}: the prediction has {values.shape[-2:]} pixels, the tile {tuple(shape)}; expected the tile "
            "and an equal halo on opposite sides. Predict whole tiles (TileDataset)."
        )
    return values[..., rows // 2 : values.shape[-2] - rows // 2, cols // 2 : values.shape[-1] - cols // 2]
