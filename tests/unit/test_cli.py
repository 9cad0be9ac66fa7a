"""The command line: messages, exit codes, order of the stages, and what it does not import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rsgeo_gan import __version__, chain, cli
from rsgeo_gan.chain import Job, Outcome, Stage, translation
from rsgeo_gan.cli import fitting
from rsgeo_gan.errors import FailedShareError, GridError, TrainingError
from rsgeo_gan.manifest import check_share

runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stages that only note that they were called; the second call finds everything done."""
    called: list[str] = []

    def stand_in(name: str) -> Stage:
        def run(job: Job, catalog: Any, progress: Any) -> Outcome:
            progress(name, 1, 2)
            called.append(name)
            return Outcome(name, f"{name}.json", total=2, new=0 if called.count(name) > 1 else 2)

        return Stage(name, run)

    replaced = tuple(stand_in(stage.name) for stage in chain.STAGES)
    monkeypatch.setattr(translation, "STAGES", replaced)
    monkeypatch.setattr(chain, "headline", lambda job: [{"product": "s1", "correlation": 0.61}])
    return called


def _fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(name: str, job: Job, progress: Any) -> Outcome:
        raise error

    monkeypatch.setattr(chain, "run_stage", run)


def test_version_is_printed() -> None:
    result = runner.invoke(cli.app, ["--version"])
    assert (result.exit_code, result.output.strip()) == (0, __version__)


def test_help_lists_every_command_and_the_exit_codes() -> None:
    result = runner.invoke(cli.app, ["--help"])
    assert result.exit_code == 0
    names = "demo, run, ingest, coregister, tile, train, fit, validate, test, predict, generate, report"
    assert all(command in result.output for command in names.split(", "))
    assert "Exit codes" in result.output


@pytest.mark.parametrize("command", ["demo", "run", "ingest", "coregister", "tile", "train", "generate", "report"])
def test_help_of_a_command_shows_an_example(command: str) -> None:
    result = runner.invoke(cli.app, [command, "--help"])
    assert result.exit_code == 0
    assert f"rsgeo-gan {command} " in result.output


