"""One head in all 48 storage orders: the anomaly map must lie at the same place of the head, with the same values."""

from __future__ import annotations

import tempfile
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from tqdm import tqdm

from ..registration_trials import block_means
from .one_case import OneCase

LIMIT = 0.01  # of the map's maximum


def orientations(head: str, voxel_mm: float = 0.0, slab_mm: float = 10.0, bundle_root: str = "bundle") -> None:
    """Analyse a head in all 48 axis orders and directions, and print how much the anomaly map changes.

    Args:
        head: a NIfTI volume.
        voxel_mm: average it to voxels of at most this size first; faster. 0 leaves it as it is.
        slab_mm: thickness of the slab that is analysed.
        bundle_root: the bundle's folder.
    """
    image: Any = nib.as_closest_canonical(nib.load(head))
    volume, affine = block_means(np.asarray(image.dataobj, dtype=np.float32), image.affine, voxel_mm)
    analyse = OneCase(bundle_root, slab_mm=slab_mm)
    reference, changes = None, []
    turns = list(product(permutations(range(3)), product((1, -1), repeat=3)))
    with tempfile.TemporaryDirectory() as folder:
        for order, flips in tqdm(turns, desc="storage orders"):
            orientation = np.array(list(zip(order, flips, strict=True)), dtype=float)
            stored = affine @ inv_ornt_aff(orientation, volume.shape)
            path = Path(folder) / "head.nii"
            nib.save(nib.Nifti1Image(apply_orientation(volume, orientation), stored), path)
            found, _ = analyse(path)
            back = ornt_transform(io_orientation(stored), io_orientation(affine))
            anomaly = apply_orientation(found["anomaly"][0].numpy(), back)
            reference = anomaly if reference is None else reference
            changes.append(float(np.abs(anomaly - reference).max() / max(float(reference.max()), 1e-9)))
    within = sum(change < LIMIT for change in changes)
    print(
        f"{within} of {len(changes)} storage orders change the anomaly map of {Path(head).name} by less than "
        f"{100 * LIMIT:g} % of its maximum; largest change {100 * max(changes):.2g} %."
    )
