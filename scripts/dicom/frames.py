"""The images of a series one by one, files or frames of an enhanced object, and one of them for each position."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ..common.errors import PhanesInputError
from .geometry import Plane, places
from .headers import header_number, header_values

NEEDED = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
# What tells the images of one position apart, and the order in which it is tried: the first value is taken, in the
# order of numbers; of kinds of image, the first that is no phase, part of a complex value, inversion or fat image.
TELLS_APART = (
    ("ImageType", "FrameType", "ComplexImageComponent"),
    ("EchoTime", "EffectiveEchoTime", "EchoNumbers"),
    ("InversionTime", "InversionTimes"),
    ("ContrastBolusAgent",),
    ("TemporalPositionIdentifier", "TemporalPositionIndex"),
    ("AcquisitionNumber", "FrameAcquisitionNumber"),
    ("AcquisitionTime", "AcquisitionDateTime", "FrameAcquisitionDateTime"),
    ("StackID", "TriggerTime", "SeriesTime"),
)
NO_MAGNITUDE = re.compile(
    r"(^|\\)(P|PHASE|I|IMAGINARY|R|REAL|FAT|F|OP|OPP_PHASE|OUT_PHASE|ADC|FA|VELOCITY|\w+ MAP)(\\|$)"
)
BACKSLASH = "\\"  # between values, in DICOM
PADDING = ("PixelPaddingValue", "PixelPaddingRangeLimit")
REACH = 0.8  # share of the positions that a group of images must cover: an acquisition may lack a few, or be cut off
STRAYS = 0.1  # share of images of another size or orientation that make no other series
FEW = 3  # images at fewer positions are no volume but a time series


@dataclass(frozen=True)
class Frame:
    """One image: a file, or the frame `number` (from 0) of an enhanced object."""

    image: Dataset
    number: int | None
    plane: Plane

    def text(self, keywords: Sequence[str]) -> str:
        """Values of some attributes, as DICOM joins them."""
        return "\\".join(str(v) for name in keywords for v in header_values(self.image, name, self.number or 0))

    def stored(self) -> NDArray:
        """(rows, columns) as stored."""
        pixels = self.image.pixel_array
        return pixels if pixels.ndim == 2 else pixels[self.number]

    def values(self) -> NDArray[np.float32]:
        """(rows, columns) in real units: by the real world value map, whatever its range, otherwise as rescaled."""
        slope, intercept = 1.0, 0.0
        for kind in ("Rescale", "RealWorldValue"):
            found = [self._number(f"{kind}{name}") for name in ("Slope", "Intercept")]
            if found[0]:
                slope, intercept = found[0], found[1] or 0.0
        return (self.stored() * slope + intercept).astype(np.float32)

    def padding(self) -> NDArray[np.bool_]:
        """(rows, columns), True for what the header calls padding."""
        stored = self.stored()
        ends = [v for name in PADDING if (v := self._number(name)) is not None]
        if not ends:
            return np.zeros(stored.shape, bool)
        # A signed value may have been written as an unsigned one.
        ends = [v - 2**16 if stored.dtype.kind == "i" and v >= 2**15 else v for v in ends]
        return (stored >= min(ends)) & (stored <= max(ends))

    def _number(self, keyword: str) -> float | None:
        values = header_values(self.image, keyword, self.number or 0)
        for item in self.image.get("RealWorldValueMappingSequence") or []:
            values += header_values(item, keyword)
        try:
            return float(values[0])
        except (IndexError, TypeError, ValueError):
            return None


def frames_of(images: Sequence[Dataset]) -> list[Frame]:
    """All images.

    Raises:
        PhanesInputError: the place of one is not known. The path is left out.
    """
    frames = []
    for image in images:
        count = header_number(image, "NumberOfFrames") or 1
        described = len(image.get("PerFrameFunctionalGroupsSequence") or [])
        if count > max(described, 1):  # before a billion of them is looked for
            raise PhanesInputError(
                f"claims {count} frames but gives the place of {max(described, 1)} only; give the original images"
            )
        for number in range(count):
            found = {name: np.asarray(header_values(image, name, number), dtype=float) for name in NEEDED}
            if missing := [name for name, values in found.items() if not values.size]:
                raise PhanesInputError(
                    f"lacks {missing[0]}: its slices have no known place in the patient; give the original images"
                )
            row, column = found["PixelSpacing"][:2]
            shape = (int(found["Rows"][0]), int(found["Columns"][0]))
            plane = Plane(found["ImagePositionPatient"], found["ImageOrientationPatient"], (row, column), shape)
            frames.append(Frame(image, number if described else None, plane))
    return frames


def without_strays(frames: Sequence[Frame]) -> tuple[list[Frame], list[str]]:
    """The frames without a few of another size or orientation, such as a scout. Also returns a note that says so."""
    usual = np.median([_grid(frame.plane) for frame in frames], axis=0)
    kept = [frame for frame in frames if np.allclose(_grid(frame.plane), usual, atol=0.01)]
    if STRAYS * len(frames) < len(frames) - len(kept) or len(kept) == len(frames):
        return list(frames), []
    return kept, [f"{len(frames) - len(kept)} images of another size or orientation were left out"]


def _grid(plane: Plane) -> NDArray:
    return np.array([*plane.orientation, *plane.spacing, *plane.shape])


def one_a_position(frames: Sequence[Frame], pixels: bool = True) -> tuple[list[Frame], list[str]]:
    """The T1w magnitude images of the first acquisition, where a series holds several images a position.

    Args:
        frames: parallel ones.
        pixels: False does not compare pixels: frames that no attribute tells apart count as copies.

    Returns:
        One frame a position, and notes that say what was taken.

    Raises:
        PhanesInputError: the headers do not tell the images of a position apart. The path is left out.
    """
    frames, notes = list(frames), list[str]()
    for keywords in TELLS_APART:
        where = places([frame.plane for frame in frames])
        positions = int(where.max()) + 1
        if positions == len(frames):
            return frames, notes
        groups: dict[str, list[int]] = defaultdict(list)
        for i, frame in enumerate(frames):
            groups[frame.text(keywords)].append(i)
        reaching = [text for text, members in groups.items() if len({*where[members]}) >= REACH * positions]
        if reaching and len(groups) > 1:
            taken = min(reaching, key=first_of)
            notes.append(
                f"holds {len(frames)} images at {positions} slice positions: those of "
                f"{keywords[0]} '{BACKSLASH.join(dict.fromkeys(taken.split(BACKSLASH)))}' were taken"
            )
            frames = [frames[i] for i in groups[taken]]
    return _without_copies(frames, pixels, notes)


def first_of(text: str) -> tuple[bool, float, str]:
    """Sorting key for kinds of image, numbers and times: what is taken comes first."""
    try:
        return False, float(text.split(BACKSLASH)[0] or 0), text
    except ValueError:
        return bool(NO_MAGNITUDE.search(text)), 0.0, text


def _without_copies(frames: list[Frame], pixels: bool, notes: list[str]) -> tuple[list[Frame], list[str]]:
    """Leave out copies (equal position and pixels), then all but the first image of each position."""
    at: dict[int, list[Frame]] = defaultdict(list)
    for frame, place in zip(frames, places([frame.plane for frame in frames]), strict=True):
        at[int(place)].append(frame)
    first = [min(group, key=lambda f: (int(f.text(["InstanceNumber"]) or 0), f.number or 0)) for group in at.values()]
    if pixels and not all(np.array_equal(f.stored(), group[0].stored()) for group in at.values() for f in group[1:]):
        if len({len(group) for group in at.values()}) > 1 or len(at) < FEW:
            raise PhanesInputError(
                f"holds {len(frames)} images at {len(at)} slice positions (echoes, time points or repeated slices), "
                "and its headers do not tell them apart; give one image a position"
            )
        notes.append(
            f"holds {len(frames)} images at {len(at)} slice positions, which its headers do not tell apart: "
            "the first by number were taken"
        )
    elif len(first) < len(frames):
        notes.append(f"{len(frames) - len(first)} repeated slices were left out")
    return first, notes
