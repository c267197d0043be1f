"""Registrations of the evaluated heads. Inference's own steps find each one once; all systems share it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, Orientationd
from numpy.typing import NDArray

from ...common.errors import PhanesInputError
from ...common.files import sha256_of_file, write_atomically
from ...common.fingerprint import code_checksum
from ...pipeline.readers import CaseLoadImaged
from ...space.alignment import AlignHeadd
from ...space.registration import register
from ...space.resampling import settled
from .store import PACKAGE

logger = logging.getLogger(__name__)


class HeadNotAnalysed(PhanesInputError):
    """Inference would refuse this head: its map counts as empty, the other heads go on."""


class Registrations:
    """A folder of registrations, by the checksums of the head's file and of the code that registers.

    Each says where the template lies in the head.

    A head that inference refuses gets the best registration all the same. It is scored over the template's brain in
    that place, with an empty map.

    Args:
        folder: made when needed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.code = code_checksum(PACKAGE, ["space"])[:16]  # another code may place a head elsewhere
        self.oriented = Compose(
            [
                CaseLoadImaged("image"),
                EnsureChannelFirstd("image"),
                Orientationd("image", axcodes="PRS", labels=None),
            ]
        )
        self.align = AlignHeadd("image")

    def __call__(self, image: Path) -> NDArray[np.float64]:
        """(4, 4), MNI world -> head world, mm."""
        return np.linalg.inv(np.array(self._record(image)["placing"], dtype=float))

    def refuse_failed(self, image: Path) -> None:
        """Raise when inference refuses to register the head.

        Raises:
            HeadNotAnalysed: with the sentence of the refusal.
        """
        if error := self._record(image)["error"]:
            raise HeadNotAnalysed(str(error))

    def placed(self, head: MetaTensor, image: Path) -> MetaTensor:
        """An oriented head (1, H, W, D) read from this file, with the meta data that `AlignHeadd` adds.

        Raises:
            HeadNotAnalysed: `AlignHeadd` refuses the head.
        """
        self.refuse_failed(image)
        record = self._record(image)
        meta = {**head.meta, **record["meta"], "placing": np.array(record["placing"], dtype=float)}
        return MetaTensor(head, meta=meta)

    def _record(self, image: Path) -> dict[str, Any]:
        kept = self.folder / f"{sha256_of_file(image)}-{self.code}.json"
        if kept.exists():
            return dict(json.loads(kept.read_text(encoding="utf-8")))
        head = self.oriented({"image": str(image)})["image"]
        error, meta = "", {}
        try:
            aligned = self.align({"image": head})["image"]
            placing = np.asarray(aligned.meta["placing"], dtype=float)
            meta = {
                key: aligned.meta[key]
                for key in ("alignment", "alignment_similarity", "warnings")
                if key in aligned.meta
            }
        except PhanesInputError as refusal:
            error = str(refusal)
            logger.warning("%s Its map counts as empty.", error)
            placing = np.linalg.inv(register(head.as_tensor()[0].numpy(), settled(head.affine.numpy())).matrix)
        record = {"placing": placing.tolist(), "error": error, "meta": meta}
        write_atomically(kept, lambda path: path.write_text(json.dumps(record), encoding="utf-8"), shared=True)
        return record
