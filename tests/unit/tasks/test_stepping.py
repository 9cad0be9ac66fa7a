"""Steps with two optimisers: accumulation, clipping, precision, compilation, and what stops a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from rsgeo_gan.errors import CheckpointError, TrainingError
from rsgeo_gan.losses import PooledL1, gradient_penalty
from rsgeo_gan.models import PatchDiscriminator, ResNetGenerator
from rsgeo_gan.tasks import CycleTranslation
from rsgeo_gan.tasks.stepping import window
from rsgeo_gan.training.callbacks import ProgressFile

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    # The tasks are made in Python here and keep their networks among their arguments.
    pytest.mark.filterwarnings("ignore:.*is an instance of `nn.Module`"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]


def translation(**more: Any) -> CycleTranslation:
    torch.manual_seed(0)
    return CycleTranslation(
        ResNetGenerator(2, 1, width=4, blocks=1),
        ResNetGenerator(1, 2, width=4, blocks=1),
        PatchDiscriminator(1, width=4, layers=1),
        PatchDiscriminator(2, width=4, layers=1),
        **{"correspondence": PooledL1(), "pool_size": 0, "ramp_share": 0.0, **more},
    )


def samples(count: int = 6, size: int = 16) -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    ones = torch.ones(1, size, size)
    return [
        {
            "image": torch.rand(2, size, size, generator=draw) * 2 - 1,
            "image_target": torch.rand(1, size, size, generator=draw) * 2 - 1,
            "mask_valid": ones,
            "mask_valid_target": ones,
            "confidence": torch.tensor(1.0),
        }
        for _ in range(count)
    ]


def trainer(epochs: int = 1, *callbacks: Callback, **more: Any) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        **{
            "accelerator": "cpu",
            "logger": False,
            "log_every_n_steps": 1,
            "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            **more,
        },
    )


def fit(task: CycleTranslation, batch_size: int, *callbacks: Callback, **more: Any) -> CycleTranslation:
    trainer(1, *callbacks, **more).fit(task, DataLoader(samples(), batch_size=batch_size))
    return task


class Gradients(Callback):
    """Keep the gradients of every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if not pl_module._window_open:
            self.steps.append({name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None})


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_batches_equal_one_large_batch_also_those_left_at_the_end(accumulate: int) -> None:
    # In float64, where nothing but the order of summation differs; normalisation amplifies float32's rounding to 1e-4.
    # PooledL1 takes means over equally many valid pixels, so the mean over a batch is the mean of its samples' means.
    large, small = Gradients(), Gradients()
    one = fit(translation(), accumulate, large, precision="64-true")
    many = fit(translation(accumulate=accumulate), 1, small, precision="64-true")
    assert len(large.steps) == len(small.steps) == -(-6 // accumulate)
    assert one.global_step == many.global_step
    for expected, found in zip(large.steps, small.steps, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(dict(many.state_dict()), dict(one.state_dict()), rtol=0, atol=1e-13)


def test_windows_cover_an_epoch_once() -> None:
    assert [window(k, 4, 6) for k in range(6)] == [(0, 4)] * 4 + [(4, 2)] * 2
    assert window(9, 4, float("inf")) == (8, 4)


def test_gradients_are_limited_for_each_optimiser_by_itself() -> None:
    kept = Gradients()
    task = fit(translation(clip_norm=1e-3), 2, kept)
    for optimizer in task.trainer.optimizers:
        held = [p.grad for group in optimizer.param_groups for p in group["params"]]
        assert float(torch.nn.utils.get_total_norm(held)) == pytest.approx(1e-3, rel=1e-2)
    assert task.trainer.callback_metrics["train_g/gradient_norm"] > 1e-3


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"accumulate_grad_batches": 4}, "set model.accumulate to 4"),
        ({"gradient_clip_val": 0.5}, "set model.clip_norm to 0.5"),
        ({"precision": "16-true"}, "Use bf16-mixed"),
        ({"strategy": "ddp", "devices": 2}, "set trainer.strategy to ddp_find_unused_parameters_true"),
    ],
)
def test_settings_the_trainer_cannot_serve_name_the_ones_that_can(settings: dict[str, Any], advice: str) -> None:
    task = translation()
    task._trainer = trainer(1, **settings)
    with pytest.raises(TrainingError, match=re.escape(advice)):
        task.configure_callbacks()


def test_accumulation_asked_of_the_trainer_is_refused_in_these_words() -> None:
    with pytest.raises(TrainingError, match=r"set model\.accumulate to 2"):
        fit(translation(), 1, accumulate_grad_batches=2)


def test_bfloat16_keeps_weights_and_terms_in_float32() -> None:
    plain, mixed = fit(translation(), 2), fit(translation(), 2, precision="bf16-mixed")
    assert all(p.dtype == torch.float32 for p in mixed.parameters())
    for name in ("train_d/total", "train_g/total"):
        found, expected = mixed.trainer.callback_metrics[name], plain.trainer.callback_metrics[name]
        assert found.dtype == torch.float32
        assert float(expected) != found == pytest.approx(float(expected), rel=0.05)


def test_penalties_are_float32_under_bfloat16() -> None:
    judge = PatchDiscriminator(1, width=4, layers=1)
    image = torch.rand(2, 1, 16, 16)
    expected = gradient_penalty(image, judge)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gradient_penalty(image, judge), expected)