def test_run_walks_through_the_stages_in_order_and_ends_with_scores_and_report(
    stages: list[str], tmp_path: Path
) -> None:
    result = runner.invoke(cli.app, ["run", "--catalog", "sample", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert stages == ["ingest", "coregister", "tile", "train", "generate", "report"]
    assert "0.61" in result.output
    assert str(tmp_path / "out" / "report" / "index.html") in result.output
    assert "Nothing new" not in result.output


def test_a_second_run_says_that_nothing_is_new(stages: list[str], tmp_path: Path) -> None:
    arguments = ["run", "--catalog", "sample", "--out", str(tmp_path / "out")]
    runner.invoke(cli.app, arguments)
    assert "Nothing new: everything was done already." in runner.invoke(cli.app, arguments).output


@pytest.mark.parametrize("command", ["ingest", "coregister", "tile", "train", "generate", "report"])
def test_a_stage_command_runs_that_stage_alone(command: str, stages: list[str], tmp_path: Path) -> None:
    result = runner.invoke(cli.app, [command, "--catalog", "sample", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert stages == [command]


def test_choices_reach_the_catalogue(tmp_path: Path) -> None:
    job = Job(
        "sample",
        str(tmp_path),
        directions=("target_to_source",),
        recipe="other",
        settings={"training.overrides.trainer.max_epochs": 2},
    )
    catalog = job.load()
    assert catalog.products.directions == ("target_to_source",)
    assert catalog.training.recipe == "other"
    assert catalog.training.overrides == {"trainer.max_epochs": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --catalog, or both --source and --target"),
        (["--source", "a.tif"], "both --source and --target"),
        (["--catalog", "sample", "--source", "a.tif", "--target", "b.tif"], "give either --catalog"),
        (["--catalog", "sample", "--train", "always"], "expected one of never, if_missing, finetune, scratch"),
        (["--catalog", "sample", "--direction", "up"], "expected one of source_to_target, target_to_source, both"),
        (["--catalog", "sample", "--set", "oops"], "expected KEY=VALUE, got 'oops'"),
    ],
)
def test_wrong_usage_ends_with_code_two(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = runner.invoke(cli.app, ["run", "--out", str(tmp_path), *arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_an_unknown_catalogue_is_one_message_and_code_one(tmp_path: Path) -> None:
    result = runner.invoke(cli.app, ["run", "--catalog", "nix.yaml", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "Error: Catalogue nix.yaml" in result.stderr
    assert "Traceback" not in result.output


def test_an_unknown_key_in_a_setting_is_named(tmp_path: Path) -> None:
    result = runner.invoke(
        cli.app, ["ingest", "--catalog", "sample", "--out", str(tmp_path), "--set", "pairing.max_gap=5"]
    )
    assert result.exit_code == 1
    assert "pairing.max_gap" in result.stderr


def test_a_missing_file_of_ones_own_is_named(tmp_path: Path) -> None:
    result = runner.invoke(
        cli.app, ["run", "--source", "nowhere.tif", "--target", "b.tif", "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 1
    assert "nowhere.tif" in result.stderr


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = runner.invoke(cli.app, ["run", "--catalog", "sample", "--out", str(tmp_path / "file" / "out")])
    assert result.exit_code == 1
    assert f"Cannot write {tmp_path / 'file' / 'out'}" in result.stderr
    assert "Choose an output folder" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GridError("scene x has no CRS"), 1),
        (FailedShareError("3 of 4 items failed"), 3),
        (TrainingError("ended with exit status 1"), 4),
        (OSError(28, "No space left on device"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_one_line_and_an_exit_code(
    error: BaseException, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail_with(monkeypatch, error)
    result = runner.invoke(cli.app, ["run", "--catalog", "sample", "--out", str(tmp_path)])
    assert result.exit_code == code
    assert "Traceback" not in result.output
    assert (f"Error: {error}" if code != 130 else "Interrupted") in result.stderr


def test_debug_shows_where_an_error_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fail_with(monkeypatch, GridError("scene x has no CRS"))
    result = runner.invoke(cli.app, ["--debug", "run", "--catalog", "sample", "--out", str(tmp_path)])
    assert isinstance(result.exception, GridError)


def test_too_many_failures_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FailedShareError, match="3 of 4 items failed"):
        check_share(3, 4, 0.5, "ingest", tmp_path / "scenes.json")


def test_a_stage_without_its_predecessor_says_which_collection_is_missing(tmp_path: Path) -> None:
    result = runner.invoke(cli.app, ["coregister", "--catalog", "sample", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "scenes.json; run the stage that makes it first" in result.stderr


def test_generating_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    result = runner.invoke(cli.app, ["generate", "--catalog", "sample", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "No checkpoint is published in" in result.stderr


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_arguments_of_lightning_commands_are_passed_on_untouched(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(fitting, "lightning", lambda arguments: seen.append(list(arguments)))
    given = ["--config", "r.yaml", "--trainer.max_epochs=1", "--help", "--model.weights.pair", "0.5", "-c", "x"]
    assert runner.invoke(cli.app, [command, *given]).exit_code == 0
    assert seen == [[command, *given]]


def test_the_command_line_and_the_chain_do_not_import_torch_or_prefect() -> None:
    code = (
        "import sys, rsgeo_gan.cli\n"
        "print(sorted({'torch', 'torchgeo', 'lightning', 'prefect', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_module_runs_as_a_program_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rsgeo_gan.cli", "run", "--catalog", "nix", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"}, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Catalogue nix")
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either CHECKPOINT, or --catalog"),
        (["a.ckpt", "--catalog", "synthesis"], "give either CHECKPOINT, or --catalog"),
        (["--catalog", "synthesis", "--tiles", "x"], "has no meaning beside --catalog"),
        (["a.ckpt", "--recipe", "synthesis"], "has no meaning beside CHECKPOINT"),
        (["--catalog", "synthesis", "--train", "always"], "expected one of never, if_missing"),
    ],
)
def test_wrong_usage_of_synthesize_ends_with_code_two(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = runner.invoke(cli.app, ["synthesize", "--out", str(tmp_path), *arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_synthesize_walks_through_its_stages_and_puts_choices_into_the_catalogue(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[tuple[str, Any]] = []

    def run(name: str, job: chain.SynthesisJob, progress: Any) -> Outcome:
        assert job.device == "cuda:1"
        seen.append((name, job.load().products))
        return Outcome(name, f"{name}.json", total=3, new=0)

    monkeypatch.setattr(chain, "run_stage", run)
    rows = {"classes": [{"class": "forest", "synthetic": 3}], "scores": []}
    monkeypatch.setattr(chain, "synthesis_headline", lambda job: rows)
    chosen = ["--count", "3", "--classes", "forest, water", "--psi", "0.7", "--seed", "5", "--device", "cuda:1"]
    result = runner.invoke(cli.app, ["synthesize", "--catalog", "synthesis", "--out", str(tmp_path), *chosen])
    assert result.exit_code == 0, result.output
    assert [name for name, _ in seen] == ["collect", "train", "synthesize", "report"]
    products = seen[0][1]
    assert (products.count, products.classes, products.truncation, products.seed) == (3, ("forest", "water"), 0.7, 5)
    assert "3 synthetic images in" in result.output
    assert "Nothing new: everything was done already." in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nix.ckpt"], "nix.ckpt: no such checkpoint"),
        (["nix.ckpt", "--set", "products.amount=3"], "key `products.amount`: expected one of"),
        (["--catalog", "sample"], "Run it with `rsgeo-gan run`"),
        (["--catalog", "synthesis", "--recipe", "nix"], "Recipe 'nix' not found"),
        (
            ["--catalog", "synthesis", "--set", "collect.images.kind=web"],
            "expected one of folder, scenes, sample, tiles",
        ),
    ],
)
def test_errors_of_synthesize_are_one_message(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = runner.invoke(cli.app, ["synthesize", "--out", str(tmp_path), *arguments])
    assert result.exit_code == 1
    assert message in result.stderr


def test_the_catalogue_of_a_synthesis_is_not_run_as_a_translation(tmp_path: Path) -> None:
    result = runner.invoke(cli.app, ["run", "--catalog", "synthesis", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "Run it with `rsgeo-gan synthesize`" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give either SCENE, or --catalog"),
        (["a.tif", "--catalog", "superres"], 2, "give either SCENE, or --catalog"),
        (["a.tif"], 2, "a scene needs the checkpoint of a network"),
        (["a.tif", "--checkpoint", "b.ckpt", "--recipe", "superres"], 2, "has no meaning beside SCENE"),
        (["--catalog", "superres", "--alone"], 2, "has no meaning beside --catalog"),
        (["a.tif", "--checkpoint", "b.ckpt", "--max-shift-px", "0"], 2, "more than 0 and at most 256"),
        (["a.tif", "--checkpoint", "b.ckpt"], 1, "ends in .tif"),
        (["--catalog", "synthesis"], 1, "expected `kind: superres`"),
        (["--catalog", "superres", "--recipe", "nix"], 1, "Recipe 'nix' not found"),
    ],
)
def test_wrong_usage_of_superres_is_one_message(arguments: list[str], code: int, message: str, tmp_path: Path) -> None:
    result = runner.invoke(cli.app, ["superres", "--out", str(tmp_path / "out"), *arguments])
    assert result.exit_code == code
    assert message in " ".join(result.output.replace("│", " ").split())


def test_superres_walks_through_its_stages_and_puts_choices_into_the_catalogue(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[tuple[str, Any]] = []

    def run(name: str, job: chain.SuperresJob, progress: Any) -> Outcome:
        seen.append((name, job.load().products))
        return Outcome(name, f"{name}.json", total=3, new=0)

    monkeypatch.setattr(chain, "run_stage", run)
    monkeypatch.setattr(chain, "prepare", lambda job: None)
    monkeypatch.setattr(
        chain, "superres_headline", lambda job: {"tiles": [{"split": "test", "tiles": 3}], "scores": []}
    )
    chosen = ["--uncertainty", "8", "--set", "products.most=5"]
    result = runner.invoke(cli.app, ["superres", "--catalog", "superres", "--out", str(tmp_path), *chosen])
    assert result.exit_code == 0, result.output
    assert [name for name, _ in seen] == ["collect", "train", "superres", "report"]
    assert (seen[0][1].uncertainty, seen[0][1].most) == (8, 5)
    assert "3 finer images in" in result.output
