from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from rsgeo_gan.conditions import Classes, Conditions, Cyclic
from rsgeo_gan.errors import CatalogError, CheckpointError
from rsgeo_gan.inference.synthesizer import Synthesizer
from rsgeo_gan.losses import Relativistic
from rsgeo_gan.models import Encoder, ImageDecoder, ImageDiscriminator, LatentDiscriminator
from rsgeo_gan.sensors import Scaler
from rsgeo_gan.tasks import ConditionalAutoencoding
from rsgeo_gan.tasks.randomness import Stream

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
    # The tasks are made in Python here and keep their networks among their arguments.
    pytest.mark.filterwarnings("ignore:.*is an instance of `nn.Module`"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]

CONDITIONS = Conditions((Classes("cover", ("field", "wood")), Cyclic("day", 365.0)))
BANDS, SIDE, LATENT, WIDTH = 2, 32, 6, 4
BOTH = {"adversarial_z": 0.5}
LEARNT = ("encoder", "generator")


def task(
    mode: str = "decoupled", *, norm: Any = "batch", drop: float = 0.0, width: int = WIDTH, **more: Any
) -> ConditionalAutoencoding:
    torch.manual_seed(0)
    facts = {"size_px": SIDE, "width": width}
    encoder = Encoder(BANDS, latent_dim=LATENT, **facts)
    generator = ImageDecoder(BANDS, latent_dim=LATENT, condition_dim=CONDITIONS.width, **facts)
    residual = None
    if mode == "decoupled":
        residual = ImageDecoder(BANDS, latent_dim=LATENT, condition_dim=CONDITIONS.width, norm=norm, **facts)
        if drop:
            residual.last = nn.Sequential(residual.last, nn.Dropout(drop))
    judges: dict[str, Any] = {}
    if mode != "none":
        judges = {
            "discriminator": ImageDiscriminator(BANDS, SIDE, CONDITIONS.width, WIDTH, 8, norm),
            "discriminator_z": LatentDiscriminator(LATENT, 8),
        }
    if norm == "batch":
        more["weights"] = {"r1": 0.0, **more.get("weights", {})}
    made = ConditionalAutoencoding(encoder, generator, residual=residual, mode=mode, **judges, **more)  # type: ignore[arg-type]
    made.facts = {"conditions": CONDITIONS.to_dict()}
    made._trainer = Mock(num_training_batches=10, max_epochs=1, max_steps=-1)
    return made


def samples(count: int = 8) -> list[dict[str, Tensor]]:
    """Smooth images whose first band follows the day."""
    draw = torch.Generator().manual_seed(1)
    found = []
    for k in range(count):
        values = {"cover": ("field", "wood")[k % 2], "day": 365.0 * k / count}
        image = nn.functional.interpolate(torch.rand(1, BANDS, 4, 4, generator=draw), SIDE, mode="bicubic")[0]
        image[0] += 0.3 * math.sin(2 * math.pi * k / count)
        found.append(
            {
                "image": (image - 0.5).clamp(-1, 1),
                "mask_valid": torch.ones(1, SIDE, SIDE),
                "tile": torch.tensor(k),
                "condition": torch.from_numpy(CONDITIONS.encode(values)),
            }
        )
    return found


def batch(count: int = 4) -> dict[str, Tensor]:
    return next(iter(DataLoader(samples(count), batch_size=count)))


def quiet(folder: Path) -> dict[str, Any]:
    return {
        "accelerator": "cpu",
        "logger": False,
        "default_root_dir": folder,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
    }


def fit(made: ConditionalAutoencoding, folder: Path, steps: int, *callbacks: Callback) -> None:
    torch.manual_seed(7)
    made._trainer = None
    trainer = Trainer(max_epochs=1, callbacks=list(callbacks), **quiet(folder))
    images = samples()
    drawn = RandomSampler(images, replacement=True, num_samples=4 * steps)  # type: ignore[arg-type]
    trainer.fit(made, DataLoader(images, batch_size=4, sampler=drawn))  # type: ignore[arg-type]


