"""MONAI image readers and their loader: one case of any accepted kind as a 3-D array with a RAS+ affine.

Every reader returns (X, Y, Z) with Z >= 1, so that one shape runs through the whole pipeline. `original_ndim` keeps the
number of dimensions on disk. Whatever a library raises becomes `PhanesInputError`.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import math
import re
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK
from monai.config import KeysCollection
from monai.data import ImageReader, MetaTensor, NibabelReader, PILReader
from monai.transforms import LoadImaged
from monai.utils import MetaKeys, SpaceKeys
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ..common.errors import PhanesInputError
from ..common.metadata import add_note, add_warning
from ..dicom.headers import is_dicom_file
from ..dicom.read import LPS_TO_RAS, SourceSeries, read_source, single_slice_mm
from .folders import ACCEPTED, SUFFIXES
from .limits import (
    check_position,
    check_shape,
    check_size,
    is_packed,
    is_sheared,
    plausible_spacing,
    read_gzip,
    straightened,
    zero_spacing,
)

MM = {"meter": 1000.0, "micron": 0.001}  # of a NIfTI header's other units
GREY_LEVELS = 16  # by which the channels of a grey pixel may differ
TINT = (0.7, 1.4)  # red and blue of a grey picture's tint, in units of green
CAPTION_SHARE = 0.05  # of coloured pixels, in a picture that is otherwise grey


def _as_volume(array: NDArray, affine: NDArray, meta: dict, spacing_known: bool = True) -> tuple[NDArray, dict]:
    """The checked (X, Y, Z) array, and the meta data that MONAI expects."""
    if np.iscomplexobj(array) or array.dtype.fields is not None:
        raise PhanesInputError("holds complex or colour values; give one real intensity a voxel")
    ndim = array.ndim
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim > 3:
        raise PhanesInputError(f"has {array.ndim} dimensions {array.shape}; give a single 3-D volume or a 2-D slice")
    if array.ndim < 2 or array.size == 0:
        raise PhanesInputError(f"has the shape {array.shape}; give a 3-D volume or a 2-D slice")
    array = array.reshape(*array.shape[:2], -1)
    check_position(affine, array.shape)
    if is_sheared(affine):
        array, affine = straightened(array, affine)
        add_note(meta, "its axes are not perpendicular, so it was resampled to a straight grid")
    meta.update(
        {
            MetaKeys.AFFINE: affine.copy(),
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(array.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
            "original_ndim": ndim,
            "spacing_known": spacing_known,
        }
    )
    return array, meta


class NiftiSliceReader(NibabelReader):
    """`NibabelReader` for 2-D and 3-D files: NIfTI (also as a pair), Analyze and MGH.

    Only header fields that tell where the image lies are kept. The affine is the header's own, in mm. The first bytes
    say whether a NIfTI file is compressed, whatever its name. It is read to its end, so that its checksum is verified.
    Nothing is mapped into memory: a file that shrinks would end the process.
    """

    def read(self, data: Any, **kwargs: Any) -> Any:
        path = Path(data[0] if isinstance(data, (tuple, list)) else data)
        if path.name.lower().endswith((".nii", ".nii.gz")):
            return self._single_file(path)
        image: Any = nib.load(path, mmap=False)
        voxels = Path(image.file_map["image"].filename)
        if not voxels.exists():
            raise PhanesInputError(f"has no '{voxels.name}' beside it; give both")
        _claimed_bytes(image.header, image.dataobj.offset, voxels)
        return image

    @staticmethod
    def _single_file(path: Path) -> Any:
        kind, header = nifti_header(path)
        if not header["sform_code"] and zero_spacing(header):
            raise PhanesInputError("has a spacing of zero in its header; mend the header")
        claimed = _claimed_bytes(header, header.get_data_offset(), path)
        return kind.from_bytes(read_gzip(path, claimed) if is_packed(path) else path.read_bytes())

    def get_data(self, img: Any) -> tuple[NDArray, dict]:
        header = img.header
        codes = {name: int(header[name]) if name in header else 0 for name in ("sform_code", "qform_code")}
        if "goodRASFlag" in header:  # MGH
            codes["sform_code"] = int(header["goodRASFlag"])
        affine = np.array(img.affine, dtype=np.float64)
        if len(img.shape) == 2 and not np.any(affine[:3, 2]):  # a 2-D header may leave the third axis empty
            affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1])
            affine[:3, 2] /= np.linalg.norm(affine[:3, 2]) or 1.0
        unit = header.get_xyzt_units()[0] if isinstance(header, nib.Nifti1Header) else "mm"
        scaled = np.diag([MM.get(unit, 1.0)] * 3 + [1.0]) @ affine
        meta: dict = dict(codes)
        if unit in MM and plausible_spacing(scaled):
            affine = scaled
        elif unit in MM:
            meta["warnings"] = f"its header says {unit}s, but only millimetres make a head: taken for millimetres"
        meta["thickness_known"] = len(img.shape) > 2
        return _as_volume(np.asanyarray(img.dataobj), affine, meta)


def nifti_header(path: Path) -> tuple[Any, Any]:
    """nibabel's class for a single NIfTI file, packed or not, and its header, unchecked.

    Raises:
        PhanesInputError: it is none. The path is left out.
        OSError, EOFError, zlib.error: it cannot be read.
    """
    with gzip.open(path) if is_packed(path) else path.open("rb") as file:
        start = file.read(nib.Nifti2Header.sizeof_hdr)
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        if kind.header_class.may_contain_header(start):
            return kind, kind.header_class(start[: kind.header_class.sizeof_hdr], check=False)
    raise PhanesInputError("cannot be read as NIfTI; replace or convert the file")


def _claimed_bytes(header: Any, offset: int, path: Path) -> int:
    """Uncompressed length of a file by its header. Refused if it is no head's, or more than the file holds."""
    dtype, shape = header.get_data_dtype(), header.get_data_shape()
    if dtype.fields is not None or dtype.kind not in "biuf":
        raise PhanesInputError("holds complex or colour values; give one real intensity a voxel")
    check_shape(shape)
    claimed = math.prod(shape) * dtype.itemsize + int(offset)
    check_size(path, claimed)
    return claimed


