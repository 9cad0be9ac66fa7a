from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rsgeo_gan.errors import CheckpointError, TrainingError
from rsgeo_gan.tasks import AdversarialTask, randomness
from rsgeo_gan.tasks.alarms import Alarms
from rsgeo_gan.tasks.pool import ImagePool

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
]


class Toy(AdversarialTask):
    """One parameter a side: D's term pulls d to x, G's term pulls g to 3 and meets d."""

    default_weights: ClassVar[dict[str, float]] = {"real": 1.0, "three": 2.0, "meet": 0.5}

    def __init__(self, generator: nn.Module, discriminator: nn.Module, spoil: str = "", **more: Any) -> None:
        self.parts = {"generator": generator, "discriminator": discriminator}
        self.spoil = spoil
        self.order: list[str] = []
        super().__init__(**more)

    def discriminator_terms(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        self.order.append("d")
        assert not any(p.requires_grad for p in self.generator.parameters())
        return {"real": (self.discriminator(batch["image"].mean((2, 3))) - 1).square().mean()}

    def generator_terms(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        self.order.append("g")
        assert not any(p.requires_grad for p in self.discriminator.parameters())
        made = self.generator(batch["image"].mean((2, 3)))
        terms = {"three": (made - 3).square().mean(), "meet": self.discriminator(made).square().mean()}
        if self.spoil:
            terms[self.spoil] = terms[self.spoil] * torch.nan
        return terms


def toy(**more: Any) -> Toy:
    torch.manual_seed(0)
    return Toy(nn.Linear(1, 1), nn.Linear(1, 1), **more)


def fit(task: Toy, folder: Path, epochs: int = 2, logger: Any = False) -> Trainer:
    samples = [{"image": torch.full((1, 4, 4), float(k))} for k in range(6)]
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=logger,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(task, DataLoader(samples, batch_size=2))
    return trainer


def test_discriminator_steps_before_generator_and_each_moves_its_own_network(tmp_path: Path) -> None:
    task = toy()
    before = [p.clone() for p in task.parameters()]
    fit(task, tmp_path, epochs=1)
    assert task.order == ["d", "g"] * 3
    assert all(not torch.equal(a, b) for a, b in zip(before, task.parameters(), strict=True))


def test_terms_are_logged_by_name_without_weight_and_their_sum_with(tmp_path: Path) -> None:
    task = toy(weights={"three": 4.0})
    seen = fit(task, tmp_path, epochs=1).callback_metrics
    assert {"train_d/real", "train_g/three", "train_g/meet", "train_d/total", "train_g/total"} <= set(seen)
    torch.testing.assert_close(seen["train_g/total"], 4.0 * seen["train_g/three"] + 0.5 * seen["train_g/meet"])


def test_global_step_counts_optimiser_steps_and_batches_seen_counts_batches(tmp_path: Path) -> None:
    task = toy()
    trainer = fit(task, tmp_path)
    assert (trainer.global_step, task.batches_seen) == (12, 6)


def test_an_unknown_weight_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown terms \['cycel'\]; expected some of \['meet', 'real', 'three'\]"):
        toy(weights={"cycel": 1.0})


def test_a_sum_that_is_not_finite_names_the_term_the_batch_and_the_last_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"batch 0 of epoch 0: the train_g term meet is not finite .* No checkpoint"
    ):
        fit(toy(spoil="meet"), tmp_path)


def test_the_last_good_checkpoint_is_named() -> None:
    task = toy()
    task._trainer = Mock(checkpoint_callbacks=[Mock(last_model_path="a/last.ckpt")])
    assert task._last_checkpoint() == "The last good checkpoint is a/last.ckpt."


def test_learning_rates_rise_stay_and_fall(tmp_path: Path) -> None:
    class Recording(Toy):
        rates: ClassVar[list[tuple[float, float]]] = []

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if batch_idx == 0:
                rates = [optimizer.param_groups[0]["lr"] for optimizer in self.trainer.optimizers]
                self.rates.append((rates[0], rates[1]))

    task = Recording(nn.Linear(1, 1), nn.Linear(1, 1), lr=1.0, lr_discriminator=4.0, warmup_epochs=2, decay_share=0.5)
    fit(task, tmp_path, epochs=8)
    generators = [g for _, g in task.rates]
    np.testing.assert_allclose(generators, [0.5, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    np.testing.assert_allclose([d for d, _ in task.rates], 4 * np.array(generators))


def test_a_foreign_checkpoint_is_refused() -> None:
    with pytest.raises(CheckpointError, match="not written by this package"):
        toy().on_load_checkpoint({"state_dict": {}})


def test_other_normalisation_is_refused_and_the_way_out_named() -> None:
    task, saved = toy(), {}
    side = {"bands": ["VV"], "low": [-25.0], "high": [0.0]}
    task.facts = {"source": side, "target": side}
    task.on_save_checkpoint(saved)
    task.facts = {"source": side, "target": {**side, "low": [-20.0]}}
    with pytest.raises(
        CheckpointError, match=r"normalisation of the target side: expected VV -25 to 0, got VV -20 to 0"
    ):
        task.on_load_checkpoint(saved)


def test_a_checkpoint_of_the_same_data_gives_its_facts_back() -> None:
    task, saved = toy(), {}
    task.facts = {"gsd": 10.0}
    task.on_save_checkpoint(saved)
    fresh = toy()
    fresh.on_load_checkpoint(saved)
    assert fresh.facts == {"gsd": 10.0}
    assert saved["rsgeo_gan"]["format"] == 1
    assert saved["rsgeo_gan"]["task"].endswith("test_base.Toy")


def test_random_generators_go_on_where_they_were(tmp_path: Path) -> None:
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(3)
    random.gauss(0, 1)
    torch.save(randomness.capture(), tmp_path / "state.pt")
    expected = random.gauss(0, 1), np.random.normal(), float(torch.rand(()))  # noqa: NPY002
    randomness.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (random.gauss(0, 1), np.random.normal(), float(torch.rand(()))) == expected  # noqa: NPY002


HEALTHY = {"contrast": 0.9, "discriminator": 0.25, "generator": 5.0}


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("collapse", {"contrast": 0.01}),
        ("discriminator", {"discriminator": 1e-5}),
        ("divergence", {"generator": 900.0}),
    ],
)
def test_an_alarm_needs_a_run_of_bad_observations_and_is_said_once(
    name: str, bad: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    alarms = Alarms(patience=3)
    with caplog.at_level(logging.WARNING, "rsgeo_gan"):
        for step in range(3):
            assert not any(alarms.observe(step, **HEALTHY).values())
        states = [alarms.observe(step, **{**HEALTHY, **bad})[name] for step in range(3, 8)]
        assert states == [0, 0, 1, 1, 1]
        assert alarms.observe(9, **HEALTHY)[name] == 0
    assert caplog.text.count(f"training alarm '{name}'") == 1


def test_unknown_contrast_is_no_collapse() -> None:
    alarms = Alarms(patience=1)
    assert alarms.observe(0, float("nan"), 0.25, 5.0)["collapse"] == 0


def test_a_pool_fills_first_and_then_exchanges_half() -> None:
    torch.manual_seed(0)
    pool = ImagePool(4)
    first = torch.arange(4.0).reshape(4, 1, 1, 1)
    assert torch.equal(pool(first), first)
    returned = torch.cat([pool(torch.full((1, 1, 1, 1), 10.0 + k)) for k in range(400)]).flatten()
    exchanged = (returned != 10.0 + torch.arange(400)).float().mean()
    assert 0.4 < float(exchanged) < 0.6
    assert len(pool) == 4


def test_a_pool_without_size_hands_back_what_it_gets() -> None:
    images = torch.rand(3, 1, 2, 2)
    assert ImagePool(0)(images) is images


def test_a_pool_remembers_across_a_checkpoint() -> None:
    one, two = ImagePool(3), ImagePool(3)
    one(torch.rand(5, 1, 2, 2))
    two.load(one.state())
    images = torch.rand(6, 1, 2, 2)
    torch.manual_seed(5)
    expected = one(images)
    torch.manual_seed(5)
    assert torch.equal(two(images), expected)
