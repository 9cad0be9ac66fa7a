from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from rsgeo_gan.losses import Hinge, PairLoss, PooledL1
from rsgeo_gan.models import PatchDiscriminator, ResNetGenerator
from rsgeo_gan.tasks import CycleTranslation
from rsgeo_gan.tasks.pictures import picture


def task(source: int = 3, target: int = 2, **more: Any) -> CycleTranslation:
    torch.manual_seed(0)
    networks = {
        "generator": ResNetGenerator(source, target, width=4, blocks=1),
        "generator_back": ResNetGenerator(target, source, width=4, blocks=1),
        "discriminator": PatchDiscriminator(target, width=4, layers=2),
        "discriminator_back": PatchDiscriminator(source, width=4, layers=2),
    }
    made = CycleTranslation(**{**networks, "correspondence": PairLoss(), **more})
    made._trainer = Mock(num_training_batches=10, max_epochs=10, max_steps=-1)
    return made


def batch(source: int = 3, target: int = 2, size: int = 32) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "image": torch.rand(2, source, size, size) * 2 - 1,
        "image_target": torch.rand(2, target, size, size) * 2 - 1,
        "mask_valid": torch.ones(2, 1, size, size),
        "mask_valid_target": torch.ones(2, 1, size, size),
        "confidence": torch.ones(2),
        "tile": torch.tensor([4, 5]),
    }


def count_passes(network: nn.Module) -> list[int]:
    """Record the batch size of every forward pass."""
    sizes: list[int] = []
    network.register_forward_hook(lambda _module, args, _out: sizes.append(len(args[0])))
    return sizes


def test_a_step_passes_each_input_through_a_generator_once() -> None:
    made = task()
    forth, back = count_passes(made.generator), count_passes(made.generator_back)
    ready = made.prepare(batch())
    made.discriminator_terms(ready)
    made.generator_terms(ready)
    # Four passes of two samples, in three calls.
    assert (forth, back) == ([4], [2, 2])


def test_joined_and_separate_passes_agree() -> None:
    made, given = task(), batch()
    joined = made.prepare(dict(given))
    made._joins = False
    separate = made.prepare(dict(given))
    for key in ("fake_source", "fake_target", "cycle_source", "cycle_target"):
        torch.testing.assert_close(joined[key], separate[key], atol=1e-5, rtol=0)


def test_batch_normalisation_keeps_batches_apart() -> None:
    made = CycleTranslation(
        *(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)) for _ in range(4)), correspondence=PooledL1()
    )
    assert not made._joins


def test_terms_have_the_names_of_the_weights() -> None:
    made = task()
    ready = made.prepare(batch())
    assert set(made.discriminator_terms(ready)) == {"adversarial"}
    assert set(made.generator_terms(ready)) == {"adversarial", "cycle", "pair"}


def test_without_weight_the_pair_is_not_compared() -> None:
    made = task(weights={"pair": 0.0})
    assert set(made.generator_terms(made.prepare(batch()))) == {"adversarial", "cycle"}
    assert task(correspondence=None).correspondence is None


def test_identity_between_unequal_band_counts_is_refused() -> None:
    with pytest.raises(ValueError, match="equal band counts, got 3 source and 2 target bands"):
        task(weights={"identity": 5.0})


def test_identity_between_equal_band_counts_adds_its_term() -> None:
    made = task(2, 2, weights={"identity": 5.0})
    terms = made.generator_terms(made.prepare(batch(2, 2)))
    assert float(terms["identity"].detach()) > 0


def test_discriminator_terms_send_nothing_to_the_generators() -> None:
    made = task()
    sum(made.discriminator_terms(made.prepare(batch())).values()).backward()
    assert all(p.grad is None for network in (made.generator, made.generator_back) for p in network.parameters())
    assert all(p.grad is not None for p in made.discriminator.parameters())


