from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from torchgeo.datasets import IntersectionDataset, RasterDataset
from torchgeo.samplers import GriddedPatchSampler, RandomPatchSampler

from rsgeo_gan.datasets import (
    BlockPatchSampler,
    GridPatchSampler,
    PairDataset,
    Patch,
    Positions,
    TileDataset,
    TileSet,
    survey,
)
from rsgeo_gan.errors import GridError, SourceError
from rsgeo_gan.sensors import Scaler
from tests.synth import RES, ULX, ULY, ramp, speckled, write_tiles

SCALE, OFFSET = 1e-4, -0.1


def dn(image: torch.Tensor) -> np.ndarray:
    """Source values back as DN, which name their place."""
    return np.rint((image.numpy() - OFFSET) / SCALE).astype(int)


def place(col: int, row: int, width: int, height: int) -> tuple[slice, slice]:
    return (
        slice(ULX + col * RES, ULX + (col + width) * RES),
        slice(ULY - (row + height) * RES, ULY - row * RES),
    )


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    return write_tiles(tmp_path)


def test_a_coordinate_query_reads_the_pixels_of_that_place(tiles: Path) -> None:
    sample = PairDataset(tiles)[place(5, 9, 8, 4)]
    assert sample["image"].shape == (2, 4, 8)
    assert dn(sample["image"])[0, 0, 0] == 1 + 3 * 5 + 7 * 9
    assert dn(sample["image"])[1, 3, 7] == 1 + 1 + 3 * 12 + 7 * 12
    assert int(sample["tile"]) == 0


def test_a_query_across_tiles_of_a_pair_has_no_seam(tiles: Path) -> None:
    sample = PairDataset(tiles)[place(20, 20, 30, 30)]
    row, col = np.mgrid[20:50, 20:50]
    np.testing.assert_array_equal(dn(sample["image"])[0], 1 + 3 * col + 7 * row)
    assert sample["mask_valid"].all()
    assert sample["mask_valid_target"].all()


def test_integer_and_coordinate_queries_agree(tiles: Path) -> None:
    pairs = PairDataset(tiles)
    by_place, by_pixel = pairs[place(40, 10, 16, 16)], pairs[Patch(1, 8, 10, 16, 16)]
    for key, value in by_place.items():
        torch.testing.assert_close(value, by_pixel[key], rtol=0, atol=0)


def test_the_origin_is_a_whole_pixel_of_the_lattice_and_differs_by_the_offset_of_the_patches(tiles: Path) -> None:
    pairs = PairDataset(tiles)
    first, second = pairs[Patch(0, 0, 0, 8, 8)]["origin_px"], pairs[Patch(1, 3, 5, 8, 8)]["origin_px"]
    assert first.dtype == torch.int64
    assert (second - first).tolist() == [32 + 3, 5]
    assert first.tolist() == [ULX / RES, -ULY / RES]


def test_pixels_outside_the_usable_part_are_zero_and_masked_whatever_is_asked(tmp_path: Path) -> None:
    pairs = PairDataset(write_tiles(tmp_path, cells=(1, 1), usable=(4, 0, 28, 32)))
    sample = pairs[Patch(0, 0, 0, 32, 32)]
    assert not sample["mask_valid"][..., :4].any()
    assert not sample["mask_valid_target"][..., :4].any()
    assert not sample["image"][..., :4].any()
    assert sample["mask_valid"][..., 4:].all()


def test_a_query_without_tile_is_an_index_error(tiles: Path) -> None:
    with pytest.raises(IndexError, match="touches no usable tile"):
        PairDataset(tiles)[place(5000, 0, 8, 8)]


def test_time_chooses_the_pair(tmp_path: Path) -> None:
    pairs = PairDataset(write_tiles(tmp_path, cells=(1, 1), pairs=("pair-a", "pair-b")))
    x, y = place(0, 0, 8, 8)
    assert int(pairs[x, y]["tile"]) == 0
    later = pairs.index.index[1]
    assert int(pairs[x, y, slice(later.left, later.right)]["tile"]) == 1


