"""Walks, the contact sheet and the page of a synthesis."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rsgeo_gan.catalog import SyntheticProducts
from rsgeo_gan.inference.synthesis import synthesize
from rsgeo_gan.inference.synthesizer import Synthesizer
from rsgeo_gan.inference.walks import between, walks
from rsgeo_gan.manifest import Manifest
from rsgeo_gan.report import class_rows, synthesis_headline, synthesis_report
from rsgeo_gan.report.drawing import save
from rsgeo_gan.report.synthetic import Look, contact_sheet, look_of, walk_figure
from tests.synthesis import CLASSES, checkpoint, tiles


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Folder of tiles, a model and two images of each class."""
    root = tmp_path_factory.mktemp("run")
    places = tiles(root / "tiles")
    model = checkpoint(root / "models" / "synthesis.ckpt")
    synthesize(model, root / "products", SyntheticProducts(count=2), tiles=places)
    return root


def test_a_walk_between_latents_keeps_their_length_and_ends_where_it_should() -> None:
    draw = torch.Generator().manual_seed(3)
    first, last = (torch.nn.functional.normalize(torch.randn(1, 64, generator=draw)) * 8 for _ in range(2))
    for share in (0.0, 0.3, 1.0):
        assert float(between(first, last, share).norm()) == pytest.approx(8, abs=1e-4)
    assert torch.allclose(between(first, last, 0), first, atol=1e-5)
    assert torch.allclose(between(first, last, 1), last, atol=1e-5)
    assert torch.allclose(between(first, last, 0.25, uniform=True), 0.75 * first + 0.25 * last)
    assert torch.allclose(between(first, first, 0.5), first)


def test_walks_show_truncation_latents_and_every_condition(run: Path) -> None:
    synthesizer = Synthesizer.load(run / "models" / "synthesis.ckpt")
    rows = walks(synthesizer, SyntheticProducts(), Manifest.read(run / "tiles"), steps=3, most_classes=2)
    assert [row.title for row in rows] == [
        "field: truncation",
        "forest: truncation",
        "field: one latent to another",
        "forest: one latent to another",
        "label, the same noise",
        "field: day, the same noise",
    ]
    truncation, _, latents, _, label, day = rows
    assert label.captions == CLASSES
    assert day.captions == ("0 d", "121.8 d", "243.5 d")
    # The last image of the truncation, the first of the walk between latents and of the classes are one.
    assert np.array_equal(truncation.images[-1], latents.images[0])
    assert np.array_equal(latents.images[0], label.images[0])
    # Fine noise is the same along the walk, so it is a path from one image to another and no flicker.
    steps = np.abs(np.diff(latents.images, axis=0)).mean(axis=(1, 2, 3))
    assert steps.max() < np.abs(latents.images[-1] - latents.images[0]).mean()
    low, high = synthesizer.scaler.low, synthesizer.scaler.high
    assert all(low[k] - 1e-6 <= row.images[:, k].min() for row in rows for k in range(3))
    assert all(row.images[:, k].max() <= high[k] + 1e-6 for row in rows for k in range(3))


def test_a_look_is_true_colour_by_band_names_with_one_stretch_for_reflectance() -> None:
    names = ("B02", "B03", "B04", "B08")
    image = np.stack([np.full((4, 5), value, np.float32) for value in (0.02, 0.06, 0.1, 0.4)])
    image[:, 0, 0] = np.nan
    look = Look.of([image], names, "reflectance")
    assert look.indexes == (2, 1, 0)
    assert (look.low, look.high) == (pytest.approx((0.02,) * 3), pytest.approx((0.1,) * 3, abs=1e-5))
    drawn = look(image)
    assert drawn[1, 1] == pytest.approx((1.0, 0.5, 0.0), abs=1e-4)
    assert drawn[0, 0] == pytest.approx((0.945, 0.96, 0.976))
    radar = Look.of([np.linspace(-20, 0, 101, dtype=np.float32).reshape(1, 1, 101)], ("VV", "VH"), "dB")
    assert (radar.indexes, radar.low, radar.high) == ((0,), pytest.approx((-19.6,)), pytest.approx((-0.4,)))
    assert "VV" in radar.label


def test_the_contact_sheet_has_a_row_for_each_class_and_both_kinds(run: Path, tmp_path: Path) -> None:
    products, places = Manifest.read(run / "products"), Manifest.read(run / "tiles")
    look = look_of(places, "image")
    figure = contact_sheet(products, look, places, columns=2)
    told = [text.get_text() for text in figure.texts]
    assert told[:2] == ["real", "synthetic"]
    assert told[2:5] == list(CLASSES)
    assert len(figure.axes) == 6
    assert len(contact_sheet(products, look).axes) == 3
    synthesizer = Synthesizer.load(run / "models" / "synthesis.ckpt")
    rows = walks(synthesizer, SyntheticProducts(), places, steps=2, most_classes=1)
    path = save(walk_figure(rows, look), tmp_path / "walks.png")
    assert path.stat().st_size > 3000


def test_the_page_counts_classes_shows_scores_and_says_synthetic(run: Path) -> None:
    page = synthesis_report(run, scores=[{"set": "products", "Fréchet": "1.0"}], notes=["<few> tiles"]).read_text()
    assert "synthetic" in page
    assert "&lt;few&gt; tiles" in page
    assert "open water/ice" in page
    tables = synthesis_headline(run)
    expected = [{"class": name, "real, train": 2, "real, val": 0, "real, test": 0, "synthetic": 2} for name in CLASSES]
    assert tables["classes"] == expected == class_rows(Manifest.read(run / "tiles"), Manifest.read(run / "products"))
    assert json.loads((run / "report" / "report.json").read_text())["scores"] == tables["scores"]
    assert class_rows(None, Manifest.read(run / "products"))[0] == {"class": "field", "synthetic": 2}