def test_every_generator_weight_gets_a_gradient() -> None:
    made = task(adversarial=Hinge())
    sum(made.generator_terms(made.prepare(batch())).values()).backward()
    assert all(p.grad is not None for network in (made.generator, made.generator_back) for p in network.parameters())


def with_hole(garbage: float) -> dict[str, Tensor]:
    given = batch()
    given["mask_valid"][0, :, 4:12, 6:20] = 0
    given["mask_valid_target"][1, :, 20:, :9] = 0
    given["image"] = torch.where(given["mask_valid"] > 0, given["image"], torch.tensor(garbage))
    given["image_target"] = torch.where(given["mask_valid_target"] > 0, given["image_target"], torch.tensor(garbage))
    return given


def test_garbage_under_nodata_changes_no_term() -> None:
    first, second = task(), task()
    for made, garbage in ((first, 0.0), (second, 0.7)):
        ready = made.prepare(with_hole(garbage))
        made.found = {
            **{f"d_{k}": v for k, v in made.discriminator_terms(ready).items()},
            **made.generator_terms(ready),
        }
    for name, value in first.found.items():
        torch.testing.assert_close(value, second.found[name], atol=1e-6, rtol=0, msg=name)


def test_pure_nodata_gives_terms_that_are_finite_and_move_nothing() -> None:
    made, given = task(), batch()
    for key in ("mask_valid", "mask_valid_target"):
        given[key].zero_()
    ready = made.prepare(given)
    terms = [*made.discriminator_terms(ready).values(), *made.generator_terms(ready).values()]
    assert all(torch.isfinite(term) for term in terms)
    sum(terms).backward()
    assert all(p.grad is None or not p.grad.any() for p in made.parameters())


def test_real_and_fake_reach_a_discriminator_with_one_footprint() -> None:
    made = task()
    seen: list[Tensor] = []
    made.discriminator.register_forward_hook(lambda _module, args, _out: seen.append(args[0]))
    ready = made.prepare(with_hole(0.5))
    made.discriminator_terms(ready)
    real, fake = seen[0].split(2)
    hole = ready["mask_both"].expand_as(real) == 0
    assert hole.any()
    assert not real[hole].any()
    assert not fake[hole].any()


def test_a_pair_without_confidence_leaves_no_pair_term() -> None:
    made, given = task(), batch()
    given["confidence"] = torch.zeros(2)
    assert float(made.generator_terms(made.prepare(given))["pair"].detach()) == 0.0


def test_the_pair_weight_rises_over_the_first_tenth() -> None:
    made = task(weights={"pair": 4.0})
    weights = []
    for seen in (0, 5, 10, 60):
        made.batches_seen = seen
        weights.append(made.weight_of("pair"))
    assert weights == [0.0, 2.0, 4.0, 4.0]
    assert made.weight_of("cycle") == 10.0


def test_the_frozen_encoders_are_in_the_state_and_in_no_optimiser() -> None:
    made = task()
    assert any(key.startswith("correspondence.encoder") for key in made.state_dict())
    optimizers, _ = made.configure_optimizers()
    trained = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    assert made.correspondence is not None
    assert not trained & {id(p) for p in made.correspondence.parameters()}
    assert len(trained) == sum(
        1
        for network in (made.generator, made.generator_back, made.discriminator, made.discriminator_back)
        for _ in network.parameters()
    )


def test_networks_for_other_band_counts_are_refused_by_name() -> None:
    made = task()
    made._trainer = Mock(
        datamodule=Mock(facts={"source": {"bands": ["B02", "B03", "B04", "B08"]}, "target": {"bands": ["VV", "VH"]}})
    )
    with pytest.raises(
        ValueError,
        match=r"generator was built with in_channels 3, but the source tiles have 4 bands \(B02, B03, B04, B08\); "
        r"set model\.init_args\.generator\.init_args\.in_channels to 4",
    ):
        made.setup("fit")


def test_unequal_sizes_are_refused() -> None:
    given = batch()
    given["image_target"] = torch.zeros(2, 2, 64, 64)
    with pytest.raises(ValueError, match="translation works at one pixel size"):
        task().prepare(given)


