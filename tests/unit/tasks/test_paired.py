from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from rsgeo_gan.losses import Hinge, PairLoss, PooledL1, ShiftTolerantL1
from rsgeo_gan.models import PatchDiscriminator, UNetGenerator
from rsgeo_gan.tasks import PairedTranslation

WAYS = ("source_to_target", "target_to_source")
BANDS = {"source": 3, "target": 2}


def task(direction: str = "source_to_target", **more: Any) -> PairedTranslation:
    torch.manual_seed(0)
    read, made = direction.split("_to_")
    made_task = PairedTranslation(
        UNetGenerator(BANDS[read], BANDS[made], width=4, depth=3, dropout=0.0),
        PatchDiscriminator(sum(BANDS.values()), width=4, layers=2),
        direction=direction,  # type: ignore[arg-type]
        **more,
    )
    made_task._trainer = Mock(num_training_batches=10, max_epochs=10, max_steps=-1)
    return made_task


def batch(garbage: float | None = None) -> dict[str, Tensor]:
    """Two samples; with garbage, each has a hole on one side that holds it."""
    torch.manual_seed(1)
    made = {
        "image": torch.rand(2, 3, 32, 32) * 2 - 1,
        "image_target": torch.rand(2, 2, 32, 32) * 2 - 1,
        "mask_valid": torch.ones(2, 1, 32, 32),
        "mask_valid_target": torch.ones(2, 1, 32, 32),
        "confidence": torch.ones(2),
        "tile": torch.tensor([4, 5]),
    }
    if garbage is not None:
        made["mask_valid"][0, :, 4:12, 6:20] = 0
        made["mask_valid_target"][1, :, 20:, :9] = 0
        for image, mask in (("image", "mask_valid"), ("image_target", "mask_valid_target")):
            made[image] = torch.where(made[mask] > 0, made[image], torch.tensor(garbage))
    return made


def terms(made: PairedTranslation, given: dict[str, Tensor]) -> dict[str, Tensor]:
    ready = made.prepare(dict(given))
    judged = {f"d_{name}": term for name, term in made.discriminator_terms(ready).items()}
    return judged | made.generator_terms(ready)


@pytest.mark.parametrize("direction", WAYS)
def test_terms_are_named_and_one_pass_makes_the_translation(direction: str) -> None:
    made, passes = task(direction), []
    made.generator.register_forward_hook(lambda _module, args, out: passes.append((args[0].shape[1], out.shape[1])))
    assert set(terms(made, batch())) == {"d_adversarial", "adversarial", "pixel"}
    assert passes == [(3, 2) if direction == WAYS[0] else (2, 3)]


def test_the_discriminator_sees_the_image_read_beside_the_one_made() -> None:
    made, given, seen = task(WAYS[1]), batch(0.5), []
    made.discriminator.register_forward_hook(lambda _module, args, _out: seen.append(args[0]))
    ready = made.prepare(dict(given))
    made.discriminator_terms(ready)
    real, fake = seen[0].split(2)
    both = ready["mask_both"]
    assert torch.equal(real, torch.cat([given["image_target"], given["image"]], dim=1) * both)
    assert torch.equal(fake[:, :2], real[:, :2])
    assert not fake[(both == 0).expand_as(fake)].any()


def test_each_step_moves_its_own_network_only() -> None:
    made = task(adversarial=Hinge())
    ready = made.prepare(batch())
    sum(made.discriminator_terms(ready).values()).backward()
    assert all(p.grad is None for p in made.generator.parameters())
    assert all(p.grad is not None for p in made.discriminator.parameters())
    sum(made.generator_terms(ready).values()).backward()
    assert all(p.grad is not None for p in made.generator.parameters())


@pytest.mark.parametrize("direction", WAYS)
def test_garbage_under_nodata_changes_no_term(direction: str) -> None:
    clean, spoiled = terms(task(direction), batch(0.0)), terms(task(direction), batch(0.7))
    for name, term in clean.items():
        torch.testing.assert_close(term, spoiled[name], atol=1e-6, rtol=0, msg=name)


