from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from rsgeo_gan.models import PyramidDiscriminator, PyramidGenerator
from rsgeo_gan.tasks import SinglePairTranslation

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

NETWORKS = ("generator", "generator_back", "discriminator", "discriminator_back")


def task(source: int = 3, target: int = 2, scales: int = 3, epochs: int = 6, **more: Any) -> SinglePairTranslation:
    torch.manual_seed(0)
    made = SinglePairTranslation(
        PyramidGenerator(source, target, width=4, scales=scales, layers=3),
        PyramidGenerator(target, source, width=4, scales=scales, layers=3),
        PyramidDiscriminator(target, width=4, scales=scales, layers=3),
        PyramidDiscriminator(source, width=4, scales=scales, layers=3),
        **more,
    )
    made._trainer = Mock(max_epochs=epochs)
    return made


def at(made: SinglePairTranslation, epoch: int) -> SinglePairTranslation:
    """Bring a task to an epoch."""
    made.trainer.fit_loop.epoch_progress.current.processed = epoch
    made.grow()
    return made


def batch(source: int = 3, target: int = 2, size: int = 32) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "image": torch.rand(2, source, size, size) * 2 - 1,
        "image_target": torch.rand(2, target, size, size) * 2 - 1,
        "mask_valid": torch.ones(2, 1, size, size),
        "mask_valid_target": torch.ones(2, 1, size, size),
        "tile": torch.tensor([4, 5]),
    }


def test_scales_grow_by_equal_shares_of_the_epochs() -> None:
    made = task()
    assert [made._scales_at(epoch) for epoch in range(7)] == [
        *[(1, 0)] * 2,
        *[(2, 1)] * 2,
        *[(3, 2)] * 2,
        (3, 2),
    ]
    # With fewer epochs than scales, those that come in together learn together.
    assert [task(scales=4, epochs=2)._scales_at(epoch) for epoch in range(2)] == [(2, 0), (4, 2)]
    assert [task(scales=3, epochs=4)._scales_at(epoch)[0] for epoch in range(4)] == [1, 2, 3, 3]


def test_each_scale_ends_with_a_tenth_of_the_rate() -> None:
    made = task(scales=2, epochs=10, decay_share=0.6)
    assert [made.schedule(epoch) for epoch in range(10)] == [1, 1, 0.1, 0.1, 0.1] * 2


def test_a_batch_is_brought_to_the_scale_that_learns_and_to_full_size_for_scores() -> None:
    made = task()
    for epoch, side in ((0, 8), (2, 16), (4, 32)):
        ready = at(made, epoch).prepare(batch())
        assert {value.shape[-1] for value in ready.values() if value.ndim == 4} == {side}
    ready = at(made, 0).eval().prepare(batch(size=30))
    assert {value.shape[-1] for value in ready.values() if value.ndim == 4} == {30}