def test_prediction_names_its_tile() -> None:
    made = task().eval()
    out = made.predict_step(batch(), 0)
    assert out["prediction"].shape == (2, 2, 32, 32)
    assert out["prediction"].abs().max() <= 1
    assert out["tile"].tolist() == [4, 5]


def test_collapse_shows_in_the_contrast() -> None:
    made = task()
    ready = made.prepare(batch())
    ready["fake_target"], ready["fake_source"] = ready["image_target"], ready["image"]
    assert made.contrast(ready) == pytest.approx(1.0)
    ready["fake_target"] = torch.zeros_like(ready["image_target"])
    assert made.contrast(ready) == pytest.approx(0.0, abs=1e-6)


def test_a_batch_without_a_whole_patch_logs_its_spectrum_without_weight() -> None:
    made, given, sizes = task().eval(), batch(), {}
    made.log = lambda name, _value, batch_size, **_: sizes.update({name: batch_size})  # type: ignore[method-assign]
    made._score(dict(given), "val")
    assert sizes["val/spectrum_db"] == sizes["val/back_spectrum_db"] == 2
    given["mask_valid"][:, :, 5, 5] = 0
    names = set(sizes)
    sizes.clear()
    made._score(given, "val")
    assert set(sizes) == names
    assert sizes["val/spectrum_db"] == sizes["val/back_spectrum_db"] == 0


def test_pictures_show_red_green_blue_where_names_say_so() -> None:
    image = torch.linspace(-1, 1, 4)[None, :, None, None].expand(1, 4, 2, 2)
    shown = picture(image, ("B02", "B03", "B04", "B08"))[0, :, 0, 0]
    torch.testing.assert_close(shown, torch.tensor([2 / 3, 1 / 3, 0.0]))
    assert picture(torch.zeros(1, 2, 2, 2), ("VV", "VH")).shape == (1, 3, 2, 2)


def test_a_task_made_in_python_keeps_its_arguments(tmp_path: Path) -> None:
    made = task(weights={"cycle": 7.0})
    assert made.hparams["weights"] == {"cycle": 7.0}
    assert made.weights == {**CycleTranslation.default_weights, "cycle": 7.0}


def with_noise() -> CycleTranslation:
    made = task()
    made.generator = ResNetGenerator(3, 2, width=4, blocks=1, noise_channels=2)
    made._takes_mask[id(made.generator)] = True
    made.correspondence.attach(made.generator, made.generator_back)
    return made


def test_only_the_discriminators_and_its_own_term_see_speckle() -> None:
    made = with_noise()
    terms = made.generator_terms(made.prepare(batch()))
    kernel = made.generator.noise.weight
    for name, term in terms.items():
        (gradient,) = torch.autograd.grad(term, kernel, retain_graph=True, allow_unused=True)
        assert (gradient is not None) == (name in ("adversarial", "speckle")), name


def test_the_speckle_term_moves_the_noise_and_nothing_else() -> None:
    torch.manual_seed(0)
    made = task(generator=ResNetGenerator(3, 2, width=4, blocks=1, noise_channels=2))
    terms = made.generator_terms(made.prepare(batch()))
    terms["speckle"].backward()
    moved = {name for name, p in made.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"generator.noise.weight", "generator.noise_skew"}
    assert "speckle" not in task(weights={"speckle": 0.0}).generator_terms(made.prepare(batch()))
    assert "speckle" not in task().generator_terms(task().prepare(batch()))


def test_speckle_is_drawn_anew_to_learn_and_is_always_the_same_to_score() -> None:
    made, image = with_noise(), batch()["image"]
    assert not torch.equal(made(image), made(image))
    made.eval()
    assert torch.equal(made(image), made(image))
    clean = made.generator(image)
    spread = (made(image) - clean).std()
    assert 0.01 < spread < 0.5
