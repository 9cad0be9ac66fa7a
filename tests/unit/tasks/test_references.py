from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rsgeo_gan.losses import Perceptual
from rsgeo_gan.models import PatchDiscriminator, RandomFeatures, SRResNet, TextureTransfer
from rsgeo_gan.tasks import ReferenceSuperResolution
from tests.unit.tasks import test_superres as plain
from tests.unit.tasks.test_superres import FACTS, SCALE, Trace, pytestmark, trained

__all__ = ["pytestmark"]


def batch(count: int = 2) -> dict[str, Tensor]:
    """Samples whose only reference is the truth in two bands and other units."""
    made = plain.batch(count=count)
    made["image_reference"] = 0.5 * made["image_target"][:, [2, 0]] + 0.1
    made["mask_reference"] = torch.ones(count, 1, *made["image_target"].shape[-2:])
    return made


class Data(plain.Data):
    facts = FACTS | {"reference": {**FACTS["target"], "bands": ["B04", "B02"], "low": [0.0, 0.0], "high": [0.4, 0.4]}}

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        whole = batch(6)
        self.samples = [{name: value[k] for name, value in whole.items()} for k in range(6)]


class Bare(Data):
    """The same without references."""

    facts = FACTS


@pytest.fixture(autouse=True)
def with_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "Data", Data)


def task(judged: bool = False, **more: Any) -> ReferenceSuperResolution:
    torch.manual_seed(0)
    content = SRResNet(3, 3, SCALE, width=4, blocks=1)
    network = TextureTransfer(content, RandomFeatures(2, width=4), common=[[2, 0], [0, 1]], window_px=2)
    parts: dict[str, Any] = {}
    if judged:
        parts = {
            "discriminator": PatchDiscriminator(3, width=4, layers=2),
            "perceptual": Perceptual(RandomFeatures(3, width=4, seed=1)),
        }
    made = ReferenceSuperResolution(network, **parts, **more)
    made._trainer = plain.Alone()  # type: ignore[assignment]
    return made


def test_features_are_standardised_and_unrelated_places_keep_the_gate_shut() -> None:
    made, given = task(judged=True), batch()
    made._fit_features(given)
    network: Any = made.generator
    assert network.features.fitted
    assert made.perceptual.backend.fitted  # type: ignore[union-attr]
    assert network.calibrated
    related = made.prepare(dict(given))["found"]
    strange = given | {"image_reference": given["image_reference"].roll(1, 0)}
    unrelated = made.prepare(strange)["found"]
    assert float(unrelated.gate.mean()) < 0.05 < float(related.gate.mean())


def test_without_references_the_image_is_that_of_the_content_network() -> None:
    made, given = task(truth_share=0.0), plain.batch()
    made._fit_features(batch())
    nn.init.normal_(made.generator.head.weight)  # type: ignore[union-attr, arg-type]
    alone = made.generator.content(given["image"], mask=given["mask_valid"])  # type: ignore[operator]
    assert torch.equal(made.prepare(dict(given))["made"], alone)
    assert torch.equal(made(given["image"], mask=given["mask_valid"]), alone)
    shown = made.prepare(batch())["made"]
    assert not torch.allclose(shown, alone)


def test_texture_teaches_the_transfer_and_not_the_content() -> None:
    made = task(judged=True)
    made._fit_features(batch())
    nn.init.normal_(made.generator.head.weight, 0.0, 0.1)  # type: ignore[union-attr, arg-type]
    terms = made.generator_terms(made.prepare(batch()))
    assert set(terms) == {"reconstruction", "texture", "perceptual", "adversarial"}
    terms["texture"].backward()
    learning = {name for name, p in made.generator.named_parameters() if p.grad is not None}
    assert any(name.startswith("inject.") for name in learning)
    assert not any(name.startswith(("content.", "features.")) for name in learning)


def test_the_content_learns_first_and_is_frozen_then(tmp_path: Path) -> None:
    made, trace = task(judged=True, content_epochs=1, plain_epochs=1), Trace()
    ends: list[dict[str, Tensor]] = []
    made.on_train_epoch_end = lambda: ends.append(  # type: ignore[method-assign]
        {name: p.detach().clone() for name, p in made.generator.named_parameters()}
    )
    start = {name: p.detach().clone() for name, p in made.generator.named_parameters()}
    trainer = trained(made, tmp_path, trace, max_epochs=3)

    def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
        return {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}

    assert moved(start, ends[0]) == {"content"}
    assert moved(ends[0], ends[1]) == {"head"} | moved(ends[1], ends[2])
    assert "content" not in moved(ends[0], ends[2])
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert {"val/gate", "val/similarity", "val/content_psnr", "val/bicubic_psnr"} <= set(found)
    terms = [{name for name in values if name.startswith("train_g")} for values in trace.values]
    assert "train_g/texture" not in terms[5]
    assert "train_g/texture" in terms[6]