class Trace(Callback):
    """Keeps the reconstruction term of every batch."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self.values.append(float(trainer.callback_metrics["train_g/reconstruction"]))


def gradients(made: ConditionalAutoencoding, term: str, side: str, names: tuple[str, ...]) -> list[Tensor | None]:
    ready = made.prepare(batch())
    found = (made.discriminator_terms if side == "d" else made.generator_terms)(ready)
    held = [p for name in names for p in getattr(made, name).parameters()]
    return list(torch.autograd.grad(found[term], held, allow_unused=True))


def test_decoupled_gradients_reach_their_own_side_only() -> None:
    made = task(weights=BOTH)
    torch.nn.init.normal_(made.residual.head.weight, 0.0, 0.1)  # type: ignore[union-attr]
    assert all(g is None for g in gradients(made, "adversarial", "g", LEARNT))
    assert all(g is None for g in gradients(made, "reconstruction", "g", ("residual",)))
    assert all(g is not None for g in gradients(made, "adversarial", "g", ("residual",)))
    assert all(g is not None for g in gradients(made, "reconstruction", "g", LEARNT))
    assert all(g is None for g in gradients(made, "discrimination", "d", (*LEARNT, "residual", "discriminator_z")))


def test_the_discriminator_of_codes_says_nothing_about_the_decoder() -> None:
    made = task("tied", weights=BOTH)
    assert all(g is None for g in gradients(made, "discrimination_z", "d", ("generator",)))
    assert all(g is None for g in gradients(made, "adversarial_z", "g", ("generator",)))
    assert all(g is not None for g in gradients(made, "adversarial_z", "g", ("encoder",)))
    seen: list[Tensor] = []
    made.discriminator_z.register_forward_hook(lambda _m, args, _o: seen.append(args[0]))  # type: ignore[union-attr]
    made.discriminator_terms(made.prepare(batch()))
    assert [tuple(codes.shape) for codes in seen] == [(4, LATENT), (4, LATENT)]
    assert float(seen[0].abs().max()) <= 1


def test_a_tied_generator_hears_both() -> None:
    made = task("tied")
    assert all(g is not None for g in gradients(made, "adversarial", "g", LEARNT))
    assert made.prepare(batch())["made"] is not None


@pytest.mark.parametrize(
    "more",
    [
        {"clip_norm": 0.01, "weights": {**BOTH, "adversarial": 3.0}, "drop": 0.5},
        {"optimizer": "sgd", "momentum": 0.9, "lr": 0.05, "clip_norm": 0.5, "norm": "group"},
    ],
    ids=["adam", "sgd"],
)
def test_the_reconstruction_is_the_same_bit_for_bit_without_the_adversarial_branch(
    more: dict[str, Any], tmp_path: Path
) -> None:
    traces, weights = [], []
    for adversarial in (more.get("weights", {}).get("adversarial", 1.0), 0.0):
        made = task(**{**more, "weights": {**more.get("weights", {}), "adversarial": adversarial}})
        trace = Trace()
        fit(made, tmp_path, 50, trace)
        traces.append(trace.values)
        weights.append([p.detach().clone() for name in LEARNT for p in getattr(made, name).parameters()])
        if adversarial:
            assert made.residual.head.weight.any()  # type: ignore[union-attr]
    assert len(traces[0]) == 50
    begun = [p for name in LEARNT for p in getattr(task(), name).parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(begun, weights[0], strict=True))
    assert traces[0] == traces[1]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_without_the_branch_it_is_the_auto_encoder_of_mode_none(tmp_path: Path) -> None:
    traces = []
    for made in (task(), task("none")):
        trace = Trace()
        fit(made, tmp_path, 6, trace)
        traces.append(trace.values)
    assert traces[0] == traces[1]


def test_statistics_of_shared_layers_follow_one_pass_a_step() -> None:
    made = task()
    made.encoder = nn.Sequential(made.encoder, nn.BatchNorm1d(LATENT)).train()
    counts = made.encoder[1].num_batches_tracked
    ready = made.prepare(batch())
    made.discriminator_terms(ready)
    made.generator_terms(ready)
    assert int(counts) == 1


@pytest.mark.parametrize(("optimizer", "ratio"), [("adam", (0.9, 1.1)), ("sgd", (50.0, 200.0))])
def test_the_adversarial_weight_scales_the_step_of_the_residual_under_sgd_only(
    optimizer: Any, ratio: tuple[float, float], tmp_path: Path
) -> None:
    moved = []
    for weight in (0.1, 10.0):
        made = task(optimizer=optimizer, lr=1e-3, weights={"adversarial": weight}, norm="none")
        fit(made, tmp_path, 2)
        moved.append(float(made.residual.head.weight.detach().norm()))  # type: ignore[union-attr]
    assert ratio[0] < moved[1] / moved[0] < ratio[1]


def test_a_residual_begins_with_nothing_to_add() -> None:
    made = task()
    ready = made.prepare(batch())
    assert torch.equal(ready["made"], ready["reconstruction"])


def test_each_group_is_limited_on_its_own(tmp_path: Path) -> None:
    made = task(weights={**BOTH, "adversarial": 1e6}, clip_norm=1.0)
    sizes = [[len(group["params"]) for group in o.param_groups] for o in made.configure_optimizers()[0]]
    count = {name: len(list(getattr(made, name).parameters())) for name in made.generators + made.discriminators}
    assert sizes == [
        [count["discriminator"], count["discriminator_z"]],
        [count["encoder"] + count["generator"], count["residual"]],
    ]


def test_an_auto_encoder_learns_steadily(tmp_path: Path) -> None:
    trace = Trace()
    fit(task("none", width=8, lr=2e-3), tmp_path, 60, trace)
    means = torch.tensor(trace.values).unfold(0, 20, 10).mean(dim=1)
    assert (means.diff() < 0).all(), means
    assert means[-1] < 0.8 * means[0], means


def test_adversarial_terms_wait_and_rise_where_the_generator_hears_them() -> None:
    seen = {}
    for mode in ("tied", "decoupled"):
        made = task(mode, weights={"adversarial": 2.0, "adversarial_z": 1.0}, quiet_share=0.2, ramp_share=0.4)
        seen[mode] = []
        for made.batches_seen in (0, 2, 4, 6, 9):
            seen[mode].append((made.weight_of("adversarial"), made.weight_of("adversarial_z")))
    ramp = (0.0, 0.0, 0.5, 1.0, 1.0)
    assert seen["tied"] == [(2 * r, r) for r in ramp]
    assert seen["decoupled"] == [(2.0, r) for r in ramp]


def test_discriminators_are_switched_by_the_weight_of_what_they_tell() -> None:
    names = {}
    for image, code in ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0)):
        made = task("tied", weights={"adversarial": image, "adversarial_z": code, "tv": 0.1})
        ready = made.prepare(batch())
        names[image, code] = (set(made.discriminator_terms(ready)), set(made.generator_terms(ready)))
    both = {"reconstruction", "tv"}
    assert names[1.0, 0.0] == ({"discrimination"}, both | {"adversarial"})
    assert names[0.0, 1.0] == ({"discrimination_z"}, both | {"adversarial_z"})
    assert names[0.0, 0.0] == (set(), both)


def test_the_weight_of_the_generators_term_is_not_that_of_the_discriminators() -> None:
    made = task(weights={"adversarial": 1e-3})
    assert made.weight_of("discrimination") == 1.0


def test_a_penalty_taken_every_other_batch_counts_twice() -> None:
    made = task(norm="none", weights={"r1": 5.0}, r1_every=2)
    assert made.weight_of("r1") == 10.0
    found = []
    for made.batches_seen in (0, 1, 2):
        found.append("r1" in made.discriminator_terms(made.prepare(batch())))
    assert found == [True, False, True]


def test_a_relativistic_objective_is_given_the_reals() -> None:
    made = task("tied", norm="none", adversarial=Relativistic(), weights=BOTH)
    ready = made.prepare(batch())
    terms = {**made.discriminator_terms(ready), **made.generator_terms(ready)}
    assert all(torch.isfinite(term) for term in terms.values())


@pytest.mark.parametrize("mode", ["tied", "decoupled"])
def test_garbage_under_nodata_changes_no_term(mode: str) -> None:
    found = []
    for garbage in (0.0, float("nan")):
        made, given = task(mode, weights={**BOTH, "tv": 1.0}), batch()
        given["mask_valid"][0, :, 4:12, 6:20] = 0
        given["image"] = torch.where(given["mask_valid"] > 0, given["image"], torch.tensor(garbage))
        ready = made.prepare(dict(given))
        found.append({**made.discriminator_terms(ready), **made.generator_terms(ready)})
    assert all(torch.equal(term, found[1][name]) for name, term in found[0].items())
    assert all(torch.isfinite(term) for term in found[0].values())


def test_the_slope_at_pixels_without_data_is_not_penalised() -> None:
    made, given = task("tied", norm="none"), batch()
    whole = made.discriminator_terms(made.prepare(dict(given)))["r1"]
    given["mask_valid"] = torch.zeros_like(given["mask_valid"])
    given["mask_valid"][..., 0, 0] = 1
    least = made.discriminator_terms(made.prepare(dict(given)))["r1"]
    # One pixel of 1024 has about its share of the squared slope.
    assert 0 < least.item() < 0.05 * whole.item()


def test_a_walk_keeps_the_code_and_changes_one_condition() -> None:
    made, given, seen = task().eval(), batch(), []
    made.generator.register_forward_hook(lambda _m, args, _o: seen.append(args))
    frames = made.walk(given["image"], "day", [0.0, 91.25, 365.0], given["condition"])
    assert frames.shape == (4, 3, BANDS, SIDE, SIDE)
    assert all(torch.equal(codes, seen[0][0]) for codes, _ in seen)
    assert all(torch.equal(condition[:, :2], given["condition"][:, :2]) for _, condition in seen)
    torch.testing.assert_close(seen[1][1][:, 2:], torch.tensor([[1.0, 0.0]]).expand(4, 2))
    torch.testing.assert_close(frames[:, 0], frames[:, 2], atol=1e-5, rtol=0)
    assert not torch.allclose(frames[:, 0], frames[:, 1])


def test_a_walk_along_an_unknown_condition_or_without_the_others_is_refused() -> None:
    made, given = task().eval(), batch()
    with pytest.raises(CatalogError, match="no condition 'month'; expected one of cover, day"):
        made.walk(given["image"], "month", [1], given["condition"])
    with pytest.raises(CatalogError, match="no class 'sea'"):
        made.walk(given["image"], "cover", ["sea"], given["condition"])
    with pytest.raises(ValueError, match="day is one of the conditions cover, day; give the codes of the others"):
        made.walk(given["image"], "day", [1.0])


def test_prediction_is_of_the_batchs_places_under_its_conditions_and_within_range() -> None:
    made, given = task().eval(), batch()
    with torch.no_grad():
        made.residual.head.weight.normal_(0, 9)  # type: ignore[union-attr]
        out = made.predict_step(given, 0)
        assert out["prediction"].shape == given["image"].shape
        assert float(out["prediction"].abs().max()) == 1.0
        other = made.predict_step({**given, "condition": -given["condition"]}, 0)["prediction"]
    assert not torch.allclose(out["prediction"], other)
    assert out["tile"].tolist() == [0, 1, 2, 3]


def test_without_an_image_a_prediction_follows_from_the_seed_and_not_from_the_batch() -> None:
    made, given = task("tied").eval(), batch()
    asked = {"tile": given["tile"], "condition": given["condition"], "seed": torch.tensor([5, 6, 7, 8])}
    with torch.no_grad():
        together = made.predict_step(asked, 0)["prediction"]
        alone = made.predict_step({name: value[2:3] for name, value in asked.items()}, 0)["prediction"]
    torch.testing.assert_close(alone[0], together[2])


def test_scores_of_an_epoch_are_named_and_finite(tmp_path: Path) -> None:
    made = task()
    data = DataLoader(samples(), batch_size=4)
    found = Trainer(**quiet(tmp_path)).validate(made, data, verbose=False)[0]
    names = ("l1", "made_l1", "ssim", "out_of_range", "low_pass_share", "identity", "fd", "spectrum_db")
    assert all(math.isfinite(found[f"val/{name}"]) for name in names)
    assert found["val/low_pass_share"] == 0.0
    assert found["val/out_of_range"] == 0.0
    assert made.monitor in found
    assert made.contrast(made.eval().prepare(batch())) < 1


def test_a_resumed_run_goes_on_with_the_branchs_own_random_numbers(tmp_path: Path) -> None:
    ends = []
    for stop in (0, 2):
        made, data = (
            task(drop=0.5, weights=BOTH, decay_share=0.0, quiet_share=0.0, ramp_share=0.0),
            DataLoader(samples(), batch_size=4),
        )
        made._trainer = None
        torch.manual_seed(7)
        trainer = Trainer(max_epochs=stop or 4, **quiet(tmp_path))
        trainer.fit(made, data)
        if stop:
            trainer.save_checkpoint(tmp_path / "half.ckpt")
            made = task(drop=0.5, weights=BOTH, decay_share=0.0, quiet_share=0.0, ramp_share=0.0)
            made._trainer = None
            torch.manual_seed(99)
            again = Trainer(max_epochs=4, **quiet(tmp_path))
            again.fit(made, data, ckpt_path=tmp_path / "half.ckpt", weights_only=False)
        ends.append(made.state_dict())
    assert all(torch.equal(ends[0][name], value) for name, value in ends[1].items())


def test_another_optimiser_does_not_take_the_checkpoint_over() -> None:
    made = task(optimizer="sgd")
    made._trainer = Mock(training=True)
    states = [{"param_groups": [{"params": [0], "betas": (0.5, 0.9)}]}]
    with pytest.raises(CheckpointError, match="its optimiser is adam, the recipe's is sgd"):
        made._same_optimizers({"optimizer_states": states})


def test_a_stream_leaves_the_numbers_outside_as_they_were_and_goes_on() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    stream, inside = Stream(), []
    outside = []
    for _ in range(3):
        with stream():
            inside.append(float(torch.rand(())))
        outside.append(float(torch.rand(())))
    assert outside == expected.tolist()
    assert len(set(inside)) == 3
    assert not set(inside) & set(outside)
    again = Stream()
    again.load(stream.state())
    with stream():
        expected = torch.rand(())
    with again():
        assert torch.equal(torch.rand(()), expected)


@pytest.mark.parametrize(
    ("mode", "more", "message"),
    [
        ("twofold", {}, "expected a mode out of"),
        ("none", {"weights": {"adversarial": 1.0}}, "mode none has no adversarial terms"),
        ("tied", {"discriminator": None}, "adversarial needs a discriminator"),
        ("tied", {"weights": BOTH, "discriminator_z": None}, "adversarial_z needs a discriminator_z"),
        ("tied", {"residual": True}, "mode tied needs no residual generator"),
        ("decoupled", {}, "mode decoupled needs a residual generator"),
        ("tied", {"weights": {"cycle": 1.0}}, r"unknown terms \['cycle'\]"),
        ("tied", {"quiet_share": 0.8, "ramp_share": 0.4}, "at most 1 together"),
        ("tied", {"momentum": 0.9}, "Adam's is in betas"),
        ("tied", {"encoder": Encoder(BANDS, SIDE, 7, WIDTH)}, "generator has latent_dim 6, but encoder has 7"),
        ("tied", {"encoder": Encoder(BANDS, SIDE, 6, WIDTH, "normal")}, "prior uniform, but encoder has normal"),
    ],
)
def test_what_does_not_belong_together_is_refused(mode: str, more: dict[str, Any], message: str) -> None:
    parts: dict[str, Any] = {
        "encoder": Encoder(BANDS, SIDE, LATENT, WIDTH),
        "generator": ImageDecoder(BANDS, SIDE, LATENT, 0, WIDTH),
        "discriminator": ImageDiscriminator(BANDS, SIDE, 0, WIDTH, 8),
        "discriminator_z": LatentDiscriminator(LATENT, 8),
    }
    if more.get("residual"):
        more = {**more, "residual": ImageDecoder(BANDS, SIDE, LATENT, 0, WIDTH)}
    with pytest.raises(ValueError, match=message):
        ConditionalAutoencoding(**{**parts, "mode": mode, **more})


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"image": {"bands": ["B02"]}}, "encoder was built with in_channels 2, but the tiles ask for 1"),
        ({"patch_px": 64}, "encoder was built with size_px 32, but the tiles ask for 64"),
        ({"conditions": Conditions().to_dict()}, "generator was built with condition_dim 4, but the tiles ask for 0"),
    ],
)
def test_networks_for_other_tiles_are_refused_before_training(facts: dict[str, Any], message: str) -> None:
    made = task()
    made._trainer = Mock(datamodule=Mock(facts={"conditions": CONDITIONS.to_dict(), **facts}))
    with pytest.raises(ValueError, match=message):
        made.setup("fit")


def test_products_from_a_decoupled_checkpoint_are_the_sum(tmp_path: Path) -> None:
    made = task().eval()
    torch.nn.init.normal_(made.residual.head.weight, 0.0, 1.0)  # type: ignore[union-attr]
    facts = {
        "image": Scaler("sentinel2-display", "1", ("red", "green"), (0.0, 0.0), (255.0, 255.0)).to_dict(),
        "gsd": 10.0,
        "conditions": CONDITIONS.to_dict(),
    }
    made.facts = facts
    content: dict[str, Any] = {"state_dict": made.state_dict()}
    made.on_save_checkpoint(content)
    sizes = {"size_px": SIDE, "latent_dim": LATENT, "width": WIDTH}
    decoder = {"out_channels": BANDS, "condition_dim": CONDITIONS.width, **sizes}
    content["hyper_parameters"] = {
        "encoder": {"class_path": "rsgeo_gan.models.Encoder", "init_args": {"in_channels": BANDS, **sizes}},
        "generator": {"class_path": "rsgeo_gan.models.ImageDecoder", "init_args": decoder},
        "residual": {"class_path": "rsgeo_gan.models.ImageDecoder", "init_args": {**decoder, "norm": "batch"}},
    }
    torch.save(content, tmp_path / "decoupled.ckpt")
    synthesizer = Synthesizer.load(tmp_path / "decoupled.ckpt")
    asked = {"cover": "wood", "day": 40.0}
    image = synthesizer(synthesizer.latent(3), asked)
    with torch.no_grad():
        code = torch.from_numpy(CONDITIONS.encode(asked))[None]
        expected = made(synthesizer.latent(3), code)[0]
        assert not torch.allclose(expected, made.generator(synthesizer.latent(3), code)[0])
    torch.testing.assert_close(torch.from_numpy(image), expected)
    given = batch(1)["image"]
    torch.testing.assert_close(synthesizer.encode(given[0].numpy()), made.encode(given).detach())