def moved(made: SinglePairTranslation, terms: str) -> set[str]:
    """Return which weights get a gradient from the sum of the terms."""
    made.zero_grad()
    sum(getattr(made, terms)(made.prepare(batch(2, 2))).values()).backward()
    return {name for name, weight in made.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize(("epoch", "scale"), [(0, 0), (2, 1), (4, 2)])
def test_terms_move_the_scale_that_learns_on_their_own_side_only(epoch: int, scale: int) -> None:
    made = at(task(2, 2), epoch)
    own = (f".current.{scale}.", f".blend.{scale - 1}.", f".critics.{scale}.")
    of_scale = {name for name, _ in made.named_parameters() if any(part in name for part in own)}
    critics = {name for name in of_scale if name.startswith("discriminator")}
    assert moved(made, "discriminator_terms") == critics
    for network in (made.discriminator, made.discriminator_back):
        network.requires_grad_(False)
    assert moved(made, "generator_terms") == of_scale - critics


def test_a_single_term_reaches_the_generators_it_should() -> None:
    made = at(task(2, 2), 4)
    terms = made.generator_terms(made.prepare(batch(2, 2)))
    forth, back = (getattr(made, name).current[2].convs[0].weight for name in NETWORKS[:2])
    for term in ("adversarial", "cycle", "tv", "identity"):
        for weight in (forth, back):
            (gradient,) = torch.autograd.grad(terms[term], weight, retain_graph=True)
            assert gradient.abs().sum() > 0, term


def with_hole(garbage: float) -> dict[str, Tensor]:
    given = batch()
    given["mask_valid"][0, :, 4:12, 6:20] = 0
    given["mask_valid_target"][1, :, 20:, :9] = 0
    for image, mask in (("image", "mask_valid"), ("image_target", "mask_valid_target")):
        given[image] = torch.where(given[mask] > 0, given[image], torch.tensor(garbage))
    return given


@pytest.mark.parametrize("epoch", [0, 4])
def test_garbage_under_nodata_changes_no_term(epoch: int) -> None:
    made, found = at(task(), epoch), []
    for garbage in (0.0, 0.7, torch.nan):
        torch.manual_seed(2)
        ready = made.prepare(with_hole(garbage))
        terms = (*made.discriminator_terms(ready).items(), *made.generator_terms(ready).items())
        found.append([float(value.detach()) for _, value in terms])
    assert found[0] == found[1] == found[2]
    assert all(abs(value) < 1e3 for value in found[0])


@pytest.mark.parametrize(("size", "valid"), [(32, 0.0), (29, 1.0)])
def test_pure_nodata_and_odd_sizes_give_finite_terms(size: int, valid: float) -> None:
    given, made = batch(size=size), at(task(), 2)
    given["mask_valid"] *= valid
    ready = made.prepare(given)
    for value in (*made.discriminator_terms(ready).values(), *made.generator_terms(ready).values()):
        assert torch.isfinite(value)


def test_identity_is_on_between_equal_bands_and_refused_between_unequal_ones() -> None:
    assert task(2, 2).weights["identity"] == 1
    assert task(2, 2, weights={"identity": 0.0}).weights["identity"] == 0
    unequal = at(task(), 0)
    assert set(unequal.generator_terms(unequal.prepare(batch()))) == {"adversarial", "cycle", "tv"}
    with pytest.raises(ValueError, match="equal band counts, got 3 source and 2 target bands"):
        task(weights={"identity": 1.0})


def test_networks_of_different_scales_are_refused() -> None:
    networks = [PyramidGenerator(1, 1, 4, 2), PyramidGenerator(1, 1, 4, 3), *[PyramidDiscriminator(1, 4, 2)] * 2]
    with pytest.raises(ValueError, match=r"equal scales and factor, got \[2, 3, 2, 2\]"):
        SinglePairTranslation(*networks)


class Watch(Callback):
    """Keep the weights as they are after each epoch, and end the run at a batch when asked to."""

    def __init__(self, kill: tuple[int, int] | None) -> None:
        self.kill = kill
        self.after: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, trainer: Trainer, module: Any, given: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.kill:
            raise InterruptedError

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        self.after.append({name: value.clone() for name, value in module.state_dict().items()})


def fit(folder: Path, kill: tuple[int, int] | None = None, resume: Path | None = None) -> Watch:
    seed_everything(0)
    watch, made = Watch(kill), task()
    # Both batches of an epoch are alike: a plain loader begins anew when a run is resumed within an epoch.
    samples = [{name: value[k] for name, value in batch().items() if name != "tile"} for k in (0, 1, 0, 1)]
    trainer = Trainer(
        max_epochs=6,
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[
            watch,
            EMAWeightAveraging(decay=0.5, use_buffers=False),
            ModelCheckpoint(folder, every_n_train_steps=2, filename="{step}", save_top_k=-1),
        ],
    )
    loader = DataLoader(samples, batch_size=2)
    with suppress(InterruptedError):
        trainer.fit(made, loader, loader, ckpt_path=resume, weights_only=None if resume is None else False)
    return watch


def test_finished_scales_stay_bit_for_bit_and_a_resumed_run_ends_where_a_whole_one_does(tmp_path: Path) -> None:
    after = fit(tmp_path / "whole").after
    for scale, (done, last) in enumerate([(1, 5), (3, 5)]):
        parts = (f".current.{scale}.", f".blend.{scale - 1}.", f".critics.{scale}.")
        names = [name for name in after[0] if any(part in name for part in parts)]
        assert all(torch.equal(after[done][name], after[last][name]) for name in names)
        assert not all(torch.equal(after[done][name], after[done - 1][name]) for name in names)
    assert [state["generator.gates"].tolist() for state in after[1::2]] == [[0, 0], [1, 0], [1, 1]]

    fit(tmp_path / "stopped", kill=(3, 1))
    newest = max((tmp_path / "stopped").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    resumed = fit(tmp_path / "stopped", resume=newest).after
    for name, value in resumed[-1].items():
        assert torch.equal(value, after[-1][name]), name