def test_values_go_from_the_file_to_the_model_domain_in_one_step(tiles: Path) -> None:
    source = Scaler("sentinel2-l2a", "reflectance", ("B02", "B03"), (-0.1, -0.09), (0.0, 0.01))
    target = Scaler("sentinel1-rtc", "dB", ("VV", "VH"), (-25.0, -30.0), (0.0, -5.0))
    raw, scaled = (
        PairDataset(tiles)[Patch(0, 0, 0, 32, 32)],
        PairDataset(tiles, None, source, target)[Patch(0, 0, 0, 32, 32)],
    )
    for key, scaler in (("image", source), ("image_target", target)):
        np.testing.assert_allclose(scaled[key].numpy(), scaler.forward(raw[key].numpy()), atol=2e-6)
        assert scaled[key].dtype == torch.float32


def test_garbage_under_nodata_changes_no_sample(tmp_path: Path) -> None:
    hole = np.zeros((32, 32), bool)
    hole[3:9, 4:20] = True
    scaler = Scaler("sentinel2-l2a", "reflectance", ("B02", "B03"), (-0.1, -0.1), (0.0, 0.0))
    samples = []
    for name, filling in (("a", 0), ("b", 60_000)):
        tiles = write_tiles(tmp_path / name, cells=(1, 1), hole={0: hole})
        with rasterio.open(next(tiles.glob("*/source.tif")), "r+") as file:
            raw = file.read()
            raw[:, hole] = filling
            file.nodata = None
            file.write(raw)
        samples.append(PairDataset(tiles, None, scaler)[Patch(0, 0, 0, 32, 32)])
    assert not samples[0]["mask_valid"][0, 3:9, 4:20].any()
    assert not samples[0]["image"][:, 3:9, 4:20].any()
    for key in samples[0]:
        assert torch.equal(samples[0][key], samples[1][key]), key


def test_a_nan_in_one_band_makes_the_pixel_invalid(tmp_path: Path) -> None:
    def target(col: int, row: int, size: int) -> np.ndarray:
        values = speckled()(col, row, size)
        values[1, 2, 3] = np.nan
        return values

    sample = PairDataset(write_tiles(tmp_path, cells=(1, 1), target=target))[Patch(0, 0, 0, 32, 32)]
    assert sample["mask_valid_target"][0, 2, 3] == 0
    assert sample["image_target"][:, 2, 3].tolist() == [0, 0]
    assert torch.isfinite(sample["image_target"]).all()


def test_the_target_keeps_its_own_resolution(tmp_path: Path) -> None:
    sample = PairDataset(write_tiles(tmp_path, scale=4))[place(20, 20, 16, 16)]
    assert sample["image"].shape == (2, 16, 16)
    assert sample["image_target"].shape == (2, 64, 64)
    assert sample["mask_valid_target"].shape == (1, 64, 64)


def test_trust_and_residual_come_from_the_tile(tmp_path: Path) -> None:
    hole = np.zeros((32, 32), bool)
    hole[0, 0] = True
    tiles = write_tiles(tmp_path, cells=(1, 1), hole={0: hole}, properties={0: {"rsgeo:confidence": 0.0}})
    sample = PairDataset(tiles)[Patch(0, 0, 0, 8, 8)]
    assert float(sample["confidence"]) == 0.0
    assert float(sample["residual_px"]) == 0.25
    assert sample["mask_confidence"].max() == 0.0


def test_without_window_cache_the_same_pixels_come(tiles: Path) -> None:
    cached, direct = PairDataset(tiles), PairDataset(tiles, cache_mb=0)
    for patch in (Patch(0, 3, 4, 20, 20), Patch(2, -8, 10, 24, 24)):
        assert torch.equal(cached[patch]["image"], direct[patch]["image"])


def test_a_small_cache_forgets_and_reads_again(tiles: Path) -> None:
    small, large = PairDataset(tiles, cache_mb=0.02), PairDataset(tiles)
    for turn in range(3):
        for tile in range(6):
            patch = Patch(tile, turn, turn, 16, 16)
            assert torch.equal(small[patch]["image_target"], large[patch]["image_target"])


