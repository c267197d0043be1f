"""Tell the user where a strong bias field was taken out of a slice."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import Transform

from ..common.metadata import add_warning, slices_at_level
from ..method.bias_field import fit_log_bias_field


class WarnOfBiasField(Transform):
    """Warn when the slice nearest to the trained level had a strong bias field, which `Phanes.correct_bias` took out.

    Runs after `SplitMapsd`, on the network's grid, (1, H, W, D) each. The coarse reconstruction is then that of the
    corrected slice, so that the field stands between it and the input.

    Args:
        calibration: the record; without `bias_threshold` nothing is said.
        passes: `Phanes`' `bias_passes`; 0: nothing was taken out, nothing is said.
        degree: see `fit_log_bias_field`, as in the network.
        tissue: see there.
        tolerance: see there.
        ref_key: key of the preprocessed input.
    """

    def __init__(
        self,
        calibration: Mapping[str, Any],
        passes: int,
        degree: int,
        tissue: float,
        tolerance: float,
        ref_key: str = "image",
    ) -> None:
        self.threshold = calibration.get("bias_threshold") if passes > 0 else None
        self.degree = degree
        self.tissue = tissue
        self.tolerance = tolerance
        self.ref_key = ref_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        if self.threshold is None:
            return d
        seen, coarse = slices_at_level(d, (self.ref_key, "coarse"), self.ref_key)
        strength = float(fit_log_bias_field(seen, coarse, self.degree, self.tissue, self.tolerance)[1])
        if strength > self.threshold:
            share = 100.0 * math.expm1(strength)
            add_warning(
                d[self.ref_key], f"strong bias field (standard deviation {share:.0f} % of the brightness), taken out"
            )
        return d
