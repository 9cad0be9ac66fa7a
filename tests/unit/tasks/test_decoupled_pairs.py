from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from rsgeo_gan.export import export
from rsgeo_gan.inference import Translator
from rsgeo_gan.losses import PooledL1
from rsgeo_gan.models import PatchDiscriminator, ResNetGenerator, UNetGenerator
from rsgeo_gan.tasks import PairedTranslation
from tests.generation import checkpoint
from tests.unit.tasks.test_paired import batch

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
    # The tasks are made in Python here and keep their networks among their arguments.
    pytest.mark.filterwarnings("ignore:.*is an instance of `nn.Module`"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]


def network(seed: int, dropout: float = 0.5) -> UNetGenerator:
    torch.manual_seed(seed)
    return UNetGenerator(3, 2, width=4, depth=3, dropout=dropout)


def task(residual: bool = True, **more: Any) -> PairedTranslation:
    generator = network(0)
    torch.manual_seed(2)
    made = PairedTranslation(
        generator,
        PatchDiscriminator(5, width=4, layers=2),
        residual=network(1) if residual else None,
        **more,
    )
    made._trainer = Mock(num_training_batches=10, max_epochs=10, max_steps=-1)
    return made


def gradients(made: PairedTranslation, term: str, name: str) -> list[Tensor | None]:
    found = made.generator_terms(made.prepare(batch()))[term]
    return list(torch.autograd.grad(found, list(getattr(made, name).parameters()), allow_unused=True))


def test_pixels_teach_the_generator_and_the_discriminator_teaches_the_residual() -> None:
    made = task(correspondence=PooledL1(4))
    torch.nn.init.normal_(made.residual.head.weight, 0.0, 0.1)  # type: ignore[union-attr]
    for term in ("pixel", "pair"):
        assert all(g is not None for g in gradients(made, term, "generator"))
        assert all(g is None for g in gradients(made, term, "residual"))
    assert all(g is None for g in gradients(made, "adversarial", "generator"))
    assert all(g is not None for g in gradients(made, "adversarial", "residual"))


def test_the_discriminator_sees_what_was_read_beside_the_sum() -> None:
    made, seen = task().train(), []
    torch.nn.init.normal_(made.residual.head.weight, 0.0, 3.0)  # type: ignore[union-attr]
    made.discriminator.register_forward_hook(lambda _module, args, _out: seen.append(args[0]))
    ready = made.prepare(batch())
    made.discriminator_terms(ready)
    _, fake = seen[0].split(2)
    assert torch.equal(fake, torch.cat([ready["image"], ready["fake_target"]], dim=1).detach())
    assert not torch.equal(ready["fake_target"], ready["clean_target"])
    assert float(ready["fake_target"].detach().abs().max()) > 1
    scored = made.eval().prepare(batch())["fake_target"]
    assert float(scored.detach().abs().max()) == 1
    torch.testing.assert_close(made(batch()["image"]), scored)


def test_a_residual_begins_with_nothing_to_add() -> None:
    ready = task().prepare(batch())
    assert torch.equal(ready["fake_target"], ready["clean_target"])


class Trace(Callback):
    """Keeps the pixel term of every batch."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self.values.append(float(trainer.callback_metrics["train_g/pixel"]))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_generator_learns_the_same_bit_for_bit_whatever_the_adversarial_weight(
    optimizer: Any, tmp_path: Path
) -> None:
    images = [{name: value[k] for name, value in batch().items()} for k in range(2)]
    ends, traces = [], []
    for weight in (1.0, 0.0):
        made, trace = task(optimizer=optimizer, lr=1e-3, clip_norm=1.0, weights={"adversarial": weight}), Trace()
        made._trainer = None
        torch.manual_seed(7)
        trainer = Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            default_root_dir=tmp_path,
            callbacks=[trace],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1,
        )
        drawn = RandomSampler(images, replacement=True, num_samples=15)  # type: ignore[arg-type]
        trainer.fit(made, DataLoader(images, batch_size=1, sampler=drawn))  # type: ignore[arg-type]
        ends.append(made.generator.state_dict())
        traces.append(trace.values)
        assert bool(made.residual.head.weight.any()) == bool(weight)  # type: ignore[union-attr]
    assert len(set(traces[0])) == 15
    assert traces[0] == traces[1]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_without_a_residual_nothing_is_added_to_task_or_checkpoint() -> None:
    made, saved = task(residual=False), {}
    names = [name for name, _ in made.named_parameters()]
    assert not any(name.startswith("residual") for name in names)
    assert [len(o.param_groups) for o in made.configure_optimizers()[0]] == [1, 1]
    assert set(made.channels({"residual": None})) == {"generator", "discriminator"}
    assert set(made.channels({"residual": {"class_path": "x"}})) == {"generator", "discriminator", "residual"}
    made.on_save_checkpoint(saved)
    assert "residuals" not in saved["rsgeo_gan"]
    assert saved["rsgeo_gan_state"]["extra"] == {}


@pytest.mark.parametrize(
    ("residual", "message"),
    [
        (UNetGenerator(3, 1, 4, 2), "added up, but have out_channels 2 and 1"),
        (ResNetGenerator(3, 2, 4, 1, noise_channels=1), "the residual has noise_channels; set them to 0"),
        (nn.Conv2d(3, 2, 1), "needs an output layer called `head`"),
    ],
)
def test_a_residual_that_does_not_add_up_is_refused(residual: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairedTranslation(network(0), PatchDiscriminator(5, width=4, layers=2), residual=residual)


@pytest.fixture
def decoupled(tmp_path: Path) -> tuple[Path, PairedTranslation]:
    """A checkpoint as a recipe with a residual writes it, and its task."""
    made = task().eval()
    torch.nn.init.normal_(made.residual.head.weight, 0.0, 1.0)  # type: ignore[union-attr]
    path = checkpoint(tmp_path / "decoupled.ckpt")
    content = torch.load(path, weights_only=True)
    saved: dict[str, Any] = {}
    made.on_save_checkpoint(saved)
    sizes = {"in_channels": 3, "out_channels": 2, "width": 4, "depth": 3, "dropout": 0.5}
    spec = {"class_path": "rsgeo_gan.models.UNetGenerator", "init_args": sizes}
    content["rsgeo_gan"] = {**saved["rsgeo_gan"], "facts": content["rsgeo_gan"]["facts"]}
    content["hyper_parameters"] = {"generator": spec, "residual": spec}
    content["state_dict"] = made.state_dict()
    torch.save(content, path)
    return path, made


def test_products_are_the_sum_from_checkpoint_and_export(
    decoupled: tuple[Path, PairedTranslation], tmp_path: Path
) -> None:
    path, made = decoupled
    x, mask = batch()["image"], torch.ones(2, 1, 32, 32)
    with torch.no_grad():
        expected = made(x, mask)
        assert not torch.allclose(expected, made.generator(x, mask))
    translator = Translator.load(path, "source_to_target")
    torch.testing.assert_close(translator(x, mask), expected)
    assert (translator.stride, translator.noise_channels) == (8, 0)
    folder = export(path, tmp_path / "exported", onnx=False).path
    torch.testing.assert_close(Translator.load(folder, "source_to_target")(x, mask), expected)
