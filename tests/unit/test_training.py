"""Training as a process: publishing, pinning, resuming and what it says when it fails."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from odc.geo.geobox import GeoBox

from rsgeo_gan import raster
from rsgeo_gan.catalog import Training
from rsgeo_gan.errors import CatalogError, CheckpointError, SourceError, TrainingError
from rsgeo_gan.manifest import Manifest, make_item
from rsgeo_gan.training import Published, find_recipe, process, publish, read_pin, train
from rsgeo_gan.training.recipes import fit_channels, fit_networks, recipe_directions, recipe_names, with_overrides
from tests.unit.test_superres_data import write_sharp

RECIPE = {
    "trainer": {"max_epochs": 10},
    "model": {
        "class_path": "rsgeo_gan.tasks.CycleTranslation",
        "init_args": {
            "generator": {"class_path": "x.G", "init_args": {"width": 8}},
            "generator_back": {"class_path": "x.G"},
            "discriminator": {"class_path": "x.D"},
            "discriminator_back": {"class_path": "x.D"},
        },
    },
    "data": {"class_path": "x.Data", "init_args": {"patch_size": 32}},
}

FAKE_FIT = """
import json, pathlib, sys, time, yaml
config = yaml.safe_load(pathlib.Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
folder = pathlib.Path(config["trainer"]["default_root_dir"])
with (folder / "calls").open("a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
behaviour = (folder.parents[1] / "behaviour")
how = behaviour.read_text() if behaviour.exists() else ""
checkpoints = folder / "checkpoints"
checkpoints.mkdir(exist_ok=True)
(checkpoints / "last.ckpt").write_bytes(b"half")
report = folder / "progress.json"
report.write_text(json.dumps({"state": "running", "done": 3, "total": 8}))
if how == "fail":
    print("out of luck" + "\\nError in sys.excepthook:\\n\\nOriginal exception was:" * 20)
    sys.exit(7)
if how == "slow":
    time.sleep(3)
(checkpoints / "best.ckpt").write_bytes(b"weights of " + folder.name.encode())
report.write_text(json.dumps({"state": "finished", "done": 8, "total": 8, "checkpoint": "/elsewhere/best.ckpt"}))
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with four tiles (three for training), a recipe and a stand-in for `fit`."""
    script = tmp_path / "fit.py"
    script.write_text(FAKE_FIT)
    monkeypatch.setattr(process, "FIT", (sys.executable, str(script)))
    monkeypatch.setattr(process, "_POLL_S", 0.02)
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(RECIPE))
    _tiles(tmp_path, ["train", "train", "val", "train"])
    return tmp_path


def _tiles(root: Path, splits: list[str]) -> Manifest:
    tiles = Manifest(root / "tiles" / "tiles.json")
    for number, split in enumerate(splits):
        box = GeoBox.from_bbox((0, 160 * number, 160, 160 * (number + 1)), "EPSG:32633", resolution=10)
        assets = {}
        for side, bands in (("source", 4), ("target", 2)):
            array = np.ones((bands, *box.shape), np.float32)
            assets[side] = raster.write(root / "tiles" / f"t{number}" / f"{side}.tif", array, box, cog=False)
        tiles.add(
            make_item(
                f"t{number}",
                box,
                when=datetime(2024, 5, 1, tzinfo=UTC),
                properties={"rsgeo:split": split, "rsgeo:pair": "p"},
                assets=assets,
            )
        )
    tiles.save()
    return tiles


def _train(root: Path, mode: process.Mode = "if_missing", **overrides: int) -> Published:
    settings: dict[str, str | int | float | bool] = {key.replace("__", "."): value for key, value in overrides.items()}
    return train(
        root / "tiles",
        Training(recipe=str(root / "toy.yaml"), overrides=settings),
        root / "training",
        mode=mode,
        models=root / "models",
    )


def _calls(root: Path) -> list[str]:
    return [line for path in sorted((root / "training").glob("*/calls")) for line in path.read_text().splitlines()]


def test_training_publishes_under_the_digest_of_the_checkpoint(root: Path) -> None:
    published = _train(root)
    assert published.new
    assert published.digest == hashlib.sha256(published.path.read_bytes()).hexdigest()
    assert published.path.name == f"toy-{published.digest[:12]}.ckpt"
    assert json.loads((root / "models" / "current.json").read_text())["sha256"] == published.digest


def test_a_published_checkpoint_is_kept_when_training_is_only_for_the_missing(root: Path) -> None:
    first = _train(root)
    second = _train(root)
    assert second.digest == first.digest
    assert not second.new
    assert len(_calls(root)) == 1


def test_never_without_a_published_checkpoint_says_what_to_do(root: Path) -> None:
    with pytest.raises(CheckpointError, match=r"No checkpoint is published in .*models.*train: if_missing"):
        _train(root, "never")


def test_training_anew_with_the_same_inputs_is_not_repeated(root: Path) -> None:
    first = _train(root, "scratch")
    assert _train(root, "scratch").digest == first.digest
    assert len(_calls(root)) == 1


def test_another_seed_of_the_recipe_is_another_training_and_the_older_checkpoint_stays(root: Path) -> None:
    first = _train(root, "scratch")
    second = _train(root, "scratch", trainer__max_epochs=11)
    assert second.new
    assert second.digest != first.digest
    assert first.path.is_file()
    pin = read_pin(root / "models")
    assert pin is not None
    assert pin.digest == second.digest


def test_refinement_starts_from_the_pin_for_a_fifth_of_the_epochs(root: Path) -> None:
    first = _train(root)
    _tiles(root, ["train", "train", "val", "train", "train"])
    second = _train(root, "finetune")
    assert second.new
    folder = next(path.parent for path in (root / "training").glob("*/recipe.yaml") if "StartFrom" in path.read_text())
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert recipe["trainer"]["max_epochs"] == 2
    assert recipe["trainer"]["callbacks"][0]["init_args"]["path"] == str(first.path)


def test_refinement_shortens_the_first_parts_of_a_training_too(root: Path) -> None:
    parts = {"content_epochs": 4, "plain_epochs": 5, "warmup_epochs": 0}
    model = {**RECIPE["model"], "init_args": {**RECIPE["model"]["init_args"], **parts}}  # type: ignore[dict-item]
    (root / "toy.yaml").write_text(yaml.safe_dump({**RECIPE, "model": model}))
    _train(root)
    _tiles(root, ["train", "train", "val", "train", "train"])
    _train(root, "finetune")
    recipes = [yaml.safe_load(path.read_text()) for path in (root / "training").glob("*/recipe.yaml")]
    found = {
        recipe["trainer"]["max_epochs"]: {part: recipe["model"]["init_args"][part] for part in parts}
        for recipe in recipes
    }
    assert found == {10: parts, 2: {"content_epochs": 0, "plain_epochs": 1, "warmup_epochs": 0}}


def test_refinement_on_tiles_already_seen_does_nothing(root: Path) -> None:
    first = _train(root)
    second = _train(root, "finetune")
    assert second.digest == first.digest
    assert not second.new
    assert len(_calls(root)) == 1


def test_a_failed_training_shows_the_end_of_its_log_and_continues_from_the_last_checkpoint(root: Path) -> None:
    (root / "behaviour").write_text("fail")
    with pytest.raises(TrainingError, match=r"(?s)exit status 7.*out of luck.*Start again"):
        _train(root)
    (root / "behaviour").unlink()
    assert _train(root).new
    first, second = _calls(root)
    assert "--ckpt_path" not in first
    assert second.split()[-2] == "--ckpt_path"
    assert second.endswith("checkpoints/last.ckpt")


def test_a_training_still_running_elsewhere_is_waited_for_and_not_repeated(root: Path) -> None:
    (root / "behaviour").write_text("slow")
    results: list[Published] = []
    threads = [threading.Thread(target=lambda: results.append(_train(root))) for _ in range(2)]
    for thread in threads:
        thread.start()
        time.sleep(0.2)
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert len({published.digest for published in results}) == 1
    assert len(_calls(root)) == 1


def test_progress_of_the_process_is_passed_on(root: Path) -> None:
    (root / "behaviour").write_text("slow")
    seen: list[tuple[str, int, int]] = []
    training = Training(recipe=str(root / "toy.yaml"))
    train(root / "tiles", training, root / "training", models=root / "models", progress=lambda *a: seen.append(a))
    assert ("train", 3, 8) in seen
    assert seen[-1] == ("train", 8, 8)


def test_the_recipe_of_a_training_takes_its_band_counts_from_the_tiles(root: Path) -> None:
    _train(root)
    recipe = yaml.safe_load(next((root / "training").glob("*/recipe.yaml")).read_text())
    networks = recipe["model"]["init_args"]
    assert networks["generator"]["init_args"] == {"width": 8, "in_channels": 4, "out_channels": 2}
    assert networks["generator_back"]["init_args"] == {"in_channels": 2, "out_channels": 4}
    assert networks["discriminator"]["init_args"] == {"in_channels": 2}
    assert networks["discriminator_back"]["init_args"] == {"in_channels": 4}


def test_every_epoch_is_kept_although_the_recipes_saver_waits_for_a_better_one(root: Path) -> None:
    saver = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"monitor": "val/l1"}}
    (root / "toy.yaml").write_text(yaml.safe_dump({**RECIPE, "trainer": {**RECIPE["trainer"], "callbacks": [saver]}}))
    _train(root)
    recipe = yaml.safe_load(next((root / "training").glob("*/recipe.yaml")).read_text())
    best, last = (
        entry["init_args"]
        for entry in recipe["trainer"]["callbacks"]
        if entry["class_path"].endswith("ModelCheckpoint")
    )
    assert best["monitor"] == "val/l1"
    assert best["save_last"] is False
    assert last["filename"] == "last"
    assert "monitor" not in last
    assert last["dirpath"] == best["dirpath"]


def test_a_moved_run_finds_its_training_again(root: Path) -> None:
    first = _train(root, "scratch")
    moved = root.with_name(root.name + "-moved")
    root.rename(moved)
    training = Training(recipe=str(moved / "toy.yaml"))
    again = train(moved / "tiles", training, moved / "training", mode="scratch", models=moved / "models")
    assert again.digest == first.digest
    assert len(_calls(moved)) == 1


def test_no_training_tiles_is_an_error_that_names_the_settings(root: Path) -> None:
    _tiles(root / "other", ["val"])
    with pytest.raises(SourceError, match=r"no tiles of the split 'train' \(1 tiles in all\).*min_valid"):
        train(root / "other" / "tiles", Training(recipe=str(root / "toy.yaml")), root / "x", models=root / "m")


def test_an_altered_checkpoint_is_refused(root: Path) -> None:
    published = _train(root)
    published.path.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match=r"is not the published one: expected SHA-256 \w+…, got"):
        _train(root)


def test_a_pin_without_its_checkpoint_is_refused(root: Path) -> None:
    _train(root).path.unlink()
    with pytest.raises(CheckpointError, match=r"names toy-\w+\.ckpt, which is not there"):
        _train(root)


def test_a_damaged_pin_is_refused(tmp_path: Path) -> None:
    (tmp_path / "current.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"current\.json is damaged: expected JSON"):
        read_pin(tmp_path)


def test_publishing_twice_leaves_one_file(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"weights")
    for _ in range(2):
        publish(tmp_path / "last.ckpt", tmp_path / "models", recipe="toy", trained_on="t")
    assert len(list((tmp_path / "models").glob("*.ckpt"))) == 1
    assert not list((tmp_path / "models").glob("*.part"))


def test_one_checkpoint_may_be_published_from_several_threads_at_once(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(bytes(4 << 20))
    ready = threading.Barrier(6)

    def run() -> Published:
        ready.wait()
        return publish(tmp_path / "last.ckpt", tmp_path / "models", recipe="toy", trained_on="t")

    with ThreadPoolExecutor(6) as pool:
        found = [future.result() for future in [pool.submit(run) for _ in range(6)]]
    assert {one.path for one in found} == set((tmp_path / "models").glob("*.ckpt"))
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["current.json", found[0].path.name]


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(CatalogError, match=r"Recipe 'nix' not found.*translation"):
        find_recipe("nix")


def test_every_packaged_recipe_is_found_by_name() -> None:
    assert recipe_names()
    assert all(find_recipe(name).is_file() for name in recipe_names())


def test_overrides_reach_through_init_args_and_leave_the_original_alone() -> None:
    changed = with_overrides(RECIPE, {"model.generator.width": 4, "trainer.max_epochs": 1, "data.batch_size": 2})
    assert changed["model"]["init_args"]["generator"]["init_args"]["width"] == 4
    assert changed["trainer"]["max_epochs"] == 1
    assert changed["data"]["init_args"]["batch_size"] == 2
    assert RECIPE["trainer"]["max_epochs"] == 10  # type: ignore[index]


def test_an_override_through_a_value_is_an_error_that_names_it() -> None:
    with pytest.raises(CatalogError, match=r"'trainer\.max_epochs\.x': 'max_epochs' is 10, not a mapping"):
        with_overrides(RECIPE, {"trainer.max_epochs.x": 1})


def _fitted(task: str, **arguments: Any) -> dict[str, Any]:
    given = arguments | {"generator": {"class_path": "x.G"}, "discriminator": {"class_path": "x.D"}}
    recipe = {"model": {"class_path": task, "init_args": given}}
    networks = fit_channels(recipe, 4, 2)["model"]["init_args"]
    return {name: part["init_args"] for name, part in networks.items() if "init_args" in part}


def test_band_counts_of_networks_are_told_by_the_task_and_no_network_is_added() -> None:
    generator = {"in_channels": 4, "out_channels": 2}
    assert _fitted("rsgeo_gan.tasks.CycleTranslation") == {"generator": generator, "discriminator": {"in_channels": 2}}
    paired = "rsgeo_gan.tasks.PairedTranslation"
    assert _fitted(paired) == {"generator": generator, "discriminator": {"in_channels": 6}}
    back = {"in_channels": 2, "out_channels": 4}
    assert _fitted(paired, direction="target_to_source") == {"generator": back, "discriminator": {"in_channels": 6}}
    assert _fitted("torchgeo.tasks.PixelwiseRegression") == {}


def test_a_network_around_another_has_the_numbers_of_that_one_and_unknown_counts_stay() -> None:
    base = {"class_path": "x.Base", "init_args": {"size_px": 64, "out_channels": 4}}
    given = {
        "generator": {"class_path": "x.Around", "init_args": {"base": base}},
        "discriminator": {"class_path": "x.D"},
    }
    recipe = {"model": {"class_path": "rsgeo_gan.tasks.ImageSynthesis", "init_args": given}}
    made = fit_networks(recipe, {"image": 13, "condition": 2})["model"]["init_args"]
    assert made["generator"]["init_args"] == {
        "base": {"class_path": "x.Base", "init_args": {"size_px": 64, "out_channels": 13, "condition_dim": 2}}
    }
    assert made["discriminator"]["init_args"] == {"in_channels": 13, "condition_dim": 2}
    assert base["init_args"]["out_channels"] == 4


@pytest.mark.parametrize(("side", "bands"), [("source", 4), ("target", 2)])
def test_a_recipe_of_single_images_takes_its_numbers_from_the_side_it_reads(root: Path, side: str, bands: int) -> None:
    networks = {"generator": {"class_path": "x.G"}, "discriminator": {"class_path": "x.D"}}
    data = {"side": side, "patch_size": 8, "conditions": ["day"]}
    synthesis = {
        "model": {"class_path": "rsgeo_gan.tasks.ImageSynthesis", "init_args": networks},
        "data": {"class_path": "rsgeo_gan.datamodules.TileDataModule", "init_args": data},
    }
    (root / "toy.yaml").write_text(yaml.safe_dump(synthesis))
    _train(root)
    recipe = yaml.safe_load(next((root / "training").glob("*/recipe.yaml")).read_text())
    shared = {"size_px": 8, "condition_dim": 2}
    assert recipe["model"]["init_args"]["generator"]["init_args"] == {"out_channels": bands, **shared}
    assert recipe["model"]["init_args"]["discriminator"]["init_args"] == {"in_channels": bands, **shared}
    assert "radius_px" not in recipe["data"]["init_args"]
    assert recipe["data"]["init_args"]["seed"] == 0


@pytest.mark.parametrize("name", ["rsgeo:label", "rsgeo:beside"])
def test_labels_and_images_beside_a_tile_are_part_of_what_a_training_has_seen(root: Path, name: str) -> None:
    manifest = Manifest.read(root / "tiles")
    seen = {process._digest_of_tiles(manifest)}
    for value in ("one", "another"):
        for item in manifest:
            item.properties[name] = value
        seen.add(process._digest_of_tiles(manifest))
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("settings", "counts", "values"),
    [
        ({}, {"source": 3, "target": 3, "scale": 2}, {"mtf": 0.2}),
        ({"degradation": {"mtf": [0.1, 0.2, 0.3]}, "scale": 3}, {"source": 3, "target": 3, "scale": 3}, {"mtf": 0.2}),
        ({"degradation": {"mtf": None}}, {"source": 3, "target": 3, "scale": 2}, {"mtf": None}),
        (
            {"references": 2},
            {"source": 3, "target": 3, "reference": 2, "scale": 2, "common": 1},
            {"common": [[1, 0]], "mtf": 0.2},
        ),
    ],
)
def test_a_data_module_of_super_resolution_tells_what_its_networks_must_know(
    settings: dict[str, Any], counts: dict[str, int], values: dict[str, Any], tmp_path: Path
) -> None:
    tiles = Manifest.read(write_sharp(tmp_path, references={0: 1, 1: 1}))
    given = {"scale": 2, "patch_size": 8, **settings}
    data = {"class_path": "rsgeo_gan.datamodules.SuperResolutionDataModule", "init_args": given}
    found = process._sharp(tiles, {"data": data})
    assert found == (counts, pytest.approx(values) if "common" not in values else values)
    assert data["init_args"] == {"scale": 2, "patch_size": 8, **settings}
    networks: dict[str, Any] = {
        "class_path": "x.Constrained",
        "init_args": {"form": "mtf", "mtf": 0.25, "network": {"class_path": "x.Net"}},
    }
    model = {"class_path": "rsgeo_gan.tasks.SuperResolution", "init_args": {"generator": networks}}
    made = fit_networks({"model": model}, *found)["model"]["init_args"]["generator"]["init_args"]
    assert made["mtf"] == pytest.approx(values["mtf"])
    assert made["network"]["init_args"] == {"in_channels": 3, "out_channels": 3, "scale": counts["scale"]}


def test_real_coarse_images_have_bands_of_their_own_and_an_mtf_that_nobody_knows(tmp_path: Path) -> None:
    tiles = Manifest.read(write_sharp(tmp_path, low=2))
    data = {"class_path": "rsgeo_gan.datamodules.SuperResolutionDataModule", "init_args": {"scale": 2, "patch_size": 8}}
    assert process._sharp(tiles, {"data": data}) == ({"source": 2, "target": 3, "scale": 2}, {})


def test_synthetic_images_that_are_mixed_in_count_by_what_they_are_not_by_where_they_lie(root: Path) -> None:
    def mix(folder: str) -> Published:
        data = {"class_path": "rsgeo_gan.datamodules.TileDataModule"}
        data["init_args"] = {"side": "source", "mix": {"products": str(root / folder), "share": 0.5}}
        (root / "toy.yaml").write_text(yaml.safe_dump(RECIPE | {"data": data}))
        return _train(root, "scratch")

    with pytest.raises(SourceError, match=r"There is no item collection at .*products;"):
        mix("products")
    made = Manifest(root / "products" / "products.json")
    box = GeoBox.from_bbox((0, 0, 160, 160), "EPSG:32633", resolution=10)
    facts = {"rsgeo:synthetic": True, "rsgeo:inputs": "one", "rsgeo:label": "forest"}
    made.add(make_item("c0", box, when=datetime(2024, 5, 1, tzinfo=UTC), properties=facts, assets={}))
    made.save()
    first = mix("products")
    (root / "products").rename(root / "elsewhere")
    (root / "elsewhere" / "products.json").rename(root / "elsewhere" / "elsewhere.json")
    assert mix("elsewhere").trained_on == first.trained_on
    assert len(_calls(root)) == 1
    made.items[0].properties["rsgeo:inputs"] = "another"
    made.path = root / "elsewhere" / "elsewhere.json"
    made.save()
    assert mix("elsewhere").trained_on != first.trained_on
    assert len(_calls(root)) == 2


def test_a_task_that_is_not_there_is_named() -> None:
    with pytest.raises(CatalogError, match=r"task rsgeo_gan\.tasks\.Nix cannot be imported"):
        _fitted("rsgeo_gan.tasks.Nix")


def test_directions_of_a_recipe_follow_from_its_task_and_the_overrides() -> None:
    assert recipe_directions("translation", {}) == ("source_to_target", "target_to_source")
    assert recipe_directions("pix2pix", {}) == ("source_to_target",)
    assert recipe_directions("pix2pix", {"model.direction": "target_to_source"}) == ("target_to_source",)
