"""Training curves as a picture, from the TensorBoard files of the runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ..common.errors import PhanesInputError

Curve = tuple[list[int], list[float]]


def read_curves(folder: str | Path) -> dict[str, Curve]:
    """All scalars below a run's folder: tag -> (steps, values). Files of resumed runs are joined.

    Raises:
        PhanesInputError: there is no TensorBoard file.
    """
    files = sorted(Path(folder).glob("events.out.tfevents.*"))
    if not files:
        raise PhanesInputError(f"'{folder}' holds no TensorBoard files: give the output_dir of a training.")
    joined: dict[str, dict[int, float]] = {}
    for file in files:
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            joined.setdefault(tag, {}).update({event.step: event.value for event in events.Scalars(tag)})
    return {tag: (sorted(values), [values[step] for step in sorted(values)]) for tag, values in joined.items()}


def plot_curves(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write a PNG with one row a run and one panel a scalar."""
    runs = {Path(folder).name: read_curves(folder) for folder in folders}
    columns = max(len(curves) for curves in runs.values())
    figure = Figure(figsize=(2.4 * columns, 2.2 * len(runs)), layout="constrained")
    axes = figure.subplots(len(runs), columns, squeeze=False)
    for row, (name, curves) in zip(axes, runs.items(), strict=True):
        for axis, (tag, (steps, values)) in zip(row, sorted(curves.items()), strict=False):
            axis.plot(steps, values, marker="." if len(steps) < 20 else "", linewidth=1)
            axis.set_title(f"{name}\n{tag}", fontsize=7)
            axis.tick_params(labelsize=6)
            axis.set_xlabel("epoch" if tag.startswith("val") else "step", fontsize=6)
        for axis in row[len(curves) :]:
            axis.set_axis_off()
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
