from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from rsgeo_gan import raster
from rsgeo_gan.datamodules import SuperResolutionDataModule
from rsgeo_gan.datasets import Degradation, Patch, SuperResolutionDataset, SuperResolutionTileSet
from rsgeo_gan.degrade import degrade
from rsgeo_gan.errors import SourceError
from rsgeo_gan.manifest import Manifest, make_item
from rsgeo_gan.optics import reach_px, sigma_px, thinned
from rsgeo_gan.sensors import Scaler
from rsgeo_gan.transforms import Turns

SIDE = 48
SPLITS = ("train", "train", "train", "val", "test", "train")


def write_sharp(
    folder: Path,
    *,
    count: int = 6,
    low: int | None = None,
    references: Mapping[int, int] | None = None,
    hole: np.ndarray | None = None,
    unit: str = "reflectance",
) -> Path:
    """Write tiles of one zone; `references` says how many a tile has, by its number."""
    manifest = Manifest(folder / "tiles" / "tiles.json")
    rng = np.random.default_rng(0)
    for number in range(count):
        box = GeoBox((SIDE, SIDE), Affine(10, 0, 500_000 + 480 * number, 0, -10, 5_000_000), "EPSG:32632")
        at = folder / "tiles" / f"t{number}"
        files = {"image": (box, 3, ("B04", "B03", "B02"))}
        if low:
            files["low"] = (box.zoom_out(low), 2, ("red", "nir"))
        for k in range((references or {}).get(number, 0)):
            files["reference" if not k else f"reference-{k + 1}"] = (box, 2, ("B03", "B08"))
        assets = {}
        for name, (grid, bands, names) in files.items():
            values = rng.uniform(0.05, 0.4, (bands, *grid.shape)).astype(np.float32)
            if unit == "dB":
                values = (10 * np.log10(values)).astype(np.float32)
            if name == "image" and hole is not None:
                values[:, hole] = np.nan
            assets[name] = raster.write(
                at / f"{name}.tif", values, grid, nodata=float("nan"), names=names, unit=unit, cog=False
            )
        properties: dict[str, Any] = {
            "rsgeo:sensor": "sentinel2-l2a",
            "rsgeo:reference_sensor": "sentinel2-l2a",
            "rsgeo:low_sensor": {"name": "coarse", "modality": "optical", "unit": "reflectance", "bands": ["red"]},
            "rsgeo:split": SPLITS[number % 6],
            "rsgeo:digest": str(number),
        }
        when = datetime(2024, 6, 1, tzinfo=UTC)
        manifest.add(make_item(f"t{number}", box, when=when, properties=properties, assets=assets))
    manifest.save()
    return folder / "tiles"


