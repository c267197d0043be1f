"""Reading one case of any accepted kind into a 3-D array with a RAS affine; MONAI image readers and their loader.

Every reader returns (X, Y, Z) with Z >= 1, so that one shape runs through the whole pipeline; the number of dimensions
on disk is remembered under `original_ndim`. Whatever a library raises leaves as `PhanesInputError`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.config import KeysCollection
from monai.data import ImageReader, MetaTensor, NibabelReader, PILReader
from monai.transforms import LoadImaged
from monai.utils import MetaKeys, SpaceKeys
from numpy.typing import NDArray
from PIL import Image

from ..common.errors import PhanesInputError
from ..common.metadata import add_warning
from ..dicom.headers import is_dicom_file
from ..dicom.read import SourceSeries, read_source
from .cases import ACCEPTED, SUFFIXES
from .limits import check_position, check_shape, check_size, read_gzip, zero_spacing


def _as_volume(array: NDArray, affine: NDArray, meta: dict, spacing_known: bool = True) -> tuple[NDArray, dict]:
    """Checked (X, Y, Z) array and the meta dictionary MONAI expects."""
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
    """`NibabelReader` for 2-D and 3-D files, with few header fields kept (those that tell where the image lies).

    The affine is the header's own: nothing is mended silently. Compressed files are read to their end, so that their
    checksum is verified; plain ones are not mapped into memory, where a file that shrinks would end the process.
    """

    def read(self, data: Any, **kwargs: Any) -> Any:
        path = data[0] if isinstance(data, (tuple, list)) else data
        image = nib.load(path, mmap=False)
        if not isinstance(image, nib.Nifti1Image):  # NIfTI-2 is one, too
            raise PhanesInputError("is no NIfTI volume; convert it")
        dtype = image.get_data_dtype()
        if dtype.fields is not None or dtype.kind not in "biuf":
            raise PhanesInputError("holds complex or colour values; give one real intensity a voxel")
        check_shape(image.shape)
        offset = int(getattr(image.dataobj, "offset", 0))
        check_size(path, math.prod(image.shape) * dtype.itemsize + offset)
        if not image.header["sform_code"] and zero_spacing(path):
            raise PhanesInputError("has a spacing of zero in its header; mend the header")
        if str(path).lower().endswith(".gz"):
            whole = read_gzip(path, math.prod(image.shape) * dtype.itemsize + offset)
            image = type(image).from_bytes(whole)
        return image

    def get_data(self, img: Any) -> tuple[NDArray, dict]:
        header = img.header
        meta: dict = {"sform_code": int(header["sform_code"]), "qform_code": int(header["qform_code"])}
        affine = np.array(img.affine, dtype=np.float64)
        if len(img.shape) == 2 and not np.any(affine[:3, 2]):  # a 2-D header may leave the third axis empty
            affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1])
            affine[:3, 2] /= np.linalg.norm(affine[:3, 2]) or 1.0
        return _as_volume(np.asanyarray(img.dataobj), affine, meta)


class PngSliceReader(PILReader):
    """One axial slice as an 8- or 16-bit grey PNG, anterior up, columns from patient left to right.

    A PNG has no position and no trustworthy spacing: its pixels count as 1 mm, and it is put where the training
    slices lie, its centre on the template's. No other format is tried, whatever the file holds.
    """

    def read(self, data: Any, **kwargs: Any) -> Image.Image:
        image = Image.open(data[0] if isinstance(data, (tuple, list)) else data, formats=["PNG"])
        check_shape(image.size)
        image.load()
        return image

    def get_data(self, img: Image.Image) -> tuple[NDArray, dict]:
        array = np.asarray(img)
        if img.mode in ("P", "1"):
            array = np.asarray(img.convert("L"))
        elif img.mode in ("LA", "RGB", "RGBA"):
            colours = np.asarray(img.convert("RGB"))
            if (colours != colours[..., :1]).any():
                raise PhanesInputError("is a colour picture; give a grey one")
            array = colours[..., 0]
        if array.ndim != 2:
            raise PhanesInputError(f"is a PNG of mode {img.mode}; give a grey one")
        height, width = array.shape
        affine = np.diag([1.0, -1.0, 1.0, 1.0])  # columns run to the right, rows to posterior
        affine[:3, 3] = [-(width - 1) / 2, (height - 1) / 2 - 18.0, 23.0]
        return _as_volume(np.ascontiguousarray(array.T[..., None]), affine, {}, spacing_known=False)


class DicomSeriesReader(ImageReader):
    """A folder that holds one series, or one file (multi-frame or a single slice); see `dicom.read.read_source`.

    Slices are sorted by position; rescale slope and MONOCHROME1 are applied. The array axes are (column, row, slice),
    as DICOM to NIfTI converters do.

    Args:
        files: the files of the series, where the path that is read holds others too.
    """

    def __init__(self, files: Sequence[str] | None = None) -> None:
        self.files = files

    def verify_suffix(self, filename: Any) -> bool:
        return True

    def read(self, data: Any, **kwargs: Any) -> SourceSeries:
        return read_source(self.files or (data[0] if isinstance(data, (tuple, list)) else data))

    def get_data(self, img: SourceSeries) -> tuple[NDArray, dict]:
        check_shape(img.geometry.spatial_shape)
        meta = {"format": "DICOM", "modality": str(img.images[0].get("Modality", "")), "warnings": img.note}
        return _as_volume(img.array(), img.affine, meta)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Nothing on the terminal or in a log about quirks of a header: libraries quote what stands there."""
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
    """What a library says of a broken file, on one line. Of DICOM only the kind of error: texts quote the header."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if path.is_dir() or is_dicom_file(path):
        return f"{type(error).__name__} in its DICOM data"
    text = " ".join(re.sub(rf"['\"]?{re.escape(str(path))}['\"]?", "it", str(error)).split())
    return text[:200] or type(error).__name__


class CaseLoadImaged(LoadImaged):
    """`LoadImaged` that picks the reader by the kind of file and says in one sentence why a file cannot be read.

    Its name contains "LoadImage" because hosts that load images themselves (MONAI Deploy) drop such transforms.
    NaN voxels become 0, with a warning kept in the image's meta data. Items of `data.find_cases` may bring
    `files`, which of a folder to read, and `note`, what is to be said of them; both are used up here.

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
                raise PhanesInputError(f"'{path}' does not fit into memory.") from error
            except Exception as error:  # libraries raise what they like on a broken file
                raise PhanesInputError(
                    f"'{path}' cannot be read ({_reason(error, path)}); replace the file."
                ) from error
        return d

    @staticmethod
    def _reader_for(path: Path, files: Sequence[str] | None = None) -> ImageReader:
        name = path.name.lower()
        if not path.exists():
            raise PhanesInputError("is a link that leads nowhere" if path.is_symlink() else "does not exist")
        if not path.is_file() and not path.is_dir():
            raise PhanesInputError("is no file but a pipe or a device; give a file")
        if path.is_dir() and name.endswith(SUFFIXES) and not files:
            raise PhanesInputError("is a folder in spite of its name, and holds no images; give a file")
        if path.is_file() and name.endswith(".png"):
            return PngSliceReader()
        if path.is_file() and name.endswith(SUFFIXES):
            return NiftiSliceReader()
        if path.is_dir() or is_dicom_file(path):
            return DicomSeriesReader(files)
        raise PhanesInputError(f"is of no accepted kind; give {ACCEPTED}")

    @staticmethod
    def _without_nan(image: MetaTensor) -> MetaTensor:
        if image.isinf().any() or image.isnan().all():
            raise PhanesInputError("holds infinite values or nothing but NaN; replace them with finite intensities")
        share = 100.0 * float(image.isnan().float().mean())
        add_warning(image, f"{share:.2g} % of the voxels are NaN and count as 0")
        image[image.isnan()] = 0.0
        return image
