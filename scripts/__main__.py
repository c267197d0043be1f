"""`python -m scripts VERB`: what is not a bundle workflow. `python -m scripts --help` lists the verbs."""

from __future__ import annotations

import sys

import fire

from .common.errors import PhanesInputError
from .pacs.command import watch
from .release.build import package
from .release.demo import print_demo_summary, write_demo_input
from .release.export import export
from .reporting.curves import plot_curves
from .study.baselines.train_all import train_baselines
from .study.benchmark.run import benchmark
from .study.evaluation.baselines_page import baselines_page
from .study.evaluation.gallery import draw_figures
from .study.evaluation.sensitivity import sensitivity
from .study.evaluation.stages import stages
from .study.guard_table import guard_table
from .study.registration_trials import registration_trials
from .study.slice_trials import slice_trials
from .training.gpu import pack, train_on_gpu
from .training.prepare import prepare
from .training.weights import join_weights, mean_weights


class Commands:
    """The tools of PHANES. To analyse scans, use the command `phanes`; to train, `python -m monai.bundle run train`."""

    # A function that already reads well in `--help` is a verb as it is.
    baselines_page = staticmethod(baselines_page)
    benchmark = staticmethod(benchmark)
    figures = staticmethod(draw_figures)
    gpu = staticmethod(train_on_gpu)
    guard_table = staticmethod(guard_table)
    join_weights = staticmethod(join_weights)
    mean_weights = staticmethod(mean_weights)
    pack_heads = staticmethod(pack)
    package = staticmethod(package)
    prepare = staticmethod(prepare)
    registration_trials = staticmethod(registration_trials)
    sensitivity = staticmethod(sensitivity)
    slice_trials = staticmethod(slice_trials)
    stages = staticmethod(stages)
    train_baselines = staticmethod(train_baselines)
    watch = staticmethod(watch)

    def demo_input(self, out: str = "demo") -> None:
        """Write the demo's input: the MNI152 template head, healthy and with a painted stroke-like lesion.

        Args:
            out: folder; the two heads go to OUT/input, the true lesion to OUT/stroke_truth.nii.gz.
        """
        for path in write_demo_input(out).values():
            print(path)

    def demo_summary(self, out: str = "demo") -> None:
        """Print the demo's scores and the paths of its report and picture.

        Args:
            out: the folder given to demo_input; the results are in OUT/results.
        """
        print_demo_summary(out)

    def export(
        self,
        format: str = "torch_export",
        out: str = ".",
        bundle_root: str = "bundle",
        weights_file: str = "",
        method: str = "both",
    ) -> None:
        """Write the whole method as one file that runs without this package (PyTorch export or ONNX).

        Args:
            format: torch_export, onnx, or both, separated by a comma.
            out: folder; the files are called phanes.pt2 and phanes.onnx.
            bundle_root: the bundle's folder.
            weights_file: other weights than the bundle's own.
            method: the network, restoration or linear.
        """
        for path in export(format, out, bundle_root, weights_file or None, method=method):
            print(path)

    def training_curves(self, *runs: str, out: str = "training_curves.png") -> None:
        """Draw the curves of trainings as one picture.

        Args:
            runs: output folders of trainings, such as runs/autoencoder_compact.
            out: the PNG to write.
        """
        print(plot_curves(runs, out))


def main() -> None:
    """Run a verb; a user's mistake ends in one sentence and exit status 1."""
    try:
        fire.Fire(Commands(), name="python -m scripts")
    except PhanesInputError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
