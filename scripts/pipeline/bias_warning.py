"""Tell the user where a strong bias field was taken out of a slice."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import Transform

from ..common.metadata import add_warning, slices_at_level
from ..method.bias_field import BiasField


class WarnOfBiasField(Transform):
    """Warn when the slice nearest to the trained level had a strong bias field, which the network took out.

    Runs after `SplitMapsd`, on the network's grid, (1, H, W, D) each. The coarse reconstruction is then that of the
    corrected slice, so that the field stands between it and the input.

    Args:
        calibration: the record; without `bias_threshold` nothing is said.
        bias_field: the network's; None: nothing was taken out, nothing is said.
        ref_key: key of the preprocessed input.
    """

    def __init__(
        self,
        calibration: Mapping[str, Any],
        bias_field: BiasField | None,
        ref_key: str = "image",
    ) -> None:
        self.threshold = calibration.get("bias_threshold")
        self.bias_field = bias_field
        self.ref_key = ref_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        if self.threshold is None or self.bias_field is None:
            return d
        seen, coarse = slices_at_level(d, (self.ref_key, "coarse"), self.ref_key)
        strength = float(self.bias_field(seen, coarse)[1])
        if strength > self.threshold:
            share = 100.0 * math.expm1(strength)
            add_warning(
                d[self.ref_key], f"strong bias field (standard deviation {share:.0f} % of the brightness), taken out"
            )
        return d