def read_in_child(pairs: PairDataset, patch: Patch) -> float:
    return float(pairs[patch]["image"].sum())


def test_handles_are_opened_again_in_a_forked_and_in_a_spawned_process(tiles: Path) -> None:
    pairs = PairDataset(tiles)
    patch = Patch(1, 2, 3, 16, 16)
    expected = float(pairs[patch]["image"].sum())
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap(read_in_child, [(pairs, patch)] * 4) == [expected] * 4
    assert float(pickle.loads(pickle.dumps(pairs))[patch]["image"].sum()) == expected


def test_torchgeo_random_sampler_draws_valid_patches(tiles: Path) -> None:
    pairs = PairDataset(tiles)
    for query in RandomPatchSampler(pairs, size=16, length=10, generator=0):
        sample = pairs[query]
        assert sample["image"].shape == (2, 16, 16)
        assert sample["mask_valid"].all()


def test_torchgeo_grid_sampler_covers_every_pixel_once(tiles: Path) -> None:
    pairs = PairDataset(tiles)
    seen = np.zeros((64, 96), int)
    for query in GriddedPatchSampler(pairs, size=16, stride=16):
        col, row = (pairs[query]["origin_px"] - torch.tensor([int(ULX / RES), int(-ULY / RES)])).tolist()
        seen[row : row + 16, col : col + 16] += 1
    assert (seen == 1).all()


class OtherRaster(RasterDataset):
    filename_glob = "source.tif"


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # torchgeo 0.10 with pandas 3.1
def test_an_intersection_with_another_torchgeo_dataset_reads_both(tiles: Path) -> None:
    both = PairDataset(tiles) & OtherRaster(str(tiles / "pair-a-0-0"))
    assert isinstance(both, IntersectionDataset)
    sample = both[place(0, 0, 8, 8)]
    # torchgeo joins what has the same name along the bands.
    assert sample["image"].shape == (4, 8, 8)
    np.testing.assert_array_equal(dn(sample["image"][:2]), sample["image"][2:].numpy().astype(int))


def test_another_crs_or_pixel_size_is_refused(tiles: Path) -> None:
    pairs = PairDataset(tiles)
    with pytest.raises(GridError, match=r"not warped again, asked for EPSG:4326; put it first"):
        pairs.crs = "EPSG:4326"
    with pytest.raises(GridError, match="not resampled again"):
        pairs.res = 20.0
    with pytest.raises(GridError, match="leave the step open"):
        pairs[slice(ULX, ULX + 80, 20.0), slice(ULY - 80, ULY)]


def test_bounds_are_those_of_the_usable_parts(tiles: Path) -> None:
    x, y, _ = PairDataset(tiles).bounds
    assert (x.start, x.stop, y.start, y.stop) == (ULX, ULX + 960, ULY - 640, ULY)


def test_splits_are_kept_apart_even_in_a_patch_across_their_border(tmp_path: Path) -> None:
    tiles = write_tiles(tmp_path, cells=(2, 1), splits=["train", "val"])
    sample = PairDataset(tiles, "train")[place(16, 0, 32, 32)]
    assert sample["mask_valid"][..., :16].all()
    assert not sample["mask_valid"][..., 16:].any()


def test_an_empty_split_says_what_there_is(tiles: Path) -> None:
    with pytest.raises(SourceError, match=r"no tile in the split 'val', only \{'train': 6\}"):
        PairDataset(tiles, "val")


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no item collection at .*/tiles; run the stage"):
        PairDataset(tmp_path / "tiles")


def test_mixed_sensors_are_refused(tmp_path: Path) -> None:
    tiles = write_tiles(tmp_path, properties={3: {"rsgeo:target_sensor": "sentinel1-display"}})
    with pytest.raises(SourceError, match=r"pair-a-0-1 .* target sensor sentinel1-display, expected sentinel1-rtc"):
        PairDataset(tiles)


