"""EuroSAT through torchgeo: found or fetched and checked there, collected here.

Reference: Helber et al., EuroSAT: a novel dataset and deep learning benchmark for land use and land cover
classification, IEEE JSTARS 12(7), 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torchgeo.datasets import EuroSAT

from rsgeo_gan.catalog.collecting import CollectSpec, FolderImages, FolderLabels
from rsgeo_gan.splits import RANKS

__all__ = ["eurosat"]


def eurosat(
    root: Path | str, *, bands: Sequence[str] = (), download: bool = False, checksum: bool = True
) -> CollectSpec:
    """Describe the collection of EuroSAT's 27 000 images of 64 x 64 pixels in ten classes.

    The images keep their places, 13 bands of Sentinel-2 level 1C, and the splits that torchgeo uses. The description
    goes to `rsgeo_gan.collect.collect`.

    Args:
        root: Folder of the data set.
        bands: Names of the bands wanted, in order; all when empty.
        download: Fetch what is missing.
        checksum: Verify what is fetched.

    Returns:
        What to collect.

    Raises:
        torchgeo.datasets.DatasetNotFoundError: If the data set is not there and is not to be fetched.
        ValueError: If there is no such band.
    """
    for split in RANKS:
        EuroSAT(str(root), split, tuple(bands) or EuroSAT.all_band_names, download=download, checksum=checksum)
    return CollectSpec(
        images=FolderImages(
            kind="folder",
            path=Path(root) / EuroSAT.base_dir,
            glob="*/*.tif",
            sensor="sentinel2-l1c",
            file_bands=EuroSAT.all_band_names,
            bands=tuple(bands),
            splits={split: Path(root) / EuroSAT.split_filenames[split] for split in RANKS},
        ),
        labels=FolderLabels(kind="folder"),
        tile_px=64,
    )
