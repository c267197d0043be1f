"""PHANES as a MONAI Deploy application: `python app.py -i DICOM_FOLDER -o OUTPUT [-m BUNDLE]`.

The SDK's DICOM loader feeds the series selector (the bundle's rules), and this the bundle's inference workflow, which
writes DICOM. BUNDLE is the folder of a packaged bundle; the default is the bundle of this file. Research use only.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any


def preload_cuda_runtime() -> None:
    """Load the package index's libcudart.so.13: Holoscan wants it even on a CPU."""
    try:
        libraries = [file for file in files("nvidia-cuda-runtime") or [] if file.name.startswith("libcudart.so.13")]
    except PackageNotFoundError:
        return
    for library in libraries:
        ctypes.CDLL(str(library.locate()), mode=ctypes.RTLD_GLOBAL)


preload_cuda_runtime()

from monai.deploy.conditions import CountCondition  # noqa: E402
from monai.deploy.core import Application  # noqa: E402
from monai.deploy.core.runtime_env import RuntimeEnv  # noqa: E402
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator  # noqa: E402

HERE = Path(__file__).resolve().parent


def bundle_folder(model: str | Path) -> Path:
    """The bundle's folder: MODEL, or a folder directly in it. Without a MODEL it is the one that this file belongs to.

    Raises:
        SystemExit: there is none.
    """
    folders = [Path(model), *sorted(Path(model).glob("*/"))]
    if not Path(model).exists() and str(model) == RuntimeEnv.ENV_DEFAULT["model"][1]:  # none was given
        folders = [HERE.parents[1], HERE.parents[1] / "bundle"]
    for folder in folders:
        if (folder / "configs" / "inference.json").is_file():
            return folder.resolve()
    raise SystemExit(f"Error: no bundle in '{model}': give the folder of a packaged bundle with -m.")


class PhanesApp(Application):
    """The graph of operators.

    Args:
        context: with the input and output folders.
        bundle: the bundle's folder.
    """

    def __init__(self, *args: Any, context: Any, bundle: Path, **kwargs: Any) -> None:
        self.context = context
        self.bundle = bundle
        super().__init__(*args, **kwargs)

    def compose(self) -> None:
        # `main` has put the bundle's package on the path.
        from scripts.deploy.bundle_operator import BundleOperator
        from scripts.deploy.series_selector_operator import RuleSeriesSelectorOperator

        loader = DICOMDataLoaderOperator(
            self, CountCondition(self, 1), input_folder=Path(self.context.input_path), must_load=True, name="loader"
        )
        selector = RuleSeriesSelectorOperator(
            self, rules=self.bundle / "configs" / "dicom_series.json", name="series_selector"
        )
        bundle = BundleOperator(
            self,
            bundle=self.bundle,
            output=Path(self.context.output_path),
            overrides=self.kwargs("bundle"),
            name="bundle",
        )
        self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, bundle, {("study_selected_series_list", "study_selected_series_list")})


def main() -> None:
    """Run the application. A user's mistake ends with one sentence and exit status 1."""
    logging.getLogger("highdicom").setLevel(logging.WARNING)
    context = Application.init_app_context(sys.argv)
    bundle = bundle_folder(context.model_path)
    sys.path.insert(0, str(bundle))
    app = PhanesApp(context=context, bundle=bundle)
    app.config(os.environ.get("HOLOSCAN_CONFIG_PATH", str(HERE / "app.yaml")))
    try:
        app.run()
    except Exception as error:
        logging.debug("traceback", exc_info=True)
        raise SystemExit(f"Error: {error}") from None


if __name__ == "__main__":
    main()
