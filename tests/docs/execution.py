"""How each command of the docs is executed by a test; no tests.

`tests/integrations/test_docs.py` runs the commands as they stand. Those that it cannot run are listed here, with the
reason and with the test that runs the same thing in another way.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

from tests.docs.pages import PAGES, REPOSITORY, Command, commands


class Elsewhere(NamedTuple):
    """A command line (a pattern of `fnmatch`, for the pages of another one), why, and the test instead."""

    page: str
    command: str
    reason: str
    test: str


ENVIRONMENT = "an environment of its own, from the package index"
SERVER = "a server"
ALL_TESTS = "it is a test itself, of `make test`"
HOURS = "hours"
DATA = "the project's data"
DOCS = "bundle/docs/"

MAKE = "tests/docs/test_commands.py::test_commands_are_real"
DEPLOY = "tests/integrations/test_deploy.py::test_the_application_gives_the_bundles_own_results"
CONTAINER = "tests/integrations/test_deploy.py::test_so_it_does_as_in_a_container"
FLARE = "tests/integrations/test_flare.py::test_two_sites_train_and_the_servers_model_is_their_average"
LABEL = "tests/integrations/test_monai_label.py::test_the_label_is_the_bundles_own"
LABEL_TRAINS = "tests/integrations/test_monai_label.py::test_fine_tuning_starts_from_the_server"
LABEL_PACS = "tests/integrations/test_monai_label.py::test_the_label_of_a_series_in_the_pacs_is_the_bundles_own"
LABEL_STORES = "tests/integrations/test_monai_label.py::test_a_submitted_label_is_stored_in_the_study"
PACS = "tests/integrations/test_pacs.py::test_a_series_by_c_store_and_one_by_stow_are_analysed_and_results_come_back"
WHEEL = "tests/integrations/test_wheel.py::test_the_demo_runs_in_an_empty_folder"
HOOKS = "tests/docs/test_executed.py::test_hooks_are_tools_of_the_checkout"
HEADS = "tests/study/evaluation/test_heads_config.py"
TABLES = "tests/study/evaluation/test_configs.py"

ELSEWHERE = [
    Elsewhere("CONTRIBUTING.md", "make *", "it runs all tests, or rewrites the code", MAKE),
    Elsewhere("CONTRIBUTING.md", "*pre-commit*", ENVIRONMENT, HOOKS),
    Elsewhere("*", "pip install .", ENVIRONMENT, WHEEL),
    Elsewhere("README.md", "source *", ENVIRONMENT, WHEEL),
    Elsewhere("README.md", "make demo", "it installs; its commands are run by `phanes demo`", WHEEL),
    Elsewhere(DOCS + "usage.md", "phanes demo OUT", "two whole heads", WHEEL),
    Elsewhere(DOCS + "usage.md", "torchrun *", "two processes", "tests/common/test_processes.py"),
    Elsewhere(DOCS + "*", "*evaluate_heads.json*", HOURS, HEADS),
    Elsewhere(DOCS + "*", "*evaluate_synthetic.json*", HOURS, TABLES),
    Elsewhere(DOCS + "*", "*evaluate_lesions.json*", HOURS, TABLES),
    Elsewhere(DOCS + "evaluation.md", "*train_baselines*", HOURS, "tests/study/baselines/test_training.py"),
    Elsewhere(
        DOCS + "evaluation.md", "*baselines_page*", HOURS, "tests/study/evaluation/test_baselines_page.py"
    ),
    Elsewhere(DOCS + "alignment.md", "*registration_trials*", HOURS, "tests/space/test_registration.py"),
    Elsewhere(DOCS + "alignment.md", "*slice_trials*", DATA, "tests/study/test_slice_trials.py"),
    Elsewhere(DOCS + "alignment.md", "*guard_table*", DATA, "tests/study/test_guard_table.py"),
    Elsewhere(DOCS + "deploy.md", "*.venv-deploy*", ENVIRONMENT, DEPLOY),
    Elsewhere(DOCS + "deploy.md", "ulimit *", ENVIRONMENT, DEPLOY),
    Elsewhere(DOCS + "deploy.md", "unzip *", ENVIRONMENT, CONTAINER),
    Elsewhere(DOCS + "deploy.md", "make *", ENVIRONMENT, DEPLOY),
    Elsewhere(DOCS + "dicom.md", "for *", "a tool of Debian", "tests/dicom/test_output.py"),
    Elsewhere(DOCS + "dicom.md", "grep *", "a tool of Debian", "tests/dicom/test_output.py"),
    Elsewhere(DOCS + "*", "*python -m pytest *", ALL_TESTS, MAKE),
    Elsewhere(DOCS + "federated.md", "*", ENVIRONMENT, FLARE),
    Elsewhere(DOCS + "monai_label.md", "make *", SERVER, LABEL),
    Elsewhere(DOCS + "monai_label.md", "curl *infer/phanes?image=head*", SERVER, LABEL),
    Elsewhere(DOCS + "monai_label.md", "curl *datastore/image*", SERVER, LABEL),
    Elsewhere(DOCS + "monai_label.md", "curl *train/phanes*", SERVER, LABEL_TRAINS),
    Elsewhere(DOCS + "monai_label.md", "*label/runs/*", "weights that a server trained", LABEL_TRAINS),
    Elsewhere(DOCS + "monai_label.md", "curl *infer/phanes?image=1.2*", SERVER, LABEL_PACS),
    Elsewhere(DOCS + "monai_label.md", "curl *datastore/label*", SERVER, LABEL_STORES),
    Elsewhere(
        DOCS + "package.md", "*export*onnx*", "minutes",
        "tests/integrations/test_export.py::test_the_shipped_network_exported_equals_itself_on_real_heads",
    ),
    Elsewhere(DOCS + "package.md", "hf upload *", "an account of others", "tests/release/test_build.py"),
    Elsewhere(DOCS + "pacs.md", "*", SERVER, PACS),
    Elsewhere(
        DOCS + "performance.md", "*-m scripts benchmark --head *", HOURS, "tests/study/benchmark/test_benchmark.py"
    ),
    Elsewhere(DOCS + "performance.md", "*", "a GPU", "tests/training/test_devices.py"),
    Elsewhere(DOCS + "reliability.md", "make *", HOURS, MAKE),
    Elsewhere(DOCS + "reliability.md", "*--require-hashes*", ENVIRONMENT, "tests/release/test_sbom.py"),
    Elsewhere(
        DOCS + "training.md", "*--heads SLICES*", "it is run with heads",
        "tests/training/test_prepare.py::test_a_slice_is_stored_as_its_level",
    ),
    Elsewhere(
        DOCS + "training.md", "*--levels_mm*", "it is run with all levels",
        "tests/training/test_restoration.py::test_it_trains_on_what_prepare_wrote",
    ),
    Elsewhere(
        DOCS + "training.md", "*mid_axial.json*calibrate_heads.json*", "it is run with heads",
        "tests/training/test_calibration_heads.py::test_single_slices_alone_set_the_mask_of_a_network_of_one_level",
    ),
    Elsewhere(
        DOCS + "training.md", "torchrun *", "two processes",
        "tests/training/test_train_configs.py",
    ),
    Elsewhere(
        DOCS + "training.md", "*--size paper*", "minutes",
        "tests/integrations/test_paper.py::test_calibration_writes_a_whole_model_and_says_what_it_was_trained_with",
    ),
    Elsewhere(
        DOCS + "training.md", "*distill_perceptual.json*", "weights from elsewhere",
        "tests/training/test_distillation.py::test_bundle_trains_exports_and_reports",
    ),
]  # fmt: skip

# What makes a command quick: words that are put at its end. The first pattern that fits counts.
QUICKER = {
    "*train_restoration.json*": ["--steps", "2", "--device", "cpu"],
    "*train_linear.json*": [],
    "*train_inpainter.json*": ["--max_epochs", "1", "--device", "cpu"],
    "*'bundle/configs/calibrate.json'*": ["--device", "cpu"],
    "*train.json*": ["--max_epochs", "1", "--device", "cpu"],
    "*calibrate_heads.json*": ["--device", "cpu"],
    "*-m scripts gpu*": ["--steps", "2", "--device", "cpu"],
    "*-m scripts prepare*": ["--workers", "1"],
    "*-m scripts stages*": ["--limit", "1", "--shapes_dir", ""],
}


def elsewhere(command: Command) -> Elsewhere | None:
    """The entry that says why a command is not run as it stands."""
    line = " ".join(command.words)
    return next(
        (one for one in ELSEWHERE if fnmatchcase(command.page, one.page) and fnmatchcase(line, one.command)), None
    )


def to_run() -> list[Command]:
    """The commands that are run, page by page, README first; the same words once."""
    pages = sorted(
        (page for page in PAGES if "results" not in page.parts), key=lambda page: page != REPOSITORY / "README.md"
    )
    found: dict[tuple[str, ...], Command] = {}
    for page in pages:
        for command in commands(page):
            if elsewhere(command) is None:
                found.setdefault(tuple(command.words), command)
    return list(found.values())


def quicker(command: Command) -> list[str]:
    """The command's words with those that make it quick."""
    line = " ".join(command.words)
    return command.words + next((words for pattern, words in QUICKER.items() if fnmatchcase(line, pattern)), [])


def all_commands() -> list[Command]:
    """Every command of every page."""
    return [command for page in PAGES for command in commands(page)]