def test_other_bands_in_one_tile_are_refused_by_name(tiles: Path) -> None:
    with rasterio.open(tiles / "pair-a-1-0" / "target.tif", "r+") as file:
        file.descriptions = ("HH", "HV")
    pairs = PairDataset(tiles)
    with pytest.raises(SourceError, match=r"pair-a-1-0, target file .* has the bands HH, HV; expected VV, VH"):
        pairs[Patch(1, 0, 0, 8, 8)]


def test_scalers_of_another_band_count_are_refused(tiles: Path) -> None:
    scaler = Scaler("sentinel2-l2a", "reflectance", ("B02",), (0.0,), (1.0,))
    with pytest.raises(SourceError, match=r"source tiles have 2 bands \(B02, B03\), but the statistics have 1"):
        PairDataset(tiles, None, scaler)


def test_a_truncated_tile_is_named(tiles: Path) -> None:
    path = tiles / "pair-a-2-1" / "target.tif"
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(SourceError, match=r"pair-a-2-1.*run the tile stage again"):
        PairDataset(tiles)[Patch(5, 0, 0, 8, 8)]


def test_item_i_is_tile_i_with_a_margin_from_its_neighbours(tmp_path: Path) -> None:
    whole = TileDataset(write_tiles(tmp_path, usable=(4, 4, 24, 24)), halo_px=6)
    assert len(whole) == 6
    sample = whole[1]
    assert sample["image"].shape == (2, 44, 44)
    row, col = np.mgrid[0:38, 26:70]
    np.testing.assert_array_equal(dn(sample["image"])[0, 6:], 1 + 3 * col + 7 * row)
    assert not sample["mask_valid"][:, :6].any()
    assert int(sample["tile"]) == 1


def positions(tiles: Path, patch: int, min_valid: float = 1.0) -> Positions:
    every = TileSet(tiles)
    found = survey(every)
    return Positions(TileSet(tiles, "train"), found.missing, found.cell_px, patch, min_valid)


def lattice(tiles: Path, patch: Patch) -> tuple[int, int]:
    home = TileSet(tiles, "train").tiles[patch.tile]
    return home.col + patch.col - int(ULX / RES), home.line + patch.row - int(-ULY / RES)


def test_every_place_is_drawn_equally_often(tiles: Path) -> None:
    places = positions(tiles, 56)
    assert len(places) == (96 - 56 + 1) * (64 - 56 + 1)
    home = TileSet(tiles, "train").tiles
    left, top = home[0].col, home[0].line
    counts = np.zeros((9, 41), int)
    for patch in places.draw(np.random.default_rng(0), 36_900):
        tile = home[patch.tile]
        counts[tile.line + patch.row - top, tile.col + patch.col - left] += 1
    chi2 = ((counts - 100) ** 2 / 100).sum()
    # 368 degrees of freedom: mean 368, standard deviation 27.
    assert 368 - 4 * 27 < chi2 < 368 + 4 * 27


def test_ordering_by_neighbourhood_keeps_what_was_drawn(tiles: Path) -> None:
    places = positions(tiles, 16)
    drawn = places.draw(np.random.default_rng([5, 2]), 500)
    ordered = BlockPatchSampler(places, 500, seed=5, mix_tiles=2).order(2)
    assert sorted(drawn) == sorted(ordered)
    homes = [patch.tile for patch in ordered]
    visits = [homes[k] for k in range(500) if k == 0 or homes[k] not in homes[max(0, k - 60) : k]]
    assert len(visits) == 6, "each tile is visited in one stretch"
    assert len(set(homes[:100])) == 2, "patches of a neighbourhood are mixed"


def test_patches_depend_on_seed_and_epoch_alone(tiles: Path) -> None:
    places = positions(tiles, 16)
    one, two = BlockPatchSampler(places, 20, seed=1), BlockPatchSampler(places, 20, seed=1)
    one.set_epoch(3)
    list(one)
    two.resume(3, 8)
    assert list(two) == list(one)[8:]
    two.set_epoch(4)
    assert len(list(two)) == 20
    assert one.order(3) != one.order(4)
    assert one.order(0) != BlockPatchSampler(places, 20, seed=2).order(0)