def test_a_resumed_training_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    def fresh() -> ReferenceSuperResolution:
        return task(judged=True, content_epochs=1)

    unbroken = fresh()
    saver = plain.ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    trained(unbroken, tmp_path, saver, max_epochs=3, shuffled=False)
    resumed = fresh()
    trained(resumed, tmp_path, max_epochs=3, path=tmp_path / "epoch=1.ckpt", shuffled=False)
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_gate_waits_for_a_batch_with_references(tmp_path: Path) -> None:
    made, data = task(), Data(shuffled=False)
    for sample in data.samples[:2]:
        sample["mask_reference"] = torch.zeros_like(sample["mask_reference"])
    network: Any = made.generator
    floors: list[tuple[bool, float]] = []

    class Look(plain.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            floors.append((network.calibrated, float(network.floor)))

    trained(made, tmp_path, Look(), max_epochs=1, data=data)
    assert floors[0] == (False, 0.0)
    assert floors[1][0]
    assert floors[1][1] > 0
    assert floors[2] == floors[1]


def test_the_content_learns_under_the_constraint_and_what_is_invalid_reaches_no_texture() -> None:
    made, given = task(judged=True, content_epochs=1), batch()
    network: Any = made.generator
    network.form = "local"
    nn.init.normal_(network.content.head.weight)
    ready = made.prepare(dict(given))
    assert torch.equal(ready["made"], network.alone(given["image"], given["mask_valid"]))
    torch.testing.assert_close(nn.functional.avg_pool2d(ready["made"], SCALE), given["image"])
    made._trainer.current_epoch = 1  # type: ignore[misc]
    made._fit_features(given)
    nn.init.normal_(network.head.weight)
    given["mask_valid_target"][..., :8] = 0
    torch.manual_seed(3)
    ready = made.prepare(dict(given))
    found = made.generator_terms(ready)["texture"]
    spoiled = ready | {"made": torch.where(ready["mask_both"] > 0, ready["made"], 30.0)}
    torch.testing.assert_close(made.generator_terms(spoiled)["texture"], found)
    assert float(found.detach()) > 0


def test_tiles_without_references_are_refused_before_anything_is_learned(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected tiles with references"):
        trained(task(), tmp_path, data=Bare())


def test_predictions_come_with_similarity_and_gate() -> None:
    made, given = task(), batch()
    made._fit_features(given)
    found = made.predict_step(given, 0)
    assert found["prediction"].shape == given["image_target"].shape
    assert found["similarity"].shape == found["gate"].shape == given["mask_valid"].shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"residual": nn.Conv2d(3, 3, 1)}, "leave the residual out"),
        ({"content_epochs": -1}, "content_epochs >= 0"),
        ({"generator": SRResNet(3, 3, SCALE, width=4, blocks=1)}, "takes no references"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReferenceSuperResolution(**{"generator": task().generator, **arguments})


def test_a_share_of_the_samples_is_shown_its_own_truth_while_the_network_learns() -> None:
    made, given = task(truth_share=1.0), batch()
    made._fit_features(given)
    given |= {"image_reference": torch.randn_like(given["image_reference"])}
    kept = given["image_reference"].clone()
    shown = made.train().prepare(dict(given))["found"]
    assert float(shown.gate.mean()) > 0.9
    assert torch.equal(shown.match[:, 1:], torch.zeros_like(shown.match[:, 1:]))
    assert float(made.eval().prepare(dict(given))["found"].gate.mean()) < 0.05
    assert torch.equal(given["image_reference"], kept)


def test_without_a_share_of_truth_no_random_number_is_drawn() -> None:
    made, given = task(truth_share=0.0), batch()
    made._fit_features(given)
    before = torch.get_rng_state()
    assert made.train()._with_truth(given) is given
    assert torch.equal(torch.get_rng_state(), before)


def test_a_share_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"truth_share from 0 to 1, got 1\.5"):
        task(truth_share=1.5)