class ItkReader(ImageReader):
    """NRRD and MetaImage (one file each), by SimpleITK."""

    def verify_suffix(self, filename: Any) -> bool:
        return True

    def read(self, data: Any, **kwargs: Any) -> Any:
        path = Path(data[0] if isinstance(data, (tuple, list)) else data)
        SimpleITK.ProcessObject.GlobalWarningDisplayOff()
        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(str(path))
        try:
            reader.ReadImageInformation()
            check_shape(reader.GetSize())
            if reader.GetNumberOfComponents() > 1:
                raise PhanesInputError("holds several values a voxel; give one real intensity a voxel")
            return reader.Execute()
        except RuntimeError as error:  # its text is of SimpleITK's own source
            raise PhanesInputError(f"is no {path.suffix[1:].upper()} file, or a damaged one; convert it") from error

    def get_data(self, img: Any) -> tuple[NDArray, dict]:
        ndim = img.GetDimension()
        affine = np.eye(4)
        directions = np.array(img.GetDirection()).reshape(ndim, ndim)[:3, :3]
        affine[: len(directions), : len(directions)] = directions * np.array(img.GetSpacing())[:3]
        affine[: len(directions), 3] = np.array(img.GetOrigin())[:3]
        # A file of one of these kinds says where it lies as DICOM does.
        return _as_volume(SimpleITK.GetArrayFromImage(img).T, LPS_TO_RAS @ affine, {"sform_code": 1})


