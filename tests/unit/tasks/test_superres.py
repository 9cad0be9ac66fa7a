from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from rsgeo_gan.degrade import degrade
from rsgeo_gan.losses import Perceptual, Relativistic, Wasserstein
from rsgeo_gan.metrics import psnr
from rsgeo_gan.models import Constrained, PatchDiscriminator, RandomFeatures, SRResNet, SummedResolvers
from rsgeo_gan.tasks import SuperResolution
from tests.generation import EO_SCALER
from tests.sharpening import Toy as Plain

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
    # The tasks are made in Python here and keep their networks among their arguments.
    pytest.mark.filterwarnings("ignore:.*is an instance of `nn.Module`"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided"),
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization"),
]

SCALE, LOW = 2, 16
FACTS = {
    "source": EO_SCALER.to_dict(),
    "target": EO_SCALER.to_dict(),
    "scale": SCALE,
    "references": 0,
    "gsd": 20.0,
}


class Mean(nn.Module):
    """Stands for a distance of features: of means over 2 x 2 pixels, once they are standardised."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("spread", torch.zeros(()))

    @property
    def fitted(self) -> bool:
        return bool(self.spread > 0)

    def fit(self, images: Tensor, mask: Tensor | None = None) -> None:
        self.spread.copy_(images.std())

    def forward(self, pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        apart = torch.where(mask > 0, pred - target, 0.0) / self.spread
        return nn.functional.avg_pool2d(apart, 2).abs().mean()


class Toy(Plain):
    """Tells what it adds its details to."""

    def enlarged(self, low: Tensor, mask: Tensor | None = None) -> Tensor:
        return nn.functional.interpolate(low if mask is None else low * mask, scale_factor=self.scale)


class Unsteady(Toy):
    """Draws random numbers while it learns, as dropout does."""

    def forward(self, low: Tensor, mask: Tensor | None = None) -> Tensor:
        made = super().forward(low, mask)
        return nn.functional.dropout(made - 1, 0.2, self.training) + 1


def network(seed: int, kind: type[Toy] = Toy) -> Toy:
    torch.manual_seed(seed)
    return kind(3, 3, SCALE)


def task(*, judged: bool = True, residual: bool = False, kind: type[Toy] = Toy, **more: Any) -> SuperResolution:
    parts: dict[str, Any] = {"generator": network(0, kind)}
    if residual:
        parts["residual"] = network(1, kind)
    if judged:
        torch.manual_seed(2)
        bands = 6 if more.get("conditional") else 3
        parts["discriminator"] = PatchDiscriminator(bands, width=4, layers=2)
    made = SuperResolution(**parts, **{"penalty_every": 1, **more})
    made._trainer = Alone()  # type: ignore[assignment]
    return made


class Alone:
    """Enough of a trainer for terms that are computed without one."""

    current_epoch, max_epochs, training, loggers = 0, 10, True, ()


def batch(garbage: float | None = None, count: int = 2) -> dict[str, Tensor]:
    """Samples whose images are means of their truths; with garbage, each has a hole on one side that holds it."""
    torch.manual_seed(1)
    true = torch.rand(count, 3, SCALE * LOW, SCALE * LOW) * 2 - 1
    made = {
        "image": nn.functional.avg_pool2d(true, SCALE),
        "image_target": true,
        "mask_valid": torch.ones(count, 1, LOW, LOW),
        "mask_valid_target": torch.ones(count, 1, SCALE * LOW, SCALE * LOW),
        "tile": torch.arange(count),
    }
    if garbage is not None:
        made["mask_valid"][0, :, 2:6, 3:10] = 0
        made["mask_valid_target"][1, :, 20:, :9] = 0
        for image, mask in (("image", "mask_valid"), ("image_target", "mask_valid_target")):
            made[image] = torch.where(made[mask] > 0, made[image], torch.tensor(garbage))
    return made


def terms(made: SuperResolution, given: dict[str, Tensor]) -> dict[str, Tensor]:
    ready = made.prepare(dict(given))
    judged = {f"d_{name}": term for name, term in made.discriminator_terms(ready).items()}
    return judged | made.generator_terms(ready)


class Data(LightningDataModule):
    """Patches in memory with facts about them."""

    facts = FACTS

    def __init__(self, count: int = 6, garbage: float | None = None, shuffled: bool = True) -> None:
        super().__init__()
        self.shuffled = shuffled
        whole = batch(garbage, count)
        self.samples: Any = [{name: value[k] for name, value in whole.items()} for k in range(count)]

    def train_dataloader(self) -> DataLoader[Any]:
        # The loader's own seed is not drawn from the generator that a task resumes.
        sampler = RandomSampler(self.samples) if self.shuffled else None
        return DataLoader(self.samples, batch_size=2, sampler=sampler, generator=torch.Generator())

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.samples, batch_size=4, generator=torch.Generator())

    predict_dataloader = val_dataloader


class Trace(Callback):
    """Keeps the terms of every batch."""

    def __init__(self) -> None:
        self.values: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.values.append({name: value for name, value in found.items() if name.startswith(("train_d/", "train_g/"))})


def trained(
    made: SuperResolution,
    folder: Path,
    *callbacks: Callback,
    path: Path | None = None,
    shuffled: bool = True,
    data: Data | None = None,
    **more: Any,
) -> Trainer:
    made._trainer = None
    torch.manual_seed(7)
    trainer = Trainer(
        **{"max_epochs": 2, **more},
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )
    trainer.fit(
        made,
        Data(shuffled=shuffled) if data is None else data,
        ckpt_path=path,
        weights_only=None if path is None else False,
    )
    return trainer


def test_terms_are_those_with_a_weight_and_a_network() -> None:
    assert set(terms(task(judged=False), batch())) == {"pixel"}
    asked = {"r1": 1.0, "r2": 1.0, "penalty": 10.0}
    every = {"d_discrimination", "d_r1", "d_r2", "d_penalty", "pixel", "perceptual", "adversarial"}
    fitted = Mean()
    fitted.fit(batch()["image_target"])
    assert set(terms(task(perceptual=fitted, weights=asked), batch())) == every
    assert set(terms(task(perceptual=fitted, weights={"adversarial": 0.0, "perceptual": 0.0}), batch())) == {"pixel"}
    rested = task(perceptual=fitted, plain_epochs=1)
    assert set(terms(rested, batch())) == {"pixel"}
    rested._trainer.current_epoch = 1  # type: ignore[misc]
    assert {"perceptual", "adversarial"} < set(terms(rested, batch()))


@pytest.mark.parametrize("adversarial", [None, Relativistic(), Wasserstein()])
def test_what_is_invalid_reaches_no_term(adversarial: Any) -> None:
    fitted = Mean()
    fitted.fit(batch()["image_target"])
    asked = {"r1": 1.0, "r2": 1.0}
    made = task(adversarial=adversarial, perceptual=fitted, weights=asked, conditional=True)
    one, other = (terms(made, batch(garbage)) for garbage in (0.0, 1e4))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], msg=name)


def test_pixels_are_compared_where_both_images_are_valid() -> None:
    made, given = task(judged=False), batch(0.0)
    ready = made.prepare(dict(given))
    valid = given["mask_valid_target"].bool() & nn.Upsample(scale_factor=SCALE)(given["mask_valid"]).bool()
    apart = (made(given["image"], given["mask_valid"]) - given["image_target"]).abs()
    inside = apart[valid.expand_as(apart)]
    torch.testing.assert_close(made.generator_terms(ready)["pixel"], inside.mean())
    made.norm = "l2"
    torch.testing.assert_close(made.generator_terms(ready)["pixel"], inside.square().mean())


def test_a_conditional_discriminator_sees_the_input_beside_real_and_made() -> None:
    made, seen = task(conditional=True), []
    made.discriminator.register_forward_hook(lambda _module, args, _out: seen.append(args[0]))  # type: ignore[union-attr]
    made.discriminator_terms(made.prepare(batch()))
    real, fake = seen
    assert torch.equal(real[:, :3], fake[:, :3])
    assert torch.equal(real[:, 3:], batch()["image_target"])


def test_scores_stand_beside_those_of_bicubic_in_physical_units(tmp_path: Path) -> None:
    made = task(judged=False)
    trainer = trained(made, tmp_path, max_epochs=1)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    names = ("psnr", "ssim", "sam", "l1", "consistency", "spectrum_db")
    assert {f"val/{prefix}{name}" for name in names for prefix in ("", "bicubic_")} <= set(found)
    whole = batch(count=6)
    large = nn.functional.interpolate(whole["image"], scale_factor=SCALE, mode="bicubic", antialias=True)
    gain = torch.tensor([0.15, 0.15, 0.2]).view(3, 1, 1)
    expected = psnr((large + 1) * gain, (whole["image_target"] + 1) * gain, 0.4).mean()
    assert found["val/bicubic_psnr"] == pytest.approx(float(expected), abs=1e-2)
    assert found["val/bicubic_l1"] == pytest.approx(
        float(((large - whole["image_target"]).abs() * gain).mean()), rel=1e-3
    )


def test_an_image_that_keeps_its_means_is_consistent_and_perfect_ones_score_best(tmp_path: Path) -> None:
    made, given = task(judged=False), batch()
    made.facts = FACTS
    ready = given | {"made": given["image_target"], "mask_both": given["mask_valid_target"]}
    found = made._scores_of(ready["made"], ready, ready["mask_both"])
    assert float(found["consistency"].max()) < 1e-6
    assert float(found["psnr"].min()) == 100
    for name, best in (("l1", 0.0), ("ssim", 1.0), ("sam", 0.0), ("spectrum_db", 0.0)):
        torch.testing.assert_close(found[name], torch.full((2,), best), atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("mtf", [0.2, [0.15, 0.2, 0.25]])
def test_consistency_is_with_the_blur_that_made_the_image(mtf: float | list[float]) -> None:
    made, given = task(judged=False), batch()
    given["image"], given["mask_valid"] = degrade(given["image_target"], None, SCALE, mtf)
    made.facts = FACTS | {"degradation": {"mtf": mtf, "noise": 0.0}}
    found = made._scores_of(given["image_target"], given, given["mask_valid_target"])
    assert float(found["consistency"].max()) < (1e-6 if isinstance(mtf, float) else 5e-3)
    made.facts = FACTS
    unaware = made._scores_of(given["image_target"], given, given["mask_valid_target"])
    assert float(unaware["consistency"].min()) > 5e-3


def test_batches_without_a_valid_pixel_are_scored_without_weight() -> None:
    made, given = task(judged=False), batch()
    given["mask_valid"].zero_()
    logged: dict[str, tuple[float, int]] = {}
    made._log_mean = lambda name, values: logged.update({name: (0.0, int(torch.isfinite(values).sum()))})  # type: ignore[method-assign]
    made._score(given, "val")
    assert {count for _, count in logged.values()} == {0}


def gradients(made: SuperResolution, term: str, name: str) -> list[Tensor | None]:
    found = made.generator_terms(made.prepare(batch()))[term]
    return list(torch.autograd.grad(found, list(getattr(made, name).parameters()), allow_unused=True))


def test_pixels_teach_the_generator_and_what_rewards_texture_the_residual() -> None:
    fitted = Mean()
    fitted.fit(batch()["image_target"])
    made = task(residual=True, perceptual=fitted)
    assert made.weights["adversarial"] == 1.0
    nn.init.normal_(made.residual.head.weight, 0.0, 0.1)  # type: ignore[union-attr]
    assert all(g is not None for g in gradients(made, "pixel", "generator"))
    assert all(g is None for g in gradients(made, "pixel", "residual"))
    for term in ("perceptual", "adversarial"):
        assert all(g is None for g in gradients(made, term, "generator"))
        assert all(g is not None for g in gradients(made, term, "residual"))


def test_the_generator_learns_the_same_bit_for_bit_whatever_the_branch_does(tmp_path: Path) -> None:
    ends, traces = [], []
    for more in ({}, {"discriminator_steps": 3}, {"weights": {"adversarial": 0.0}}):
        made, trace = task(residual=True, kind=Unsteady, clip_norm=1.0, **more), Trace()
        trained(made, tmp_path, trace)
        ends.append(made.generator.state_dict())
        traces.append([found["train_g/pixel"] for found in trace.values])
    assert len(set(traces[0])) == 6
    assert traces[0] == traces[1] == traces[2]
    for end in ends[1:]:
        assert all(torch.equal(value, end[name]) for name, value in ends[0].items())


def test_a_residual_adds_nothing_at_first_and_products_are_the_sum() -> None:
    made, given = task(residual=True).eval(), batch()
    ready = made.prepare(dict(given))
    assert torch.equal(ready["made"], ready["clean"])
    nn.init.normal_(made.residual.head.weight, 0.0, 0.1)  # type: ignore[union-attr]
    low, mask = given["image"], given["mask_valid"]
    large = nn.functional.interpolate(low, scale_factor=SCALE)
    expected = made.generator(low, mask) + made.residual(low, mask) - large  # type: ignore[misc]
    torch.testing.assert_close(made(low, mask), expected)
    torch.testing.assert_close(SummedResolvers(made.generator, made.residual)(low, mask), expected)  # type: ignore[arg-type]
    torch.testing.assert_close(made.prepare(dict(given))["made"], expected)
    saved: dict[str, Any] = {}
    made._trainer = None
    made.on_save_checkpoint(saved)
    assert saved["rsgeo_gan"]["residuals"] == {"generator": "residual"}


def test_the_constraint_of_the_generator_holds_for_the_sum_too() -> None:
    torch.manual_seed(0)
    networks = [Constrained(SRResNet(3, 3, SCALE, width=4, blocks=1)), SRResNet(3, 3, SCALE, width=4, blocks=1)]
    made = SuperResolution(networks[0], PatchDiscriminator(3, width=4, layers=2), residual=networks[1])
    torch.testing.assert_close(made(batch()["image"]), networks[0](batch()["image"]))
    nn.init.normal_(networks[1].head.weight)  # type: ignore[arg-type]
    given = batch(0.0)
    low, mask = given["image"], given["mask_valid"]
    sharp = made(low, mask).detach()
    assert float((sharp - networks[0](low, mask).detach()).abs().max()) > 0.1
    apart = (nn.functional.avg_pool2d(sharp, SCALE) - low) * mask
    assert float(apart.abs().max()) < 1e-5
    assert SummedResolvers(*networks).receptive_radius_px == networks[0].receptive_radius_px


def test_the_spectral_term_is_the_angle_in_physical_units() -> None:
    made, given = task(judged=False, weights={"spectral": 1.0}), batch(0.0)
    with pytest.raises(ValueError, match="set its weight to 0"):
        terms(made, given)
    made.facts = FACTS
    ready = made.prepare(given)
    gain = torch.tensor([0.15, 0.15, 0.2]).view(3, 1, 1)
    one, other = ((image + 1) * gain for image in (ready["clean"], given["image_target"]))
    cosine = nn.functional.cosine_similarity(one, other, dim=1)[ready["mask_both"][:, 0] > 0]
    torch.testing.assert_close(made.generator_terms(ready)["spectral"], cosine.clamp(-1, 1).arccos().mean())
    ready["clean"] = given["image_target"].clone().requires_grad_()
    made.generator_terms(ready)["spectral"].backward()
    assert torch.isfinite(ready["clean"].grad).all()


@pytest.mark.parametrize("residual", [False, True])
def test_a_resumed_training_ends_where_an_unbroken_one_does(residual: bool, tmp_path: Path) -> None:
    def fresh() -> SuperResolution:
        return task(
            residual=residual,
            kind=Unsteady,
            perceptual=Mean(),
            weights={"penalty": 1.0},
            discriminator_steps=2,
            plain_epochs=1,
            drop_at=0.5,
        )

    unbroken = fresh()
    saver = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    trained(unbroken, tmp_path, saver, max_epochs=3, shuffled=False)
    resumed = fresh()
    trained(resumed, tmp_path, max_epochs=3, path=tmp_path / "epoch=1.ckpt", shuffled=False)
    assert float(resumed.perceptual.spread) > 0  # type: ignore[union-attr, arg-type]
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_features_wait_for_a_batch_with_valid_pixels(tmp_path: Path) -> None:
    made, empty = task(judged=False, perceptual=Perceptual(RandomFeatures(3, 4))), Data(shuffled=False)
    for sample in empty.samples[:2]:
        sample["mask_valid_target"] = torch.zeros_like(sample["mask_valid_target"])
    backend: Any = made.perceptual.backend  # type: ignore[union-attr]
    seen: list[tuple[bool, str]] = []

    class Look(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            seen.append((backend.fitted, backend.digest))

    before = backend.digest
    trained(made, tmp_path, Look(), max_epochs=1, data=empty)
    assert seen[0] == (False, before)
    assert seen[1][0]
    assert seen[1] == seen[2] != (True, before)


def test_the_discriminator_steps_as_often_as_asked_and_batches_remain_two_steps(tmp_path: Path) -> None:
    made = task(discriminator_steps=3, optimizer="sgd", lr=1e-3)
    steps: list[int] = []
    made.discriminator_terms = lambda ready: steps.append(0) or SuperResolution.discriminator_terms(made, ready)  # type: ignore[method-assign]
    trainer = trained(made, tmp_path, max_epochs=1)
    assert (len(steps), trainer.global_step) == (9, 6)


def test_learning_rates_drop_once_at_the_share_of_epochs_asked_for() -> None:
    made = task(judged=False, drop_at=0.5)
    assert [made.schedule(epoch) for epoch in range(10)] == pytest.approx([1.0] * 5 + [0.1] * 5)


def test_a_regression_learns(tmp_path: Path) -> None:
    made, trace = task(judged=False, lr=1e-2), Trace()
    trained(made, tmp_path, trace, max_epochs=8)
    first, last = (trace.values[k]["train_g/pixel"] for k in (0, -1))
    assert last < 0.95 * first, (first, last)
    assert "train_d/total" not in trace.values[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "l3"}, "norm out of"),
        ({"drop_at": 1.0}, "drop_at between 0 and 1"),
        ({"discriminator_steps": 0}, "discriminator_steps >= 1"),
        ({"discriminator_steps": 2, "accumulate": 2}, "exclude each other"),
        ({"residual": Toy(3, 3, 3), "discriminator": PatchDiscriminator(3, 4, 2)}, "added up, but have scale 2 and 3"),
        ({"residual": Toy(3, 3, 2)}, "learns from a discriminator"),
        ({"weights": {"texture": 1.0}}, "unknown terms"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SuperResolution(network(0), **arguments)


def test_data_of_another_scale_or_of_other_bands_are_refused(tmp_path: Path) -> None:
    made = task(judged=False)
    with pytest.raises(ValueError, match="expected image_target of \\(32, 32\\) px"):
        made.prepare(batch() | {"image_target": torch.zeros(2, 3, 48, 48)})
    for kind, message in (
        (Toy(3, 3, 3), "scale 3, but the tiles have 2"),
        (Toy(4, 3, 2), "in_channels 4, but the tiles"),
    ):
        with pytest.raises(ValueError, match=message):
            trained(SuperResolution(kind), tmp_path)


def test_predictions_are_the_finer_images_and_their_tiles(tmp_path: Path) -> None:
    made = task(judged=False)
    made._trainer = None
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "default_root_dir": tmp_path}
    found = Trainer(accelerator="cpu", **quiet).predict(made, Data())
    assert found is not None
    assert found[0]["prediction"].shape == (4, 3, SCALE * LOW, SCALE * LOW)
    assert found[1]["tile"].tolist() == [4, 5]