class TestBlur:
    @pytest.mark.parametrize(("scale", "mtf"), [(2, 0.2), (3, 0.1), (4, 0.3)])
    def test_contrast_at_the_coarse_nyquist_is_the_mtf(self, scale, mtf):
        side = 64 * scale
        at = np.arange(side) + 0.5
        for frequency, expected in ((1 / (2 * scale), mtf), (1 / (4 * scale), mtf**0.25)):
            # Coarse centres lie at (i + 1/2) scale: the wave has its crests there.
            wave = np.cos(2 * np.pi * frequency * (at - scale / 2))
            made = thinned(np.tile(wave, (side, 1))[None], scale, mtf)[0, 32, 16:48]
            crests = np.cos(2 * np.pi * frequency * scale * np.arange(16, 48))
            assert np.dot(made, crests) / np.dot(crests, crests) == pytest.approx(expected, abs=2e-3)

    def test_sigma_of_the_closed_form(self):
        # exp(-2 pi^2 sigma^2 f^2) = mtf at f = 1 / (2 scale)
        sigma = sigma_px(4, 0.2)
        assert np.exp(-2 * np.pi**2 * sigma**2 / 64) == pytest.approx(0.2)

    def test_reach_covers_four_deviations_beyond_a_pixel(self):
        assert reach_px(4, None) == 0
        assert reach_px(4, 0.2) == 2  # 4 * 2.284 - 2 = 7.1 fine pixels

    def test_places_stay(self):
        scale = 4
        ramp = np.tile(np.arange(96.0), (96, 1))[None]
        made = thinned(ramp, scale, 0.2)[0, 12, 6:18]
        np.testing.assert_allclose(made, scale * np.arange(6, 18) + 1.5, rtol=1e-5)

    @settings(max_examples=20, deadline=None)
    @given(
        scale=st.integers(2, 5),
        mtf=st.one_of(st.none(), st.floats(0.05, 0.6)),
        seed=st.integers(0, 99),
        level=st.floats(-1, 1),
    )
    def test_constants_stay_whatever_is_invalid(self, scale, mtf, seed, level):
        rng = np.random.default_rng(seed)
        mask = torch.from_numpy((rng.random((2, 1, 7 * scale, 5 * scale)) > 0.02).astype("f4"))
        image = torch.where(mask > 0, level, torch.tensor(1e4)).expand(2, 3, -1, -1)
        low, seen = degrade(image, mask, scale, mtf)
        torch.testing.assert_close(low, level * seen.expand_as(low), atol=1e-5, rtol=1e-5)
        whole = mask.view(2, 7, scale, 5, scale).amin(dim=(2, 4))
        torch.testing.assert_close(seen[:, 0], whole)

    def test_plain_means_are_block_means(self):
        image = torch.rand(1, 2, 12, 18)
        low, seen = degrade(image, None, 3, mtf=None)
        torch.testing.assert_close(low, image.view(1, 2, 4, 3, 6, 3).mean(dim=(3, 5)))
        assert seen.min() == 1

    def test_both_libraries_agree_and_each_band_has_its_own_blur(self):
        values = np.random.default_rng(1).random((2, 40, 32)).astype("f4")
        values[:, 8:11, 9] = np.nan
        mask = torch.from_numpy(np.isfinite(values[:1])).float()[None]
        image = torch.from_numpy(np.nan_to_num(values))[None]
        low, seen = degrade(image, mask, 4, mtf=[0.15, 0.4])
        for band, mtf in enumerate((0.15, 0.4)):
            alone = thinned(values[band : band + 1], 4, mtf)
            np.testing.assert_array_equal(np.isfinite(alone[0]), seen[0, 0] > 0)
            np.testing.assert_allclose(np.nan_to_num(alone[0]), low[0, band], atol=1e-6)

    def test_noise_is_as_strong_as_asked_and_repeats(self):
        image = torch.zeros(1, 2, 400, 400)
        draws = [degrade(image, None, 4, noise=0.05, generator=torch.Generator().manual_seed(3))[0] for _ in range(2)]
        assert draws[0].std() == pytest.approx(0.05, rel=0.02)
        torch.testing.assert_close(*draws, rtol=0, atol=0)

    def test_bad_sizes_and_counts_are_told(self):
        with pytest.raises(ValueError, match="whole multiples of 4, got 10 x 8"):
            degrade(torch.zeros(1, 1, 10, 8), None, 4)
        with pytest.raises(ValueError, match="one for each of 3 bands, got 2"):
            degrade(torch.zeros(1, 3, 8, 8), None, 4, mtf=[0.2, 0.3])
        with pytest.raises(ValueError, match=r"expected mtf .* got \{'mtf': 2\}"):
            Degradation.of({"mtf": 2})


class TestTurns:
    def test_sizes_of_one_place_move_alike(self):
        torch.manual_seed(0)
        fine = torch.rand(64, 2, 12, 12)
        batch = {
            "image": torch.nn.functional.avg_pool2d(fine, 3),
            "image_target": fine,
            "mask_reference": fine[:, :1].clone(),
            "tile": torch.arange(64),
        }
        moved = Turns()(batch)
        torch.testing.assert_close(torch.nn.functional.avg_pool2d(moved["image_target"], 3), moved["image"])
        torch.testing.assert_close(moved["mask_reference"], moved["image_target"][:, :1])
        torch.testing.assert_close(moved["tile"], batch["tile"])
        ways = {tuple(row.flatten().argsort().tolist()) for row in (moved["image"] - batch["image"])[:, 0] == 0}
        assert len(ways) > 1
        assert Turns(False)(batch) is batch