class PngSliceReader(PILReader):
    """One axial slice as an 8- or 16-bit grey PNG, anterior up, columns from patient left to right.

    A PNG has no position and no spacing to rely on. Its pixels count as 1 mm, and it is put where the training slices
    lie, with its centre on the template's. No other format is tried, whatever the file holds.
    """

    def read(self, data: Any, **kwargs: Any) -> Image.Image:
        image = Image.open(data[0] if isinstance(data, (tuple, list)) else data, formats=["PNG"])
        check_shape(image.size)
        image.load()
        return image

    def get_data(self, img: Image.Image) -> tuple[NDArray, dict]:
        meta: dict = {}
        if img.mode in ("L", "I", "I;16", "I;16B", "F"):
            array = np.asarray(img)
        else:
            colours = np.asarray(img.convert("RGBA")).astype(int)
            red, green, blue = np.moveaxis(colours[..., :3], -1, 0)
            # Of a tinted picture the channels are proportional.
            tints = [
                np.dot(c.ravel(), green.ravel()) / max(np.dot(green.ravel(), green.ravel()), 1) for c in (red, blue)
            ]
            off = [np.abs(c - np.clip(t, *TINT) * green) for c, t in zip((red, blue), tints, strict=True)]
            coloured = np.maximum(*off) > GREY_LEVELS
            array = np.rint(colours[..., :3].mean(axis=-1) * colours[..., 3] / 255).astype(np.uint8)
            if coloured.any():
                caption = ndimage.binary_dilation(coloured, iterations=2)  # the rim of a letter is nearly grey
                around = array[ndimage.binary_dilation(caption, iterations=3) & ~caption]
                bright = 0.2 * np.percentile(array, 99)
                if coloured.mean() > CAPTION_SHARE or (around.size and np.median(around) > bright):
                    raise PhanesInputError(
                        "is a colour picture, or one that was drawn on; give the grey axial T1w slice"
                    )
                array[caption] = 0
                meta["warnings"] = f"{int(coloured.sum())} coloured pixels (a caption?) count as background"
        height, width = array.shape
        affine = np.diag([1.0, -1.0, 1.0, 1.0])  # columns run to the right, rows to posterior
        affine[:3, 3] = [-(width - 1) / 2, (height - 1) / 2 - 18.0, 23.0]
        return _as_volume(np.ascontiguousarray(array.T[..., None]), affine, meta, spacing_known=False)


class DicomSeriesReader(ImageReader):
    """A folder that holds one series, or one file (multi-frame or a single slice); see `dicom.read.read_source`.

    Slices are sorted by position. Rescale slope and MONOCHROME1 are applied. The array's axes are (column, row, slice),
    as in DICOM to NIfTI converters.

    Args:
        files: the files of the series, when the path holds others, too.
    """

    def __init__(self, files: Sequence[str] | None = None) -> None:
        self.files = files

    def verify_suffix(self, filename: Any) -> bool:
        return True

    def read(self, data: Any, **kwargs: Any) -> SourceSeries:
        return read_source(self.files or (data[0] if isinstance(data, (tuple, list)) else data))

    def get_data(self, img: SourceSeries) -> tuple[NDArray, dict]:
        check_shape(img.shape)
        meta = {
            "format": "DICOM",
            "modality": str(img.images[0].get("Modality", "")),
            "thickness_known": len(img.frames) > 1 or single_slice_mm(img.frames[0]) is not None,
            "warnings": img.note,
        }
        array, affine = straightened(img.array(), img.affine) if img.stack.sheared else (img.array(), img.affine)
        return _as_volume(array, affine, meta)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep libraries from writing about a header to terminal and log: they quote what stands there."""
    silent = logging.CRITICAL + 1
    loud = {name: logging.getLogger(name).level for name in ("nibabel.global", "pydicom", "highdicom", "PIL")}
    loud = {name: level for name, level in loud.items() if level != silent}
    for name in loud:
        logging.getLogger(name).setLevel(silent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in loud.items():
            logging.getLogger(name).setLevel(level)


def _reason(error: BaseException, path: Path) -> str:
    """What a library says of a broken file, on one line. For DICOM nothing is quoted: the texts hold the header's."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if path.is_dir() or is_dicom_file(path):
        return "its DICOM data are damaged"
    text = " ".join(re.sub(rf"['\"]?{re.escape(str(path))}['\"]?", "it", str(error)).split())
    return text[:200] or type(error).__name__