def test_compiled_networks_keep_their_names_and_are_called_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def compiler(function: Any, **settings: Any) -> Any:
        def compiled(*args: Any, **more: Any) -> Any:
            calls.append(settings)
            return function(*args, **more)

        return compiled

    monkeypatch.setattr(torch, "compile", compiler)
    plain, task = translation(), fit(translation(compile="max-autotune"), 2)
    assert list(task.state_dict()) == list(plain.state_dict())
    assert {settings["mode"] for settings in calls} == {"max-autotune"}
    # Generators: three calls a step, discriminators: four.
    assert len(calls) == 3 * 7


def test_memory_order_changes_no_result() -> None:
    usual, other = fit(translation(), 2), fit(translation(channels_last=True), 2)
    assert other.generator.head.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(dict(other.state_dict()), dict(usual.state_dict()), rtol=0, atol=2e-5)


def test_learning_rates_rise_by_steps() -> None:
    class Rates(Callback):
        seen: list[float]

        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            self.seen = []

        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            self.seen.append(trainer.optimizers[1].param_groups[0]["lr"])

    rates = Rates()
    fit(translation(lr=1.0, warmup_steps=2, accumulate=2, decay_share=0.0), 1, rates)
    # Three steps of two batches each; the rate of a step is set just before it.
    assert rates.seen == [0.5, 0.5, 0.5, 1.0, 1.0, 1.0]


class Spoil(Callback):
    """Make a weight of the generator infinite before a batch."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.batch:
            batch["image"].fill_(torch.inf)


def test_a_loss_that_is_not_finite_stops_before_the_weights_and_the_checkpoint_named_is_good(tmp_path: Path) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path, save_last=True, every_n_train_steps=2)
    task = translation()
    with pytest.raises(TrainingError, match="is not finite") as caught:
        fit(task, 1, Spoil(3), saver)
    named = re.search(r"last good checkpoint is (\S+\.ckpt)\.", str(caught.value))
    assert named is not None
    saved = torch.load(named[1], weights_only=False)
    assert saved["rsgeo_gan_state"]["batches_seen"] == 3
    fresh = translation()
    fresh.load_state_dict(saved["state_dict"])
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), task.parameters(), strict=True))


def test_a_gradient_that_is_not_finite_stops_before_the_weights() -> None:
    class Broken(CycleTranslation):
        def generator_terms(self, batch: dict[str, Any]) -> dict[str, Tensor]:
            terms = super().generator_terms(batch)
            weight = self.generator.head.bias
            # Zero, but with an infinite slope.
            return terms | {"cycle": terms["cycle"] + (weight - weight.detach()).abs().sqrt().sum()}

    torch.manual_seed(0)
    made = translation()
    task = Broken(made.generator, made.generator_back, made.discriminator, made.discriminator_back, pool_size=0)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    with pytest.raises(TrainingError, match="gradient of train_g is not finite"):
        fit(task, 2)
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())


def test_a_generator_that_makes_one_grey_raises_the_alarm(caplog: pytest.LogCaptureFixture) -> None:
    task = translation(lr=0.0)
    for generator in (task.generator, task.generator_back):
        generator.head.weight.data.zero_()
    task.alarms.patience = 2
    trainer(4).fit(task, DataLoader(samples(), batch_size=1))
    assert task.trainer.callback_metrics["alarm/collapse"] == 1
    assert "training alarm 'collapse' after 20 batches" in caplog.text


def test_early_stopping_ends_finished_with_the_best_checkpoint_published(tmp_path: Path) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path, monitor="val/l1", save_last=True)
    stop = EarlyStopping("val/l1", patience=1, min_delta=10.0)
    average = EMAWeightAveraging(decay=0.5, use_buffers=False)
    run = trainer(9, stop, average, saver, ProgressFile(str(tmp_path / "progress.json")))
    run.fit(translation(), DataLoader(samples(2), batch_size=2), DataLoader(samples(2, 32), batch_size=2))
    assert run.current_epoch == 2
    written = (tmp_path / "progress.json").read_text()
    assert '"state": "finished"' in written
    assert saver.best_model_path in written


@pytest.mark.gpu
# Graphs of torch.compile are guarded by an attribute that warns where it is looked at.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("mode", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_step_on_a_gpu_in_bfloat16_agrees_with_the_cpu(mode: bool) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    plain = fit(translation(), 2)
    there = fit(
        translation(channels_last=True, compile=mode, accumulate=2, clip_norm=100.0),
        1,
        accelerator="cuda",
        precision="bf16-mixed",
    )
    for name in ("train_d/total", "train_g/total"):
        expected = float(plain.trainer.callback_metrics[name])
        assert float(there.trainer.callback_metrics[name]) == pytest.approx(expected, rel=0.5)
    assert all(torch.isfinite(p).all() for p in there.parameters())


def test_optimisers_of_other_networks_are_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    first = trainer(1)
    first.fit(translation(), DataLoader(samples(2), batch_size=2))
    first.save_checkpoint(path)
    content = torch.load(path, weights_only=False)  # made in Python, so networks are among its arguments
    content["optimizer_states"][1]["param_groups"][0]["params"].pop()
    torch.save(content, path)
    with pytest.raises(
        CheckpointError, match=r"generator.* parameter tensors when it was written.*Begin a new training"
    ):
        trainer(2).fit(translation(), DataLoader(samples(2), batch_size=2), ckpt_path=path, weights_only=False)