class TestTiles:
    def test_patch_equals_the_same_part_of_the_whole_tile(self, tmp_path):
        tiles = SuperResolutionTileSet(write_sharp(tmp_path, references={0: 1, 1: 2}), None, 4, references=2)
        scaler = Scaler("sentinel2-l2a", "reflectance", ("B04", "B03", "B02"), (0, 0, 0), (0.5, 0.5, 0.5))
        data = SuperResolutionDataset(tiles, {"image": scaler}, Degradation(0.2, 0.1), cache_mb=0)
        whole, part = data[1], data[Patch(1, 3, 2, 6, 8)]
        for key, scale in (("image", 1), ("mask_valid", 1), ("image_target", 4), ("image_reference", 4)):
            cut = whole[key][:, 2 * scale : 10 * scale, 3 * scale : 9 * scale]
            torch.testing.assert_close(part[key], cut, atol=1e-6, rtol=0, msg=key)
        assert (part["origin_px"] - whole["origin_px"]).tolist() == [3, 2]
        assert whole["image_reference"].shape == (4, SIDE, SIDE)
        assert whole["mask_reference"].amin(dim=(1, 2)).tolist() == [1, 1]
        lonely = data[0]
        assert lonely["mask_reference"].amax(dim=(1, 2)).tolist() == [1, 0]
        assert lonely["image_reference"][2:].abs().max() == 0

    def test_origin_is_the_lattice_of_coarse_pixels(self, tmp_path):
        data = SuperResolutionDataset(SuperResolutionTileSet(write_sharp(tmp_path), None, 4))
        assert data[1]["origin_px"].tolist() == [500_480 // 40, -5_000_000 // 40]

    def test_coarse_decibels_are_those_of_mean_power(self, tmp_path):
        tiles = SuperResolutionTileSet(write_sharp(tmp_path, count=1, unit="dB"), None, 4)
        sample = SuperResolutionDataset(tiles, degradation=Degradation(None))[0]
        power = 10 ** (sample["image_target"].double() / 10)
        mean = power.view(3, 12, 4, 12, 4).mean(dim=(2, 4))
        torch.testing.assert_close(sample["image"].double(), 10 * mean.log10(), atol=1e-4, rtol=0)

    def test_real_coarse_images_are_read_unless_made_ones_are_asked_for(self, tmp_path):
        folder = write_sharp(tmp_path, low=4)
        real = SuperResolutionDataset(SuperResolutionTileSet(folder, None, 4))
        assert real.tile_set.real
        stored, _ = raster.read(folder / "t2" / "low.tif")
        np.testing.assert_array_equal(real[2]["image"], stored)
        assert SuperResolutionDataset(SuperResolutionTileSet(folder, None, 4, real=False))[2]["image"].shape[0] == 3

    def test_what_does_not_fit_is_told(self, tmp_path):
        folder = write_sharp(tmp_path)
        with pytest.raises(SourceError, match="48 x 48 pixels, no whole multiples of the scale 5"):
            SuperResolutionTileSet(folder, None, 5)
        with pytest.raises(SourceError, match="tile t0 has no asset 'low', only image"):
            SuperResolutionTileSet(folder, None, 4, real=True)
        with pytest.raises(ValueError, match="0 to 4 references, got 4 and 5"):
            SuperResolutionTileSet(folder, None, 4, references=5)


class TestDataModule:
    def test_batches_follow_the_contract(self, tmp_path):
        folder = write_sharp(tmp_path, references={number: 1 for number in range(5)})
        module = SuperResolutionDataModule(
            str(folder), scale=4, patch_size=8, batch_size=3, references=1, length=6, flips=True
        )
        module.setup("fit")
        module.setup("predict")
        (first, *_), facts = list(module.train_dataloader()), module.facts
        assert first["image"].shape == (3, 3, 8, 8)
        assert first["image_target"].shape == (3, 3, 32, 32)
        assert first["mask_valid_target"].shape == (3, 1, 32, 32)
        assert first["image_reference"].shape == (3, 2, 32, 32)
        assert first["mask_reference"].shape == (3, 1, 32, 32)
        whole = next(iter(module.predict_dataloader()))
        assert "image_target" not in whole
        assert whole["image"].shape[1:] == (3, 12, 12)
        assert facts["source"] == facts["target"]
        assert facts["common"] == [[1, 0]]
        assert (facts["scale"], facts["gsd"], facts["references"], facts["patch_px"]) == (4, 40.0, 1, 8)
        assert facts["degradation"] == {"mtf": 0.2, "noise": 0.0}
        assert facts["reference_bands"] == ["B03", "B08"]
        assert {len(loader) for loader in (module.val_dataloader(),)} == {1}

    def test_made_image_is_the_degraded_truth_in_the_model_domain(self, tmp_path):
        module = SuperResolutionDataModule(str(write_sharp(tmp_path)), scale=4, patch_size=12, batch_size=1, length=2)
        module.setup("validate")
        batch = next(iter(module.val_dataloader()))
        low, _ = degrade(batch["image_target"], batch["mask_valid_target"], 4)
        torch.testing.assert_close(batch["image"], low, atol=1e-6, rtol=0)

    def test_patches_keep_away_from_holes(self, tmp_path):
        hole = np.zeros((SIDE, SIDE), bool)
        hole[:, 20:24] = True
        folder = write_sharp(tmp_path, hole=hole)
        module = SuperResolutionDataModule(str(folder), scale=4, patch_size=4, batch_size=8, length=32, min_valid=1)
        module.setup("fit")
        for batch in module.train_dataloader():
            assert batch["mask_valid"].min() == 1
            assert batch["mask_valid_target"].min() == 1

    def test_statistics_of_a_checkpoint_are_those_of_its_sides(self, tmp_path):
        folder = write_sharp(tmp_path, low=4, references={0: 1})
        module = SuperResolutionDataModule(str(folder), patch_size=8, batch_size=2, references=1, length=2)
        module.setup("fit")
        assert module.facts["source_sensor"]["name"] == "coarse"
        assert "degradation" not in module.facts
        path = tmp_path / "last.ckpt"
        torch.save({"rsgeo_gan": {"facts": module.facts}}, path)
        again = SuperResolutionDataModule(
            str(folder), patch_size=8, batch_size=2, references=1, length=2, statistics=str(path)
        )
        again.setup("fit")
        assert {k: again.facts[k] for k in ("source", "target", "reference")} == {
            k: module.facts[k] for k in ("source", "target", "reference")
        }