class CaseLoadImaged(LoadImaged):
    """`LoadImaged`, but the kind of file decides the reader, and one sentence says why a file cannot be read.

    Its name contains "LoadImage", because hosts that load images themselves (MONAI Deploy) drop such transforms. NaN
    voxels become 0, with a warning in the meta data. Items of `find_cases` may bring `files`, which files of a folder
    to read, and `note`, what to say of them. Both are removed here.

    Args:
        keys: keys of the paths.
        allow_missing_keys: do not raise when a key is missing.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        # LoadImage sets up every reader MONAI knows, and one of them warns that its GPU decoder is missing.
        decoder_log = logging.getLogger("monai.data.nvimgcodec_pydicom_plugin")
        level = decoder_log.level
        decoder_log.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().__init__(keys, dtype=np.float32, allow_missing_keys=allow_missing_keys)
        decoder_log.setLevel(level)

    def __call__(self, data: Mapping[Hashable, Any], reader: ImageReader | None = None) -> dict[Hashable, Any]:
        d = dict(data)
        files, note = d.pop("files", None), d.pop("note", "")
        for key in self.key_iterator(d):
            path = Path(d[key])
            try:
                with quiet_libraries():
                    image = self._loader(str(path), reader or self._reader_for(path, files))
                if not self._loader.image_only:  # MONAI Label asks for the meta data as a dictionary of its own
                    image, d[f"{key}_meta_dict"] = image
                image = image if image.isfinite().all() else self._without_nan(image)
                add_warning(image, note)
                d[key] = image
            except PhanesInputError as error:
                raise PhanesInputError(f"'{path}' {error}.") from error
            except MemoryError as error:
                raise PhanesInputError(f"'{path}' does not fit into memory: downsample it.") from error
            except Exception as error:  # libraries raise what they like on a broken file
                raise PhanesInputError(
                    f"'{path}' cannot be read ({_reason(error, path)}); replace the file."
                ) from error
        return d

    @staticmethod
    def _reader_for(path: Path, files: Sequence[str] | None = None) -> ImageReader:
        name = path.name.lower()
        if not path.exists():
            raise PhanesInputError(
                "is a link that leads nowhere; give the file"
                if path.is_symlink()
                else "does not exist; correct the path"
            )
        if not path.is_file() and not path.is_dir():
            raise PhanesInputError("is no file but a pipe or a device; give a file")
        if path.is_dir() and name.endswith(SUFFIXES) and not files:
            raise PhanesInputError("is a folder with the name of a file, and holds no images; give a file")
        if path.is_file() and name.endswith(".png"):
            return PngSliceReader()
        if path.is_file() and name.endswith((".nrrd", ".mha")):
            return ItkReader()
        if path.is_file() and name.endswith(SUFFIXES):
            return NiftiSliceReader()
        if path.is_dir() or is_dicom_file(path):
            return DicomSeriesReader(files)
        raise PhanesInputError(f"is of no kind that can be read; give {ACCEPTED}")

    @staticmethod
    def _without_nan(image: MetaTensor) -> MetaTensor:
        if image.isinf().any() or image.isnan().all():
            raise PhanesInputError("holds infinite values or nothing but NaN; replace them with finite intensities")
        share = 100.0 * float(image.isnan().float().mean())
        add_warning(image, f"{share:.2g} % of the voxels are NaN and count as 0")
        image[image.isnan()] = 0.0
        return image
