"""The training commands: every config builds, a tiny run learns and writes its files, a stopped run goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import Image

from scripts.common.errors import PhanesInputError
from scripts.study.baselines.protocol import load_system
from scripts.study.baselines.train_all import baseline_configs, train_baselines
from scripts.study.baselines.training import BestSystemKeeper, LossStep, parts_of

REPOSITORY = Path(__file__).resolve().parents[3]
CONFIGS = REPOSITORY / "bundle" / "configs" / "baselines"


@pytest.fixture(autouse=True)
def _from_the_repository_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As the commands are documented; and undo what seeding for reproducible training switches on."""
    monkeypatch.chdir(REPOSITORY)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def dataset_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training and two validation slices."""
    root = tmp_path_factory.mktemp("slices")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:59, :50]
    for split, count in (("train", 6), ("val", 2)):
        (root / split).mkdir()
        for n in range(count):
            inside = ((y - 29) / rng.uniform(24, 28)) ** 2 + ((x - 25) / rng.uniform(19, 23)) ** 2 < 1
            brain = inside * (140 + 40 * np.sin(x / rng.uniform(3, 6)) + 10 * rng.standard_normal(x.shape))
            Image.fromarray(brain.clip(0, 255).astype(np.uint8)).save(root / split / f"S{n}.png")
    return root


def run(system: str, dataset_dir: Path, output_dir: Path, **overrides: object) -> None:
    """`monai.bundle run train` within this process."""
    workflow = ConfigWorkflow(
        config_file=str(CONFIGS / f"{system}.json"),
        logging_file=False,
        run_id="train",
        bundle_root="bundle",
        dataset_dir=str(dataset_dir),
        output_dir=str(output_dir),
        device=torch.device("cpu"),
        **overrides,
    )
    workflow.initialize()
    workflow.run()


TINY = {"batch_size": 3, "network_def::channels": [2, 2, 2, 2, 4], "network_def::latent_dim": 4}


@pytest.mark.parametrize("size", ["compact", "paper"])
@pytest.mark.parametrize("system", baseline_configs(CONFIGS))
def test_every_config_builds_its_system_at_both_sizes(system: str, size: str) -> None:
    parser = ConfigParser()
    parser.read_config(CONFIGS / f"{system}.json")
    parser.update({"size": size, "anomaly_map": "residual"})
    if "backbone_weights" in parser:
        parser["backbone_weights"] = "random"
    built = parser.get_parsed_content("network_def")
    parameters = sum(p.numel() for p in built.parameters())
    published = {"vae": 5_849_600, "dae": 7_701_825, "anoddpm": 18_500_993, "ra": 29_430_785, "si_vae": 29_430_785}
    if size == "paper" and system in published:
        assert parameters == published[system]
    if size == "compact" and system not in ("ra", "si_vae"):  # those are PHANES' own network
        saved = sum(p.numel() for p in built.parameters() if p.requires_grad)
        assert 2 * saved < 16 * 2**20, "model.pt must stay below 16 MiB"


def test_a_run_writes_weights_and_record_and_learns(dataset_dir: Path, tmp_path: Path) -> None:
    run("vae", dataset_dir, tmp_path, max_epochs=6, learning_rate=0.02, lr_schedule="constant", **TINY)
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["system"] == "VAE"
    assert record["epochs"] == 6
    assert record["steps"] == 12
    assert record["best_epoch"] > 1
    parser = ConfigParser()
    parser.read_config(CONFIGS / "vae.json")
    parser.update({key: value for key, value in TINY.items() if key.startswith("network_def")})
    system = load_system(parser.get_parsed_content("network_def"), tmp_path / "model.pt")
    assert system.anomaly_map(torch.rand(1, 1, 128, 128)).shape == (1, 1, 128, 128)


def test_a_resumed_run_ends_as_an_undisturbed_one(dataset_dir: Path, tmp_path: Path) -> None:
    settings = {**TINY, "lr_schedule": "constant"}
    run("vae", dataset_dir, tmp_path / "whole", max_epochs=3, **settings)
    run("vae", dataset_dir, tmp_path / "parts", max_epochs=1, **settings)
    run("vae", dataset_dir, tmp_path / "parts", max_epochs=3, **settings)
    whole = torch.load(tmp_path / "whole" / "checkpoints" / "checkpoint.pt", weights_only=True)
    parts = torch.load(tmp_path / "parts" / "checkpoints" / "checkpoint.pt", weights_only=True)
    for name, value in whole["network"].items():
        assert torch.equal(value, parts["network"][name]), name
    assert whole["best"] == parts["best"]
    assert json.loads((tmp_path / "parts" / "record.json").read_text())["steps"] == 6


def test_a_budget_of_processor_seconds_ends_a_training_and_counts_what_was_spent(
    dataset_dir: Path, tmp_path: Path
) -> None:
    settings = {"max_epochs": 100_000, "max_seconds": 1, **TINY}
    run("vae", dataset_dir, tmp_path, **settings)
    assert (tmp_path / "model.pt").is_file()
    first = json.loads((tmp_path / "record.json").read_text())
    assert first["epochs"] < 100_000
    assert first["processor_seconds"] >= 1
    run("vae", dataset_dir, tmp_path, **settings)  # goes on from the last whole epoch, with what is left
    again = json.loads((tmp_path / "record.json").read_text())
    assert again["steps"] < 2 * first["steps"]


def test_averaged_weights_are_validated_and_saved(dataset_dir: Path, tmp_path: Path) -> None:
    run("vae", dataset_dir, tmp_path, max_epochs=2, average_decay=0.5, **TINY)
    checkpoint = torch.load(tmp_path / "checkpoints" / "checkpoint.pt", weights_only=True)
    best = torch.load(tmp_path / "checkpoints" / "best.pt", weights_only=True)
    name = next(iter(best))
    assert checkpoint["average"]["n_averaged"] == 4
    if checkpoint["best"]["epoch"] == 2:
        assert torch.equal(best[name], checkpoint["average"][f"module.{name}"])
    assert not torch.equal(checkpoint["network"][name], checkpoint["average"][f"module.{name}"])


@pytest.mark.parametrize("system", ["dae", "anoddpm", "mkd"])
def test_the_other_trained_systems_run_too(system: str, dataset_dir: Path, tmp_path: Path) -> None:
    tiny = {
        "dae": {"network_def::channels": [4, 4], "network_def::groups": [2, 2]},
        "anoddpm": {
            "sizes::compact::channels": [8, 8, 8],
            "sizes::compact::norm_groups": 4,
            "sizes::compact::head_channels": 8,
        },
        "mkd": {"backbone_weights": "random", "sizes::compact::stages": [[2], [2], [2], [2]]},
    }
    run(system, dataset_dir, tmp_path, max_epochs=1, batch_size=3, **tiny[system])
    assert json.loads((tmp_path / "record.json").read_text())["best_epoch"] == 1


def test_patchcore_is_fitted_by_the_same_command(dataset_dir: Path, tmp_path: Path) -> None:
    run("patchcore", dataset_dir, tmp_path, backbone_weights="random", **{"network_def::backbone::input_size": 64})
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["slices"] == 6
    bank = torch.load(tmp_path / "model.pt", weights_only=True)["bank"]
    assert bank.shape == (int(0.02 * 6 * 7 * 7), 512)


def test_the_documented_command_works_literally(dataset_dir: Path, tmp_path: Path) -> None:
    command = (
        f"{sys.executable} -m monai.bundle run train --bundle_root bundle "
        f"--config_file bundle/configs/baselines/zscore.json --dataset_dir {dataset_dir} --output_dir {tmp_path}"
    )
    subprocess.run(command.split(), check=True, cwd=REPOSITORY, capture_output=True)
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["system"] == "z-score"
    assert record["slices"] == 6


def test_a_misspelt_option_is_refused_in_one_sentence(dataset_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "monai.bundle", "run", "train", "--bundle_root", "bundle"]
    command += ["--config_file", "bundle/configs/baselines/vae.json", "--max_epoch", "3"]
    done = subprocess.run(command, check=False, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.strip().endswith("Error: Unknown option --max_epoch: did you mean --max_epochs?")


@pytest.mark.parametrize("whole", [False, True])
def test_ra_takes_over_a_trained_first_stage(whole: bool, dataset_dir: Path, tmp_path: Path) -> None:
    trained = parts_of(["autoencoder"])["autoencoder"]
    state = trained.state_dict()
    if whole:  # as model.pt, which holds more
        state = {f"autoencoder.{name}": value for name, value in state.items()} | {"mask_threshold": torch.tensor(0.2)}
    torch.save(state, tmp_path / "trained.pt")
    settings = {"trained_autoencoder": str(tmp_path / "trained.pt"), "anomaly_map": "residual"}
    run("ra", dataset_dir, tmp_path / "ra", **settings)
    saved = torch.load(tmp_path / "ra" / "model.pt", weights_only=True)
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(saved[f"autoencoder.{name}"].to(value.dtype), value, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(("system", "weight"), [("ra", 0.005), ("si_vae", 0.0)])
def test_ra_and_si_vae_train_as_phanes_but_for_the_reversed_loss(
    system: str, weight: float, dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, object] = {}

    def phanes_training(run_id: str, config_file: str, **overrides: object) -> None:
        seen.update(overrides, config_file=config_file)
        part = parts_of(["autoencoder"])["autoencoder"]
        Path(str(overrides["output_dir"])).mkdir()
        torch.save(part.state_dict(), f"{overrides['output_dir']}/autoencoder.pt")

    monkeypatch.setattr("monai.bundle.run", phanes_training)
    run(system, dataset_dir, tmp_path / system, anomaly_map="residual", max_seconds=7)
    assert seen["config_file"] == "bundle/configs/train.json"
    assert seen["lambda_reversed"] == weight
    assert seen["dataset_dir"] == str(dataset_dir)
    assert seen["max_seconds"] == 7
    assert "max_epochs" not in seen  # train.json's own
    assert (
        json.loads((tmp_path / system / "record.json").read_text())["system"]
        == {"ra": "RA", "si_vae": "SI-VAE"}[system]
    )


def test_the_data_are_phanes_own() -> None:
    """The shared part asks train.json for its data, and names only what a user may change."""
    shared = json.loads((CONFIGS / "base.json").read_text())["shared"]
    assert set(shared["ids"]) == {"train_dataset", "train_loader", "val_loader"}
    train = json.loads((REPOSITORY / "bundle" / "configs" / "train.json").read_text())
    assert set(shared["overrides"]) <= set(train)
    assert set(shared["ids"]) <= set(train)


def test_all_systems_are_trained_by_one_command_which_passes_over_finished_ones(
    dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_baselines(str(dataset_dir), systems="zscore", output_dir=str(tmp_path))
    assert (tmp_path / "zscore" / "model.pt").is_file()
    train_baselines(str(dataset_dir), systems=["zscore"], output_dir=str(tmp_path))
    assert "passed over" in capsys.readouterr().out


def test_a_system_that_fails_does_not_stop_the_others(dataset_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(PhanesInputError, match=r"1 of 2 systems failed\. patchcore: No weights of squeezenet1_1"):
        train_baselines(
            str(dataset_dir), systems=("patchcore", "zscore"), output_dir=str(tmp_path), backbone_weights="/nowhere.pt"
        )
    assert (tmp_path / "zscore" / "model.pt").is_file()


def test_mistakes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PhanesInputError, match="systems names gan"):
        train_baselines(str(tmp_path), systems="gan")
    with pytest.raises(PhanesInputError, match="No slices"):
        train_baselines(str(tmp_path), systems="zscore", output_dir=str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PhanesInputError, match="from the repository's root"):
        train_baselines(str(tmp_path), systems="zscore")


class Line(torch.nn.Module):
    """Loss (w - 3)^2."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(0.0))

    def training_loss(self, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return (self.w - 3.0) ** 2, {"w": self.w}


def test_a_step_descends_and_its_gradient_is_cut_to_the_norm() -> None:
    line = Line()
    step = LossStep(line, torch.optim.SGD(line.parameters(), lr=0.1), max_norm=2.0)  # type: ignore[arg-type]
    output = step(torch.zeros(1))
    assert float(output["loss"]) == 9.0
    assert float(line.w) == pytest.approx(0.2, rel=1e-4)  # gradient -6, cut to -2


def test_the_best_weights_are_kept_and_training_stops_when_nothing_improves(build, tmp_path: Path) -> None:
    errors = [3.0, 2.0, 2.5, 2.4, 1.0]
    validator = Engine(lambda engine, batch: None)
    trainer = Engine(lambda engine, batch: None)
    keeper = BestSystemKeeper(validator, build("vae"), str(tmp_path / "best.pt"), patience=2)
    keeper.path.unlink(missing_ok=True)

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate() -> None:
        validator.state.epoch = trainer.state.epoch
        validator.state.metrics = {"healthy_error": errors[trainer.state.epoch - 1]}

    keeper.attach(trainer)
    trainer.run([0], max_epochs=5)
    assert trainer.state.epoch == 4
    assert (keeper.error, keeper.epoch) == (2.0, 2)
    assert keeper.path.is_file()
    again = BestSystemKeeper(validator, build("vae"), str(tmp_path / "best.pt"))
    again.load_state_dict(keeper.state_dict())
    state = again.state_dict()
    assert state.pop("curve") == [[1, 3.0], [2, 2.0], [3, 2.5], [4, 2.4]]
    assert state == {"error": 2.0, "epoch": 2, "waited": 2}
