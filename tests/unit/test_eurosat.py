from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from affine import Affine
from odc.geo.geobox import GeoBox
from torchgeo.datasets import DatasetNotFoundError, EuroSAT

from rsgeo_gan import raster
from rsgeo_gan.collect import collect
from rsgeo_gan.conditions import Classes, Conditions
from rsgeo_gan.datasets import ImageTileDataset, eurosat


def write_eurosat(root: Path) -> None:
    """Write two classes of three images as EuroSAT lays them out, one of each in every split."""
    lists: dict[str, list[str]] = {split: [] for split in EuroSAT.splits}
    rng = np.random.default_rng(0)
    for kind, name in enumerate(("Forest", "River")):
        for number, split in enumerate(EuroSAT.splits):
            box = GeoBox((64, 64), Affine(10.005, 0, 6e5 + 5000 * kind, 0, -9.99, 5e6 + 5000 * number), "EPSG:32635")
            path = root / EuroSAT.base_dir / name / f"{name}_{number + 1}.tif"
            raster.write(path, rng.integers(300, 4000, (13, 64, 64)).astype(np.uint16), box, cog=False)
            lists[split].append(f"{name}_{number + 1}.jpg")
    for split, names in lists.items():
        (root / EuroSAT.split_filenames[split]).write_text("\n".join(names) + "\n")


def test_what_torchgeo_reads_is_collected_with_its_splits_and_classes(tmp_path: Path) -> None:
    write_eurosat(tmp_path / "eurosat")
    wanted = eurosat(tmp_path / "eurosat", bands=("B04", "B8A"))
    found = collect(wanted.model_copy(update={"min_tiles": 1}), tmp_path / "tiles")
    classes = Conditions((Classes("label", tuple(found.extra["rsgeo:classes"])),))
    for split in EuroSAT.splits:
        theirs = EuroSAT(str(tmp_path / "eurosat"), split, bands=("B04", "B8A"))
        ours = ImageTileDataset(tmp_path / "tiles", split, conditions=classes)
        assert len(theirs) == len(ours) == 2
        for number in range(2):
            torch.testing.assert_close(ours[number]["image"], theirs[number]["image"] * 1e-4)
            assert int(ours[number]["label"]) == int(theirs[number]["label"])


def test_a_missing_data_set_and_a_missing_band_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="download"):
        eurosat(tmp_path)
    with pytest.raises(ValueError, match="'B14' is an invalid band name"):
        eurosat(tmp_path, bands=("B14",))