def test_no_patch_has_fewer_valid_pixels_than_asked_for(tmp_path: Path) -> None:
    hole = np.zeros((32, 32), bool)
    hole[10:20, 12:25] = True
    tiles = write_tiles(tmp_path, hole={1: hole, 4: hole.T})
    pairs = PairDataset(tiles, "train")
    for patch in positions(tiles, 16, 0.9).draw(np.random.default_rng(0), 300):
        assert pairs[patch]["mask_valid"].mean() >= 0.9


def test_fixed_patches_do_not_overlap_and_fill_the_area(tiles: Path) -> None:
    sampler = GridPatchSampler(positions(tiles, 16))
    seen = np.zeros((64, 96), int)
    for patch in sampler:
        col, row = lattice(tiles, patch)
        seen[row : row + 16, col : col + 16] += 1
    assert (seen == 1).all()
    assert len(GridPatchSampler(positions(tiles, 16), 5)) == 5


def test_statistics_see_valid_usable_training_pixels_only(tmp_path: Path) -> None:
    def source(col: int, row: int, size: int) -> np.ndarray:
        values = np.full((2, size, size), 2000, np.uint16)
        values[1] = 3000
        values[:, : size // 2] += 1000
        if col:
            values += 40_000
        return values

    hole = np.zeros((32, 32), bool)
    hole[:, 16:] = True
    tiles = write_tiles(
        tmp_path, cells=(2, 1), source=source, splits=["train", "test"], hole={0: hole}, usable=(0, 8, 32, 16)
    )
    found = survey(TileSet(tiles))
    scaler = found.scalers["source"]
    assert scaler.count == 16 * 16
    np.testing.assert_allclose(scaler.mean, [0.15, 0.25])
    np.testing.assert_allclose(scaler.std, [0.05, 0.05])
    np.testing.assert_allclose(scaler.low, [0.1 - 0.002, 0.2 - 0.002], atol=1e-6)
    np.testing.assert_allclose(scaler.high, [0.2 + 0.002, 0.3 + 0.002], atol=1e-6)


def test_statistics_are_taken_over_until_the_tiles_change(tiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = survey(TileSet(tiles))
    with monkeypatch.context() as patch:
        patch.setattr("rsgeo_gan.datasets.statistics._read", lambda *_: pytest.fail("read again"))
        again = survey(TileSet(tiles))
    assert again.scalers == first.scalers
    assert again.digest == first.digest
    with rasterio.open(tiles / "pair-a-0-0" / "source.tif", "r+") as file:
        file.write(np.full((2, 32, 32), 9000, np.uint16))
    assert survey(TileSet(tiles)).scalers["source"].high[0] > first.scalers["source"].high[0]


def test_statistics_without_a_valid_pixel_say_so(tmp_path: Path) -> None:
    tiles = write_tiles(tmp_path, cells=(1, 1), hole={0: np.ones((32, 32), bool)})
    with pytest.raises(SourceError, match="no valid pixel on the source side"):
        survey(TileSet(tiles))


def test_a_constant_band_is_named(tmp_path: Path) -> None:
    tiles = write_tiles(tmp_path, source=lambda col, row, size: np.full((2, size, size), 7, np.uint16))
    with pytest.raises(SourceError, match=r"Band B02 on the source side .* is constant"):
        survey(TileSet(tiles))


def test_statistics_survive_a_folder_that_cannot_be_written(tiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    assert survey(TileSet(tiles)).scalers["source"].count == 6 * 32 * 32
    assert not (tiles / "stats.json").exists()


def test_other_lattices_are_refused(tmp_path: Path) -> None:
    tiles = write_tiles(tmp_path, cells=(2, 1), properties={1: {}})
    text = (tiles / "tiles.json").read_text()
    (tiles / "tiles.json").write_text(text.replace(str(ULX + 320), str(ULX + 323)))
    with pytest.raises(GridError, match="not on the lattice of"):
        PairDataset(tiles)


def test_ramp_names_its_place() -> None:
    assert ramp(1)(4, 6, 2)[0].tolist() == [[1 + 12 + 42, 1 + 15 + 42], [1 + 12 + 49, 1 + 15 + 49]]