def test_pure_nodata_gives_terms_that_are_finite_and_move_nothing() -> None:
    made, given = task(correspondence=PooledL1()), batch()
    given["mask_valid"].zero_()
    found = terms(made, given)
    assert all(torch.isfinite(term) for term in found.values())
    sum(found.values()).backward()
    assert all(p.grad is None or not p.grad.any() for p in made.parameters())


def test_the_pixel_term_is_scaled_by_trust_per_pixel_before_trust_per_sample() -> None:
    made, given = task(), batch()
    full = terms(made, given)["pixel"]
    given["confidence"] = torch.full((2,), 0.5)
    torch.testing.assert_close(terms(made, given)["pixel"], 0.5 * full)
    given["mask_confidence"] = torch.full((2, 1, 32, 32), 0.25)
    torch.testing.assert_close(terms(made, given)["pixel"], 0.25 * full)


@pytest.mark.parametrize("direction", WAYS)
@pytest.mark.parametrize("correspondence", [PooledL1(4), ShiftTolerantL1(2)])
def test_a_correspondence_counts_in_the_direction_made(direction: str, correspondence: Any) -> None:
    made = task(direction, correspondence=correspondence, weights={"pixel": 0.0})
    given = batch()
    assert set(terms(made, given)) == {"d_adversarial", "adversarial", "pair"}
    with torch.no_grad():
        made.generator.head.weight.zero_()
    image = "image_target" if direction == WAYS[0] else "image"
    given[image].zero_()
    assert float(terms(made, given)["pair"].detach()) == 0.0


def test_a_correspondence_of_both_generators_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a generator with an `encoder`.*got MissingGenerator"):
        task(WAYS[1], correspondence=PairLoss())


@pytest.mark.parametrize("direction", WAYS)
def test_scores_have_the_names_of_the_cycle_without_a_way_back(direction: str) -> None:
    made, logged = task(direction).eval(), {}
    made.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign]
    made._score(batch(), "val")
    names = {f"val/{name}" for name in ("psnr_tolerant", "ssim_tolerant", "ssim_multilook", "l1", "spectrum_db")}
    assert set(logged) == names
    assert made.monitor in names
    assert made.contrast(made.prepare(batch())) < 1


@pytest.mark.parametrize("direction", WAYS)
def test_prediction_reads_the_side_it_translates(direction: str) -> None:
    out = task(direction).eval().predict_step(batch(), 0)
    assert out["prediction"].shape == (2, 2 if direction == WAYS[0] else 3, 32, 32)
    assert out["tile"].tolist() == [4, 5]


@pytest.mark.parametrize("direction", WAYS)
def test_the_checkpoint_says_which_direction_its_generator_has(direction: str) -> None:
    saved: dict[str, Any] = {}
    task(direction).on_save_checkpoint(saved)
    assert saved["rsgeo_gan"]["generators"] == {direction: "generator"}


def test_networks_for_other_band_counts_are_refused_by_name() -> None:
    made = task()
    facts = {"source": {"bands": ["B02", "B03", "B04"]}, "target": {"bands": ["VV"]}}
    made._trainer = Mock(datamodule=Mock(facts=facts))
    with pytest.raises(ValueError, match=r"generator was built with out_channels 2, but the target tiles have 1"):
        made.setup("fit")
    made.generator.out_channels = 1
    with pytest.raises(ValueError, match=r"discriminator was built with in_channels 5, but the source and target"):
        made.setup("fit")


def test_odd_sizes_are_taken() -> None:
    given = {key: value[..., :31, :29] if value.ndim == 4 else value for key, value in batch(0.3).items()}
    made = task()
    assert made.prepare(dict(given))["fake_target"].shape == (2, 2, 31, 29)
    assert all(torch.isfinite(term) for term in terms(made, given).values())


def test_sides_of_unequal_size_are_refused() -> None:
    given = batch()
    given["image_target"] = given["image_target"][..., :30]
    with pytest.raises(ValueError, match="PairedTranslation: expected source and target of one size"):
        task().prepare(given)
