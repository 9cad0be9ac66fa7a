"""Image synthesis: terms and their signs, isolation, schedules, masks, resuming, and what stops before training."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rsgeo_gan.augment import AdaptiveAugmentation
from rsgeo_gan.datamodules import TileDataModule
from rsgeo_gan.errors import CheckpointError
from rsgeo_gan.losses import NonSaturating
from rsgeo_gan.metrics import RandomConv
from rsgeo_gan.models import (
    DCGANDiscriminator,
    DCGANGenerator,
    FrequencyShifted,
    StyleDiscriminator,
    StyleGenerator,
    swap_spectrum,
)
from rsgeo_gan.models.synthesis import SynthesisDiscriminator, SynthesisGenerator
from rsgeo_gan.tasks import ImageSynthesis
from rsgeo_gan.tasks.noise import sample_noise, sample_seeds
from tests.synth import ramp, write_tiles

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
]

SIZE = 16
SPREAD = {"uniformity_g": 0.2, "uniformity_d": 0.2, "entropy_g": 0.5, "entropy_d": 0.5}


def generator(condition_dim: int = 0) -> DCGANGenerator:
    return DCGANGenerator(2, SIZE, width=4, max_width=8, latent_dim=6, condition_dim=condition_dim, norm="none")


def discriminator(condition_dim: int = 0) -> DCGANDiscriminator:
    return DCGANDiscriminator(2, SIZE, width=4, max_width=8, condition_dim=condition_dim)


def synthesis(condition_dim: int = 0, seed: int = 0, **more: Any) -> ImageSynthesis:
    torch.manual_seed(seed)
    return ImageSynthesis(generator(condition_dim), discriminator(condition_dim), **{"lr": 1e-2, **more})


def samples(count: int = 8, condition_dim: int = 0) -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    made: list[dict[str, Tensor]] = []
    for k in range(count):
        one = {
            "image": torch.rand(2, SIZE, SIZE, generator=draw) * 2 - 1,
            "mask_valid": torch.ones(1, SIZE, SIZE),
            "tile": torch.tensor(k),
            "origin_px": torch.tensor([3 * k, 5 * k + 1]),
        }
        if condition_dim:
            one["condition"] = torch.rand(condition_dim, generator=draw) * 2 - 1
        made.append(one)
    return made


def trainer(epochs: int = 1, *callbacks: Callback, **more: Any) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        **more,
    )


def loaded(data: Any, batch: int) -> DataLoader[Any]:
    """Batches in order, without a draw from the global random numbers."""
    return DataLoader(data, batch_size=batch, generator=torch.Generator())


def fit(task: ImageSynthesis, epochs: int = 1, batch: int = 4, data: Any = None, *callbacks: Callback) -> Trainer:
    loader = loaded(samples() if data is None else data, batch)
    run = trainer(epochs, *callbacks)
    torch.manual_seed(5)
    run.fit(task, loader)
    return run


def weights_of(task: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in task.state_dict().items()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class FlatGenerator(SynthesisGenerator):
    """The latent as the only feature, and an image of one value."""

    def __init__(self) -> None:
        super().__init__(1, 8, 4, 0)
        self.tap_channels = {"b4": 1}
        self.gain = nn.Parameter(torch.ones(()))

    def forward_features(
        self, z: Tensor, condition: Tensor | None = None, taps: Sequence[str] = (), origin_px: Tensor | None = None
    ) -> dict[str, Tensor]:
        return {"b4": (self.gain * z)[:, None, None].expand(-1, 1, 4, 4), "_image": self.gain * z}

    def forward_head(self, features: Mapping[str, Tensor]) -> Tensor:
        return features["_image"].mean(dim=1)[:, None, None, None].expand(-1, 1, 8, 8)


class FlatDiscriminator(SynthesisDiscriminator):
    """The image as the only feature."""

    def __init__(self) -> None:
        super().__init__(1, 8, 0)
        self.tap_channels = {"b4": 1}
        self.gain = nn.Parameter(torch.ones(()))

    def _features(self, x: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        features = self.gain * x[:, :, ::2, ::2]
        return {"last": features.mean(dim=(1, 2, 3))[:, None], "b4": features}

    def _head(self, last: Tensor, condition: Tensor | None) -> Tensor:
        return self.gain * last


def flat_batch(task: ImageSynthesis, z: Tensor) -> dict[str, Any]:
    """Prepare a batch whose latents are chosen."""
    task._trainer = trainer()  # type: ignore[assignment]
    task.log = task.log_dict = lambda *a, **k: None  # type: ignore[assignment, method-assign]
    batch = {"image": torch.zeros(len(z), 1, 8, 8), "mask_valid": torch.ones(len(z), 1, 8, 8)}
    made = task.prepare(batch)
    features = task.generator.forward_features(z)  # type: ignore[operator]
    fake = task.generator.forward_head(features)  # type: ignore[operator]
    made |= {"fake": fake, "features": features["b4"], "shown_fake": fake}
    task.discriminator_terms(made)
    return made


def test_uniformity_is_minimised_and_entropy_maximised_on_known_features() -> None:
    task = ImageSynthesis(FlatGenerator(), FlatDiscriminator(), weights=SPREAD, entropy_cap=None)
    z = torch.tensor([[1.0, -1, 1, -1], [-1, 1, -1, 1], [2, -2, 2, -2], [-2, 2, -2, 2]])
    terms = task.generator_terms(flat_batch(task, z))
    # Both halves are one pair of opposite directions: exp(-2 · 2²).
    torch.testing.assert_close(terms["uniformity_g"], torch.tensor(-8.0))
    # ½ log(2πe) + log of the unbiased deviation of sixteen values ± 1 and ± 2, halfway between.
    deviation = 0.5 * (math.log(16 / 15) + math.log(4 * 16 / 15)) / 2
    torch.testing.assert_close(terms["entropy_g"], torch.tensor(-(0.5 * math.log(2 * math.pi * math.e) + deviation)))
    assert task.weight_of("entropy_g") == 0.5
    assert task.weight_of("uniformity_d") == 0.2


def test_features_of_equal_images_have_the_largest_uniformity_and_no_gradient() -> None:
    task = ImageSynthesis(FlatGenerator(), FlatDiscriminator(), weights={"uniformity_g": 0.2})
    terms = task.generator_terms(flat_batch(task, torch.ones(4, 4)))
    assert float(terms["uniformity_g"].detach()) == pytest.approx(0.0, abs=1e-6)
    (gradient,) = torch.autograd.grad(terms["uniformity_g"], [task.generator.gain], allow_unused=True)  # type: ignore[list-item]
    assert float(gradient) == pytest.approx(0.0, abs=1e-5)


def test_entropy_is_capped_by_a_number_and_by_what_reals_have() -> None:
    z = torch.tensor([[1.0, -1, 1, -1], [2.0, -2, 2, -2]])
    task = ImageSynthesis(FlatGenerator(), FlatDiscriminator(), weights={"entropy_g": 0.5}, entropy_cap=0.25)
    capped = task.generator_terms(flat_batch(task, z))["entropy_g"]
    assert float(capped.detach()) == -0.25
    task = synthesis(weights=SPREAD)
    fit(task)
    limit = float(task.entropy_limit.limit)
    assert math.isfinite(limit)
    above, below = torch.tensor(limit + 3), torch.tensor(limit - 3)
    assert float(task.spreading.capped("d", above)) == limit
    assert torch.equal(task.spreading.capped("d", below), below)
    assert torch.equal(task.spreading.capped("g", above), above)


PARTS = ("generator", "discriminator")


def test_spreading_features_moves_the_generator_alone() -> None:
    """With nothing but uniformity and entropy, D stays as it was and has no such terms."""
    nothing = {"adversarial": 0.0, "r1": 0.0, "r2": 0.0}
    task = synthesis(weights=nothing | SPREAD)
    before = weights_of(task)
    run = fit(task)
    after = weights_of(task)
    moved = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert "generator" in moved
    assert "discriminator" not in moved
    logged = run.callback_metrics
    assert {f"train_g/{name}" for name in SPREAD} <= set(logged)
    assert not {f"train_d/{name}" for name in SPREAD} & set(logged)


def test_features_of_the_discriminator_reach_only_the_generator() -> None:
    task = synthesis(weights={"uniformity_d": 0.2, "entropy_d": 0.5})
    task._trainer = trainer()  # type: ignore[assignment]
    task.log = task.log_dict = lambda *a, **k: None  # type: ignore[assignment, method-assign]
    batch = task.prepare(next(iter(DataLoader(samples(), batch_size=4))))
    task.discriminator.requires_grad_(False)
    task.discriminator_terms(batch)
    terms = task.generator_terms(batch)
    (terms["uniformity_d"] + terms["entropy_d"]).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in task.generator.parameters())
    assert all(p.grad is None for p in task.discriminator.parameters())


def plain_loop(task: ImageSynthesis, batches: Sequence[dict[str, Tensor]]) -> None:
    """The baseline, written down without the task: relativistic pairing, r1, r2 and Adam."""
    g, d = task.generator, task.discriminator
    step_d, step_g = (torch.optim.Adam(m.parameters(), lr=1e-2, betas=(0.0, 0.99), fused=True) for m in (d, g))
    for batch in batches:
        real = batch["image"]
        fake = g(torch.randn(len(real), 6))
        step_d.zero_grad()
        on_real, on_fake = d(real), d(fake.detach())
        loss = nn.functional.softplus(on_fake - on_real).mean()
        total = [loss]
        for images in (real, fake.detach()):
            at = images.clone().requires_grad_()
            (slope,) = torch.autograd.grad(d(at).sum(), at, create_graph=True)
            total.append(0.5 * slope.square().sum(dim=(1, 2, 3)).mean())
        torch.stack(total).sum().backward()
        step_g.zero_grad()
        for p in d.parameters():
            p.requires_grad_(False)
        nn.functional.softplus(on_real.detach() - d(fake)).mean().backward()
        for p in d.parameters():
            p.requires_grad_(True)
        step_d.step()
        step_g.step()


def test_weights_of_zero_are_the_baseline_bit_for_bit() -> None:
    task, other = synthesis(weights=dict.fromkeys(SPREAD, 0.0), decay_share=0.0), synthesis()
    expected = copy.deepcopy({name: getattr(other, name) for name in PARTS})
    fit(task, epochs=3)
    torch.manual_seed(5)
    other.generator, other.discriminator = expected["generator"], expected["discriminator"]
    plain_loop(other, list(loaded(samples(), 4)) * 3)
    assert task.batches_seen == 6
    for name in PARTS:
        assert same(weights_of(getattr(task, name)), weights_of(getattr(other, name))), name
    spread = synthesis(weights=SPREAD, decay_share=0.0)
    fit(spread, epochs=1)
    assert not same(weights_of(spread.generator), weights_of(task.generator))


def test_lazy_penalties_come_every_k_batches_with_k_times_their_weight() -> None:
    torch.manual_seed(0)
    task = ImageSynthesis(
        StyleGenerator(2, 8, width=4, max_width=8, latent_dim=4, mapping_layers=1),
        StyleDiscriminator(2, 8, width=4, max_width=8),
        NonSaturating(),
        weights={"r1": 0.5, "r2": 0.0, "path_length": 2.0},
        penalty_every=3,
        path_every=2,
    )
    seen: dict[str, list[int]] = {"r1": [], "path_length": []}
    for side in ("discriminator_terms", "generator_terms"):
        original = getattr(task, side)

        def noted(batch: Any, original: Any = original) -> Any:
            terms = original(batch)
            for name in seen:
                if name in terms:
                    seen[name].append(task.batches_seen)
            assert "r2" not in terms
            return terms

        setattr(task, side, noted)
    small = [{**one, "image": one["image"][:, :8, :8], "mask_valid": one["mask_valid"][:, :8, :8]} for one in samples()]
    run = fit(task, epochs=2, batch=2, data=small)
    assert seen == {"r1": [0, 3, 6], "path_length": [0, 2, 4, 6]}
    assert task.weight_of("r1") == 1.5
    assert task.weight_of("path_length") == 4.0
    assert float(task.path_mean) > 0
    # One step holds everything, so nothing is corrected in Adam.
    assert run.optimizers[0].param_groups[0]["betas"] == (0.0, 0.99)


def test_penalties_fall_to_their_share_of_the_training() -> None:
    task = synthesis(weights={"r1": 4.0}, penalty_final=0.25)
    task._trainer = trainer(4)
    task._trainer.fit_loop.epoch_loop._data_fetcher = None
    task._trainer.fit_loop.max_batches = 5
    for batches, expected in ((0, 4.0), (10, 2.5), (20, 1.0), (99, 1.0)):
        task.batches_seen = batches
        assert task.weight_of("r1") == pytest.approx(expected)


def test_what_lies_under_nodata_changes_nothing() -> None:
    clean, spoiled = samples(), samples()
    for one, other in zip(clean, spoiled, strict=True):
        for made in (one, other):
            made["mask_valid"][:, 4:8, 2:9] = 0
        one["image"][:, 4:8, 2:9] = 0
        other["image"][:, 4:8, 2:9] = torch.nan
    ends = []
    for data in (clean, spoiled):
        task = synthesis(weights=SPREAD, augmentation=AdaptiveAugmentation(p=0.5))
        fit(task, data=data)
        ends.append(weights_of(task))
    assert all(bool(torch.isfinite(value).all()) for value in ends[1].values())
    assert same(*ends)


def test_the_discriminator_sees_one_footprint_and_the_gradient_penalty_none_of_it() -> None:
    task = synthesis()
    task._trainer = trainer()
    batch = next(iter(DataLoader(samples(), batch_size=4)))
    batch["mask_valid"][:, :, :5] = 0
    made = task.prepare(batch)
    for kind in ("real", "fake"):
        assert not made[f"shown_{kind}"][:, :, :5].any()
        assert made[f"shown_{kind}"][:, :, 5:].any()
    at = torch.randn(4, 2, SIZE, SIZE, requires_grad=True)
    (slope,) = torch.autograd.grad(task._slope(None, made["seen_real"])(at).sum(), at)
    assert not slope[:, :, :5].any()
    assert slope[:, :, 5:].any()


@pytest.mark.parametrize("shifted", [("generator",), ("data",), ("generator", "data")])
def test_the_full_band_shift_reaches_what_it_should(shifted: tuple[str, ...]) -> None:
    task = synthesis(spectrum=dict.fromkeys(shifted, True))
    task._trainer = trainer()
    batch = next(iter(DataLoader(samples(), batch_size=4)))
    made = task.prepare(batch)
    raw, origin = task.generator(made["z"]), batch["origin_px"]
    swapped = swap_spectrum(raw, origin)
    data = "data" in shifted
    # The discriminator meets what the generator puts out, unless only the generator is shifted.
    assert torch.equal(
        made["shown_fake"], swapped if shifted == ("generator",) else raw if not data or len(shifted) == 1 else swapped
    )
    assert torch.equal(made["shown_real"], swap_spectrum(batch["image"], origin) if data else batch["image"])
    # Scores, pictures and predictions are images of the data.
    assert torch.equal(made["fake"], raw if len(shifted) == 2 else swapped)


def test_generated_images_take_the_conditions_of_the_batch_in_another_order() -> None:
    task = synthesis(condition_dim=3)
    task._trainer = trainer()
    torch.manual_seed(0)
    made = task.prepare(next(iter(DataLoader(samples(condition_dim=3), batch_size=8))))
    given, wanted = made["condition"], made["condition_fake"]
    assert not torch.equal(given, wanted)
    assert sorted(map(tuple, given.tolist())) == sorted(map(tuple, wanted.tolist()))
    fit(task, data=samples(condition_dim=3))


def test_noise_of_predictions_depends_on_the_sample_and_not_on_its_batch() -> None:
    task = synthesis().eval()
    task._trainer = trainer()
    data = samples()
    for k, one in enumerate(data):
        one["seed"] = torch.tensor(2**60 + k)
    alone, together = (
        torch.cat([task.predict_step(batch, 0)["prediction"] for batch in DataLoader(data, batch_size=size)])
        for size in (1, 8)
    )
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)
    assert len({tuple(one.flatten().tolist()) for one in together.detach()}) == 8
    assert float(together.detach().abs().max()) <= 1


def test_seeds_of_patches_of_one_tile_differ_and_the_prior_is_that_of_the_network() -> None:
    batch = {"tile": torch.tensor([4, 4, 5]), "origin_px": torch.tensor([[0, 0], [0, 16], [0, 0]])}
    assert len(set(sample_seeds(batch))) == 3
    uniform = DCGANGenerator(1, 8, width=2, max_width=2, latent_dim=400, prior="uniform")
    z = sample_noise(uniform, 2, "cpu", [1, 2])
    assert -1 <= float(z.min()) < -0.9 < 0.9 < float(z.max()) <= 1
    assert torch.equal(z[1:], sample_noise(uniform, 1, "cpu", [2]))
    with pytest.raises(ValueError, match="expected 3 seeds, one for each sample, got 1"):
        sample_noise(uniform, 3, "cpu", [1])


class Data(LightningDataModule):
    """Samples, with facts as tiles have them."""

    def __init__(self, batch_size: int = 4, facts: dict[str, Any] | None = None, condition_dim: int = 0) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.facts = facts or {}
        self.condition_dim = condition_dim

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(samples(condition_dim=self.condition_dim), batch_size=self.batch_size)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(samples(12, condition_dim=self.condition_dim), batch_size=4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "data", "message"),
    [
        ({"weights": {"uniformity_g": 0.2}}, {"batch_size": 1}, r"expected batch_size >= 2 .*got 1; raise batch_size"),
        (
            {"tap_generator": "b32"},
            {},
            r"DCGANGenerator has no tap 'b32'; set model.tap_generator to one of b4, b8, b16",
        ),
        ({"tap_discriminator": "b4"}, {}, r"DCGANDiscriminator has no tap 'b4'; .* one of b16, b8"),
        ({"weights": {"path_length": 2.0}}, {}, r"path_length needs a generator with styles, which DCGANGenerator"),
        (
            {"backend": RandomConv(3, dims=2)},
            {"facts": {"image": {"bands": ["B02", "B03"], "low": [0] * 2, "high": [1] * 2}}},
            r"backend of the scores takes 3 bands, but the tiles have 2",
        ),
        ({}, {"facts": {"patch_px": 32}}, r"generator was built with size_px 16, but the tiles ask for 32 .*patch"),
        (
            {},
            {"facts": {"image": {"bands": ["B02", "B03", "B04"], "low": [0] * 3, "high": [1] * 3}}},
            r"generator was built with out_channels 2, but the tiles ask for 3 \(bands\)",
        ),
        (
            {},
            {"facts": {"conditions": {"parts": [{"kind": "cyclic", "name": "day", "period": 365.25, "unit": "d"}]}}},
            r"condition_dim 0, but the tiles ask for 2 \(entries of a condition\)",
        ),
    ],
)
def test_what_does_not_fit_is_said_before_training(
    settings: dict[str, Any], data: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        trainer().fit(synthesis(**settings), Data(**data))


def test_networks_and_settings_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"condition_dim 2, the discriminator condition_dim 0; expected equal"):
        ImageSynthesis(generator(2), discriminator())
    with pytest.raises(ValueError, match=r"spectrum has unknown keys \['datum'\]"):
        synthesis(spectrum={"datum": True})
    with pytest.raises(ValueError, match=r"unknown terms \['entropy'\]"):
        synthesis(weights={"entropy": 0.5})
    with pytest.raises(ValueError, match=r"entropy_cap as a number, \"real\" or none, got 'reel'"):
        synthesis(entropy_cap="reel")
    with pytest.raises(ValueError, match=r"penalty_every and path_every >= 1"):
        synthesis(penalty_every=0)


def test_what_may_be_meant_is_warned_of_before_training(caplog: pytest.LogCaptureFixture) -> None:
    """Frequencies on the ground for other pixels, and patches that no score describes."""
    base = DCGANGenerator(2, 8, width=4, max_width=8, latent_dim=6, norm="none")
    for gsd, patches in ((10.0, 8), (20.0, 8)):
        network = FrequencyShifted(base, frequencies_per_m=[[1 / 160, 0]], gsd_m=10.0, tap="b4")
        judge = DCGANDiscriminator(2, 8, width=4, max_width=8)
        task = ImageSynthesis(network, judge, augmentation=AdaptiveAugmentation(turns=gsd > 10))
        radar = {"bands": ["vv", "vh"], "low": [-25, -32], "high": [0, -5], "unit": "dB"}
        task._trainer = Mock(datamodule=Data(facts={"gsd": gsd, "patch_px": patches, "image": radar}))
        task.setup("fit")
    told = [record.getMessage() for record in caplog.records]
    assert [message for message in told if "stated for pixels" in message] == [
        "the generator's frequencies are stated for pixels of 10 m, the tiles have 20 (units of their CRS); if these "
        "are metres, correct gsd_m of the generator"
    ]
    assert sum("8 px are too small for the features of scores, which need 16 px" in message for message in told) == 2
    assert sum("radar images are turned and mirrored" in message for message in told) == 1


def test_a_batch_without_the_conditions_that_networks_need_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expect conditions of 2 numbers, but the batch has none"):
        fit(synthesis(condition_dim=2))


def test_other_classes_than_those_of_the_checkpoint_are_refused() -> None:
    task, saved = synthesis(), {}
    task._trainer = trainer()
    task.facts = {"conditions": {"parts": [{"kind": "classes", "name": "label", "classes": ["forest", "water"]}]}}
    task.on_save_checkpoint(saved)
    task.facts = {"conditions": {"parts": [{"kind": "classes", "name": "label", "classes": ["water", "forest"]}]}}
    with pytest.raises(CheckpointError, match="trained with other conditions"):
        task.on_load_checkpoint(saved)


def test_scores_compare_sets_and_the_best_is_the_smallest() -> None:
    task = synthesis(condition_dim=1)
    run = trainer(2)
    run.fit(task, Data(condition_dim=1))
    scores = {name: float(run.callback_metrics[f"val/{name}"]) for name in ("fd", "kd", "precision", "recall")}
    assert all(map(math.isfinite, scores.values()))
    assert float(run.callback_metrics["val/images"]) == 12
    assert (task.monitor, task.mode) == ("val/fd", "min")
    again = run.validate(task, Data(condition_dim=1), verbose=False)[0]
    assert again["val/fd"] == pytest.approx(scores["fd"], rel=1e-5)
    assert task.judge.name.startswith("random-conv-")


def test_diagnostics_name_the_group_that_the_potential_depends_on() -> None:
    seen = fit(synthesis(augmentation=AdaptiveAugmentation())).callback_metrics
    assert float(seen["features/group_g"]) == 2
    assert 0 < float(seen["features/potential_d"]) <= 1
    wanted = {"features/entropy_d_real", "features/norm_g", "augmentation/p", "fake/out_of_range", "logits/sign_real"}
    assert wanted <= set(seen)


def test_images_that_are_all_alike_count_as_collapsed() -> None:
    task = synthesis()
    texture = torch.randn(1, 2, SIZE, SIZE)
    real = torch.randn(6, 2, SIZE, SIZE)
    assert task.contrast({"image": real, "fake": texture.expand(6, -1, -1, -1)}) == pytest.approx(0, abs=1e-6)
    flat = torch.randn(6, 2, 1, 1).expand(-1, -1, SIZE, SIZE)
    assert task.contrast({"image": real, "fake": flat}) == pytest.approx(0, abs=1e-6)
    assert task.contrast({"image": real, "fake": real}) == pytest.approx(1)


class Stop(Exception):
    """What ends a run in the middle."""


class SaveAndStop(Callback):
    """Save after some batches and end the run."""

    def __init__(self, batches: int, path: Path) -> None:
        self.batches, self.path = batches, path

    def on_train_batch_end(self, run: Trainer, task: Any, *_: Any) -> None:
        if task.batches_seen == self.batches:
            run.save_checkpoint(self.path)
            raise Stop


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_stopped_and_resumed_run_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    """With everything that has a state: augmentation, entropy limit, lazy terms, path length, standardised scores."""
    tiles = write_tiles(tmp_path, cells=(3, 1), size=48, source=ramp(2), splits=["train", "train", "val"])
    path = tmp_path / "stopped.ckpt"

    def run(*callbacks: Callback, seed: int = 3, resume: Path | None = None) -> dict[str, Any]:
        seed_everything(seed)
        task = ImageSynthesis(
            StyleGenerator(2, SIZE, width=4, max_width=8, latent_dim=6, mapping_layers=1, mixing=0.5),
            StyleDiscriminator(2, SIZE, width=4, max_width=8),
            augmentation=AdaptiveAugmentation(p=0.3, speed_images=40, interval=2),
            weights=SPREAD | {"path_length": 1.0},
            penalty_every=3,
            accumulate=2,
            clip_norm=5.0,
        )
        made = trainer(2, EMAWeightAveraging(decay=0.9, use_buffers=False), *callbacks)
        data = TileDataModule(str(tiles), "source", patch_size=SIZE, batch_size=2, length=8, val_length=6, flips=True)
        made.fit(task, data, ckpt_path=resume, weights_only=False if resume else None)
        made.save_checkpoint(tmp_path / "end.ckpt")
        return torch.load(tmp_path / "end.ckpt", weights_only=False)

    whole = run()
    with pytest.raises(Stop):
        run(SaveAndStop(5, path))
    resumed = run(seed=99, resume=path)
    for key in ("state_dict", "current_model_state"):
        assert same(whole[key], resumed[key]), key
    assert math.isfinite(whole["current_model_state"]["entropy_limit.limit"])
    assert whole["rsgeo_gan_state"]["batches_seen"] == 8
    one, other = (end["rsgeo_gan_state"]["extra"]["judge"] for end in (whole, resumed))
    assert one["in_bands"] == 2
    assert same({key: one[key] for key in ("mean", "axes")}, {key: other[key] for key in ("mean", "axes")})
