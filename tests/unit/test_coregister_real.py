"""`register` on real scenes: known offsets are found, other places are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rsgeo_gan.coregister import register, views
from rsgeo_gan.displacement import Displacement
from rsgeo_gan.sensors import SENSORS, Sensor

ONE_BAND = Sensor.generic("sentinel2-red", modality="optical", unit="dn", bands=["B04"], scale=1e-4)


def chips(folder: Path, optical: str, sar: str) -> Displacement:
    return register(
        folder / "s1s2-chips-usa" / f"{optical}_s2rgb.tif",
        folder / "s1s2-chips-usa" / f"{sar}_s1vh.tif",
        reference_sensor=SENSORS["sentinel2-display"],
        moving_sensor=SENSORS["sentinel1-display"],
    )


def test_the_offset_of_two_sentinel_dates_is_the_published_one(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "MAX_BLOCKS_A_SIDE", 1)
    folder = shared_data / "coreg-s2-s2-brandenburg"
    reference, moving = sorted(folder.glob("*.jp2"))
    found = register(reference, moving, reference_sensor=ONE_BAND, moving_sensor=ONE_BAND)
    # The target must move by -0.55 columns and +1.7 rows: its content lies to the right and above.
    assert found.reliable, found.reason
    assert (found.dx_px, found.dy_px) == pytest.approx((0.6, -1.8), abs=0.15)


def test_flooded_farmland_is_aligned_to_about_half_a_pixel(shared_data: Path) -> None:
    folder = shared_data / "s1s2-sen1floods11"
    found = register(
        folder / "Spain_7370579_S2Hand.tif",
        folder / "Spain_7370579_S1Hand.tif",
        reference_sensor=SENSORS["sentinel2-l1c"],
        moving_sensor=SENSORS["sentinel1-grd-db"],
    )
    assert found.reliable, found.reason
    assert (found.dx_px, found.dy_px) == pytest.approx((-0.6, -0.6), abs=0.3)


def test_terrain_corrected_pairs_are_within_a_few_pixels_and_accepted(shared_data: Path) -> None:
    for tile in ("38D_378R_2_3", "433D_629L_3_1"):
        found = register(
            shared_data / "s1s2-terramesh" / f"{tile}_S2L2A.tif",
            shared_data / "s1s2-terramesh" / f"{tile}_S1RTC.tif",
            reference_sensor=SENSORS["sentinel2-l2a"],
            moving_sensor=SENSORS["sentinel1-rtc-db"],
        )
        assert found.reliable, f"{tile}: {found.reason}"
        assert np.hypot(found.dx_px, found.dy_px) < 2.5


def test_most_optical_sar_chips_are_answered(shared_data: Path) -> None:
    names = sorted(p.name[:-10] for p in (shared_data / "s1s2-chips-usa").glob("*_s2rgb.tif"))[3::8]
    found = [chips(shared_data, name, name) for name in names]
    accepted = [d for d in found if d.reliable]
    assert len(accepted) >= 0.8 * len(found)
    assert np.median([np.hypot(d.dx_px, d.dy_px) for d in accepted]) < 4


def test_chips_of_different_places_are_refused(shared_data: Path) -> None:
    names = sorted(p.name[:-10] for p in (shared_data / "s1s2-chips-usa").glob("*_s2rgb.tif"))[1::9]
    # The same pixel grid is needed, so the SAR of another place is put where the optical chip lies.
    import rasterio

    from rsgeo_gan.raster import inspect

    accepted = []
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        where = inspect(shared_data / "s1s2-chips-usa" / f"{name}_s2rgb.tif").geobox
        with rasterio.open(shared_data / "s1s2-chips-usa" / f"{other}_s1vh.tif") as source:
            values, profile = source.read(), source.profile
        with rasterio.MemoryFile() as memory:
            with memory.open(**{**profile, "driver": "GTiff", "transform": where.affine}) as target:
                target.write(values)
            found = register(
                shared_data / "s1s2-chips-usa" / f"{name}_s2rgb.tif",
                memory.name,
                reference_sensor=SENSORS["sentinel2-display"],
                moving_sensor=SENSORS["sentinel1-display"],
            )
        accepted += [name] if found.reliable else []
    assert accepted == []
