"""The displacement a registration head finds: an identity as generator, a target whose shift is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from scipy import ndimage
from torch import nn

from rsgeo_gan.errors import CheckpointError, GridError
from rsgeo_gan.inference import learned_displacement
from rsgeo_gan.losses import Combined, PooledL1, RegistrationHead
from rsgeo_gan.manifest import asset_path
from rsgeo_gan.models import ResNetGenerator
from rsgeo_gan.sensors import Scaler
from tests.generation import checkpoint
from tests.synth import CRS, RES, ULX, ULY, speckled, write_tiles
from tests.toy import run_cli

SHIFT, REMOVED = (3, -2), (0.5, 0.25)
SIZE, ROOM = 64, 8
SOURCE = Scaler("sentinel2-l2a", "reflectance", ("B02", "B03"), (0.0, 0.0), (1.0, 1.0))
TARGET = Scaler("sentinel1-rtc", "dB", ("VV", "VH"), (-20.0, -20.0), (0.0, 0.0))
ALONE = {"class_path": "rsgeo_gan.losses.RegistrationHead", "init_args": {"max_px": 6.0}}
MEMBER = {
    "class_path": "rsgeo_gan.losses.Combined",
    "init_args": {"terms": {"pooled": {"class_path": "rsgeo_gan.losses.PooledL1"}, "head": ALONE}},
}


def texture() -> np.ndarray:
    """Two bands in [-0.6, 0.6], model units, with room to be shifted."""
    noise = np.random.default_rng(3).standard_normal((2, 2 * SIZE + 2 * ROOM, 2 * SIZE + 2 * ROOM))
    smooth = ndimage.gaussian_filter(noise, (0, 1.5, 1.5), mode="wrap")
    return np.clip(0.25 * smooth / smooth.std(), -0.6, 0.6)


def window(col: int, row: int, size: int, shift: tuple[int, int] = (0, 0)) -> np.ndarray:
    left, top = ROOM + col - shift[0], ROOM + row - shift[1]
    return texture()[:, top : top + size, left : left + size]


def source(col: int, row: int, size: int) -> np.ndarray:
    return np.rint((0.5 + 0.5 * window(col, row, size) + 0.1) * 1e4).astype(np.uint16)


def target(col: int, row: int, size: int) -> np.ndarray:
    decibel = (10 * window(col, row, size, SHIFT) - 10).astype(np.float32)
    decibel[:, np.s_[:24] if (col, row) == (0, 0) else np.s_[:0]] = np.nan
    return decibel


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("pair"), cells=(2, 2), size=SIZE, source=source, target=target)


class Same(nn.Module):
    """A generator that gives back what it reads."""

    receptive_radius_px = 4

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image


TRUSTED = ("rsgeo_gan.models", __name__)
SAME = {"class_path": f"{__name__}.Same"}
RESNET = {
    "class_path": "rsgeo_gan.models.ResNetGenerator",
    "init_args": {"in_channels": 2, "out_channels": 2, "width": 4, "blocks": 0},
}


def trained(path: Path, spec: dict[str, Any] = ALONE, made: dict[str, Any] = SAME) -> Path:
    """Write a checkpoint of both directions whose head has a running mean."""
    head = RegistrationHead(max_px=6.0)
    head.mean_px.copy_(torch.tensor([REMOVED, [-part for part in REMOVED]]))
    term = head if spec is ALONE else Combined({"pooled": PooledL1(), "head": head})
    network = Same() if made is SAME else ResNetGenerator(**made["init_args"])
    networks = {"generator": network, "generator_back": network, "correspondence": term}
    content = torch.load(checkpoint(path), weights_only=True)
    content["state_dict"] = {f"{n}.{k}": v for n, network in networks.items() for k, v in network.state_dict().items()}
    content["hyper_parameters"] = {"generator": made, "generator_back": made, "correspondence": spec}
    content["rsgeo_gan"]["facts"] |= {"source": SOURCE.to_dict(), "target": TARGET.to_dict()}
    torch.save(content, path)
    return path


@pytest.mark.parametrize("spec", [ALONE, MEMBER], ids=["alone", "combined"])
def test_a_known_shift_is_found_where_both_sides_have_data(tiles: Path, tmp_path: Path, spec: dict[str, Any]) -> None:
    (item,) = learned_displacement(trained(tmp_path / "a.ckpt", spec), tiles, tmp_path / "out", trusted=TRUSTED)
    expected = [part - removed for part, removed in zip(SHIFT, REMOVED, strict=True)]
    assert item.properties["rsgeo:mean_px"] == pytest.approx(expected, abs=0.3)
    assert item.properties["rsgeo:removed_px"] == list(REMOVED)
    with rasterio.open(asset_path(item, "displacement")) as file:
        assert (file.crs, file.descriptions) == (CRS, ("dx", "dy", "magnitude_px"))
        assert file.transform == rasterio.Affine(8 * RES, 0, ULX, 0, -8 * RES, ULY)
        assert file.units == ("px",) * 3
        found = file.read()
    assert found.shape == (3, 16, 16)
    assert np.isnan(found[:, :3, :8]).all()
    known = np.isfinite(found[0])
    assert known.sum() == 16 * 16 - 3 * 8
    error = np.hypot(found[0] - expected[0], found[1] - expected[1])
    assert np.mean(error[known]) < 0.5
    np.testing.assert_allclose(found[2], np.hypot(*found[:2]), rtol=1e-6)


def test_arrows_lead_from_the_side_read_to_the_raster_pixel_in_true_length(tiles: Path, tmp_path: Path) -> None:
    (item,) = learned_displacement(trained(tmp_path / "a.ckpt"), tiles, tmp_path / "out", trusted=TRUSTED)
    arrows = geopandas.read_file(asset_path(item, "tie_points"), layer="tie_points")
    assert arrows.crs == CRS
    assert len(arrows) == 16 - 2
    with rasterio.open(asset_path(item, "displacement")) as file:
        for line, dx, dy in zip(arrows.geometry, arrows["dx_px"], arrows["dy_px"], strict=True):
            (x0, y0), (x1, y1) = line.coords
            assert [(x1 - x0) / RES, (y0 - y1) / RES] == pytest.approx([dx, dy], abs=1e-6)
            assert next(file.sample([(x1, y1)]))[:2].tolist() == pytest.approx([dx, dy], abs=1e-5)
    assert arrows["residual_px"].tolist() == pytest.approx(arrows["length_px"].tolist())
    assert arrows["score"].isna().all()
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".gpkg", ".json", ".qml", ".tif"]


def test_the_way_back_finds_the_opposite(tiles: Path, tmp_path: Path) -> None:
    path = trained(tmp_path / "a.ckpt")
    made = learned_displacement(path, tiles, tmp_path / "out", direction="target_to_source", trusted=TRUSTED)
    expected = [removed - part for part, removed in zip(SHIFT, REMOVED, strict=True)]
    assert made.items[0].properties["rsgeo:mean_px"] == pytest.approx(expected, abs=0.3)


def test_what_has_no_head_is_refused(tiles: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no registration head: .* got no correspondence; give the \.ckpt"):
        learned_displacement(checkpoint(tmp_path / "plain.ckpt"), tiles, tmp_path / "out", trusted=TRUSTED)
    other = trained(tmp_path / "other.ckpt", MEMBER["init_args"]["terms"]["pooled"])
    with pytest.raises(CheckpointError, match=r"holds no registration head: .* got PooledL1; give"):
        learned_displacement(other, tiles, tmp_path / "out", trusted=TRUSTED)


def test_tiles_the_checkpoint_was_not_trained_on_are_refused(tmp_path: Path) -> None:
    path = trained(tmp_path / "a.ckpt")
    one_band = write_tiles(tmp_path / "b", cells=(1, 1), target=speckled(bands=1))
    with pytest.raises(CheckpointError, match="target bands VV, VH, the tiles have VV"):
        learned_displacement(path, one_band, tmp_path / "out", trusted=TRUSTED)
    finer = write_tiles(tmp_path / "c", cells=(1, 1), scale=2)
    with pytest.raises(GridError, match="one pixel size, got 2 target pixels"):
        learned_displacement(path, finer, tmp_path / "out", trusted=TRUSTED)


@pytest.mark.e2e
def test_the_command_line_tells_what_it_found(tiles: Path, tmp_path: Path) -> None:
    path = trained(tmp_path / "a.ckpt", made=RESNET)
    done = run_cli("displacement", str(path), "--tiles", str(tiles / "tiles.json"), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "displacement  1 pair in" in done.stderr
    assert (tmp_path / "out" / "pair-a.gpkg").is_file()
