"""Agreement of two distance maps is scipy's correlation, per image and pooled."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from scripts.method.networks.perceptual import SpatialLPIPS
from scripts.training.agreement import (
    AgreementHandler,
    agreement,
    fixed_pairs,
    mean_agreement,
    pearson,
    report,
    spearman,
)
from scripts.training.principal_components import PrincipalComponents


@pytest.fixture
def maps():
    rng = np.random.default_rng(0)
    a = rng.random((3, 500)).round(2)  # rounded: ties
    a[:, :100] = 0  # many ties
    return a, (a + rng.random(a.shape)).round(1)


def test_coefficients_of_rows_are_those_of_one_row_at_a_time_with_ties(maps):
    a, b = maps
    np.testing.assert_allclose(pearson(a, b), [np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)])
    np.testing.assert_allclose(spearman(a, b), [stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)])


def test_table_holds_means_over_images_and_pooled_coefficients(maps):
    a, b = maps
    row = agreement({"kind": torch.from_numpy(a)}, {"kind": torch.from_numpy(b)})["kind"]
    assert row["pearson"] == pytest.approx(pearson(a, b).mean())
    assert row["spearman_pooled"] == pytest.approx(stats.spearmanr(a.flatten(), b.flatten()).statistic)
    assert mean_agreement({"kind": row}) == pytest.approx((row["pearson"] + row["spearman"]) / 2)


def test_fixed_pairs_are_the_same_every_time_and_leave_the_random_state_alone():
    slices = torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    components = PrincipalComponents(slices)
    state = torch.random.get_rng_state()
    pairs, again = fixed_pairs(slices, components), fixed_pairs(slices, components)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert set(pairs) == {f"{k}{e}" for k in ("pca32", "pca64", "blurred", "painted") for e in ("", "_eq")}
    for kind, (a, b) in pairs.items():
        assert torch.equal(a, again[kind][0])
        assert torch.equal(b, again[kind][1])


def test_handler_keeps_the_weights_that_agree_best(tmp_path):
    torch.manual_seed(0)
    teacher, student = (SpatialLPIPS(stem=4, fires=[[2, 4]] * 8) for _ in range(2))
    slices = torch.rand(2, 1, 64, 64)
    handler = AgreementHandler(
        student, teacher, {"noise": (slices, torch.rand_like(slices))}, str(tmp_path / "best.pt")
    )
    engine = SimpleNamespace(state=SimpleNamespace(epoch=1, metrics={}))
    handler(engine)
    poor = engine.state.metrics["agreement"]
    student.load_state_dict(teacher.state_dict())
    handler(engine)
    assert engine.state.metrics["agreement"] == pytest.approx(1.0)
    assert engine.state.metrics["pearson_noise"] == pytest.approx(1.0)
    torch.nn.init.normal_(student.trunk.features[0].weight)
    handler(engine)  # worse again
    assert poor < engine.state.metrics["agreement"] < 1
    kept = torch.load(tmp_path / "best.pt", weights_only=True)
    torch.testing.assert_close(kept, {name: value.half() for name, value in teacher.state_dict().items()})
    resumed = AgreementHandler(student, teacher, handler.pairs, str(tmp_path / "best.pt"))
    resumed.load_state_dict(handler.state_dict())
    resumed(engine)
    torch.testing.assert_close(torch.load(tmp_path / "best.pt", weights_only=True), kept)


def test_report_states_the_agreement_and_where_it_comes_from(tmp_path):
    torch.manual_seed(0)
    model = SpatialLPIPS(stem=4, fires=[[2, 4]] * 8)
    slices = torch.rand(2, 1, 64, 64)
    path = tmp_path / "docs" / "agreement.json"
    report(
        model, model, {"noise": (slices, torch.rand_like(slices))}, str(path), {"command": "make it", "split": "val"}
    )
    content = json.loads(path.read_text())
    assert content["command"] == "make it"
    assert content["images"] == 2
    assert content["parameters"] == sum(p.numel() for p in model.parameters())
    assert content["mean"] == pytest.approx(1.0)  # a model agrees with itself
