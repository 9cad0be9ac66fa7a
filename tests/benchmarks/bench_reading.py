"""Random training pairs a second: prepared tiles against torchgeo on the scenes themselves.

    python tests/benchmarks/bench_reading.py --size 4096

The scenes are an optical one in UTM and a SAR one on a geographic grid, both much larger than GDAL's block cache,
which is held at 24 MiB, as it is with an archive. Preparing the tiles is timed apart: it happens once.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import time
from pathlib import Path

os.environ["GDAL_CACHEMAX"] = "24"

import numpy as np
from common import EO_BANDS, SAR_BANDS, WHEN, arguments, box, folder, interleave, optical, quiet, radar, ratios, table

PATCH, BATCH = 256, 8


def scenes(here: Path, size: int) -> tuple[Path, Path]:
    from rsgeo_gan import raster

    raster.write(here / "eo.tif", optical(size), box(size), nodata=0, names=EO_BANDS, compress="deflate")
    wide = size + size // 2
    raster.write(
        here / "sar.tif", radar(wide), box(wide, "EPSG:4326"), nodata=float("nan"), names=SAR_BANDS, unit="dB",
        compress="deflate",
    )  # fmt: skip
    return here / "eo.tif", here / "sar.tif"


def prepare(here: Path, eo: Path, sar: Path, size: int) -> Path:
    """Cut the pair into tiles as the tile stage does."""
    from rsgeo_gan.catalog import Tiling
    from rsgeo_gan.displacement import Displacement
    from rsgeo_gan.grid import Grid
    from rsgeo_gan.manifest import Manifest, make_item
    from rsgeo_gan.raster import inspect
    from rsgeo_gan.tiling import tile

    scenes, pairs = Manifest(here / "scenes" / "scenes.json"), Manifest(here / "pairs" / "pairs.json")
    for name, path, side, sensor, bands in (
        ("eo", eo, "source", "sentinel2-l2a", EO_BANDS),
        ("sar", sar, "target", "sentinel1-rtc-db", SAR_BANDS),
    ):
        facts = {"rsgeo:sensor": sensor, "rsgeo:side": side, "rsgeo:bands": list(bands), "rsgeo:offset_dn": 0}
        scenes.add(make_item(name, inspect(path).geobox, when=WHEN, properties=facts, assets={"data": path}))
    still = Displacement.none(box(size), reason="", reliable=True)
    facts = {"rsgeo:source_item": "eo", "rsgeo:target_item": "sar", "rsgeo:displacement": still.to_dict()}
    pairs.add(make_item("pair", box(size), when=WHEN, properties={**facts, "rsgeo:reliable": True}, assets={}))
    grid = Grid("EPSG:32632", 10.0, 512, (600000.0, 5300040.0))
    settings = Tiling(min_valid=0.5, buffer_px=0)
    tile(pairs, scenes, grid, settings, here / "tiles")
    return here / "tiles"


def main() -> None:
    quiet()
    options = arguments(__doc__.splitlines()[0], size=2048, rounds=3, pairs=48)
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import RandomPatchSampler

    from rsgeo_gan.datamodules import PairDataModule

    with folder() as here:
        eo, sar = scenes(here, options.size)
        start = time.perf_counter()
        tiles = prepare(here, eo, sar, options.size)
        prepared = time.perf_counter() - start

        class Optical(RasterDataset):
            filename_glob = "eo.tif"

        class Radar(RasterDataset):
            filename_glob = "sar.tif"

        def torchgeo(workers: int, n: int) -> DataLoader:
            with contextlib.redirect_stdout(io.StringIO()):
                pair = Optical(str(eo)) & Radar(str(sar))
            sampler = RandomPatchSampler(pair, size=PATCH, length=n)
            return DataLoader(pair, BATCH, sampler=sampler, num_workers=workers, collate_fn=stack_samples)

        def ours(cache_mb: float) -> DataLoader:
            data = PairDataModule(
                str(tiles), PATCH, BATCH, options.pairs, min_valid=0.5, val_length=1, cache_mb=cache_mb, num_workers=0
            )
            data.setup("fit")
            return data.train_dataloader()

        def whole(loader: DataLoader) -> float:
            start, seen = time.perf_counter(), 0
            for batch in loader:
                seen += len(batch["image"])
            return (time.perf_counter() - start) / seen

        plain, single, held = torchgeo(0, options.pairs), ours(0), ours(128)
        cases = {
            "torchgeo, 0 workers": lambda: whole(plain),
            "rsgeo_gan tiles, every window from the file": lambda: whole(single),
            "rsgeo_gan tiles, neighbourhoods held": lambda: whole(held),
        }
        seconds = interleave(cases, options.rounds)
    faster = ratios(seconds, "torchgeo, 0 workers")
    rows = [[name, f"{1 / statistics.median(seconds[name]):.0f}", faster[name]] for name in cases]
    table(f"Reading random pairs of {PATCH} px, scenes of {options.size}", ["reader", "pairs/s", "speed"], rows)
    tiles_a_second = np.ceil(options.size / 512) ** 2 / prepared
    table(
        "Preparing, once",
        ["", "s", "tiles of 512 px/s"],
        [["warp, cut, write", f"{prepared:.1f}", f"{tiles_a_second:.1f}"]],
    )


if __name__ == "__main__":
    main()
