"""The wrong images of the guard's table are what their names say."""

from __future__ import annotations

import numpy as np

from scripts.study.evaluation.wrong_images import CHANGED, COLUMNS, INVENTED, ROWS, unit, wrong_images
from tests.conftest import head_slice


def test_every_kind_has_its_images_on_the_training_grid_and_at_least_eight_kinds_there_are() -> None:
    made = wrong_images([head_slice(0), head_slice(1)])
    assert set(made) == {*CHANGED, *INVENTED}
    assert len(made) >= 8
    for kind, images in made.items():
        assert [image.shape for image in images] == [(ROWS, COLUMNS)] * 2, kind
        assert min(image.min() for image in images) >= 0, kind
        assert not np.array_equal(images[0], images[1]), kind


def test_contrasts_are_turned_round() -> None:
    head = head_slice(0)
    u = unit(head)
    ventricle, brain = (u > 0.15) & (u < 0.3), (u > 0.7) & (u < 0.8)
    t2 = CHANGED["T2-like contrast"](head)
    assert t2[ventricle].mean() > 1.3 * t2[brain].mean()
    np.testing.assert_array_equal(CHANGED["upside down"](head)[0], head[-1])
    np.testing.assert_allclose(CHANGED["inverted intensities"](head), 1 - u)
