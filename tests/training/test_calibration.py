"""Thresholds against numpy, and the promises of the shipped files."""

import json

import numpy as np
import pytest
import torch

from scripts.common.errors import PhanesInputError
from scripts.common.files import sha256_of_file
from scripts.method.mask_rule import CalibratedMask
from scripts.method.networks.aot_gan import AOTGenerator
from scripts.method.networks.perceptual import SpatialLPIPS
from scripts.method.networks.soft_intro_vae import SoftIntroVAE
from scripts.method.phanes import Phanes
from scripts.training.calibration import (
    calibrate,
    false_positive_interval,
    storable,
    threshold_at,
)
from scripts.training.parts import load_part, load_perceptual, load_trained
from tests.method.composed import composed


def small() -> Phanes:
    torch.manual_seed(0)
    return composed(
        SoftIntroVAE(channels=(4, 8), latent_dim=4),
        AOTGenerator((4, 8, 8), blocks=1),
        mask=CalibratedMask(percentile=97),
    ).eval()


@pytest.fixture
def batches() -> list[dict[str, torch.Tensor]]:
    coarse = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    images = torch.nn.functional.interpolate(coarse, size=(128, 128), mode="bilinear")
    return [{"image": images[:4]}, {"image": images[4:]}]


@pytest.fixture
def brain() -> torch.Tensor:
    region = torch.zeros(128, 128, dtype=torch.bool)
    region[30:90, 40:100] = True
    return region


def test_thresholds_are_numpys_quantiles_over_all_pixels_or_a_region(brain):
    maps = torch.rand(5, 1, 128, 128)
    assert threshold_at(maps, 0.99) == pytest.approx(np.quantile(maps.numpy(), 0.99))
    inside = maps.numpy()[:, 0][:, brain.numpy()]
    assert threshold_at(maps, 0.9, brain) == pytest.approx(np.quantile(inside, 0.9))


def test_a_threshold_of_maps_without_their_own_thresholds_is_refused():
    with pytest.raises(PhanesInputError, match="The maps of healthy images hold NaN"):
        threshold_at(torch.full((1, 1, 4, 4), float("nan")), 0.99)


def test_the_interval_is_that_of_the_mean():
    shares = np.random.default_rng(0).normal(0.01, 0.002, 400)
    low, high = false_positive_interval(shares, 4000, seed=1)
    half_width = 1.96 * shares.std() / np.sqrt(400)  # normal approximation, good for 400 subjects
    assert (low, high) == pytest.approx((shares.mean() - half_width, shares.mean() + half_width), abs=4e-5)


def test_calibration_keeps_its_promises_on_the_healthy_slices(tmp_path, batches, brain):
    weights, record_file = tmp_path / "models/model.pt", tmp_path / "models/calibration.json"
    record = calibrate(small(), batches, torch.device("cpu"), str(tmp_path / "models"), 0.97, brain=brain)
    assert json.loads(record_file.read_text()) == json.loads(json.dumps(record))
    assert record["weights_sha256"] == sha256_of_file(weights)
    assert record["healthy_scans"] == 6

    shipped = small()
    with torch.no_grad():
        for parameter in shipped.parameters():
            parameter.zero_()
    shipped.load_state_dict(torch.load(weights, weights_only=True))
    images = torch.cat([b["image"] for b in batches])
    with torch.no_grad():
        coarse_map, anomaly = shipped.coarse(images)[1], shipped(images)[:, 0]
    assert (coarse_map > record["mask_threshold"]).float().mean() == pytest.approx(0.03, abs=1e-4)
    assert float(shipped.mask.threshold) == pytest.approx(record["mask_threshold"])
    above = (anomaly > record["label_threshold"]).float()
    assert above[:, brain].mean().item() == pytest.approx(record["false_positive_rate"], abs=1e-6)
    assert above[:, brain].mean() <= 0.03 + 1e-4
    pixel = 233 / 128
    expected = above.sum(dim=(1, 2)).mean().item() * pixel * pixel
    assert record["expected_false_positive_volume_mm3_per_slice"] == pytest.approx(expected, rel=1e-5)
    assert record["healthy_scores"] == pytest.approx(sorted(anomaly.mean(dim=(1, 2)).tolist()), rel=1e-4)
    low, high = record["false_positive_rate_interval_95"]
    assert low <= record["false_positive_rate"] <= high


def test_stored_weights_are_cpu_tensors_in_half_precision():
    state = storable(small())
    assert all(not v.is_cuda for v in state.values())
    assert state["inpainter.output.weight"].dtype == torch.float16
    assert state["autoencoder.encoder.stem_norm.running_var"].dtype == torch.float32
    assert state["mask_threshold"].dtype == torch.float32


def test_weights_are_calibrated_again_from_their_own_file_alone_and_stay_as_they_are(tmp_path, batches, brain):
    first = calibrate(
        small(), batches, torch.device("cpu"), str(tmp_path / "a"), brain=brain, training={"inpainter": {"epochs": 3}}
    )
    again = small()
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    trained = load_trained(again, str(tmp_path / "a" / "model.pt"), "none", "none", None)
    second = calibrate(again, batches, torch.device("cpu"), str(tmp_path / "b"), brain=brain, training=trained)
    assert second == first
    assert second["training"] == {"inpainter": {"epochs": 3}}
    assert sha256_of_file(tmp_path / "b" / "model.pt") == sha256_of_file(tmp_path / "a" / "model.pt")


def test_the_published_distance_is_filled_from_its_file_and_nothing_stands_in(tmp_path):
    torch.manual_seed(0)
    published = SpatialLPIPS("squeezenet")
    torch.save(published.trunk.state_dict(), tmp_path / "squeezenet.pt")
    network = SpatialLPIPS("squeezenet")
    load_perceptual(network, str(tmp_path / "squeezenet.pt"))
    assert torch.equal(network.trunk.features[0].weight, published.trunk.features[0].weight)
    assert not torch.equal(network.heads[0].weight, published.heads[0].weight)  # the lpips package's
    with pytest.raises(PhanesInputError, match=r"was not found .*--perceptual_file, or take the distilled network"):
        load_perceptual(network, str(tmp_path / "nowhere.pt"))
    with pytest.raises(PhanesInputError, match=r"run distill_perceptual\.json first"):
        load_perceptual(SpatialLPIPS("distilled"), str(tmp_path / "nowhere.pt"))


def test_a_missing_part_says_which_command_makes_it(tmp_path):
    with pytest.raises(PhanesInputError, match=r"autoencoder\.pt' does not exist: run train\.json first"):
        load_part(small().autoencoder, str(tmp_path / "autoencoder.pt"), "train.json")


def test_a_part_of_another_size_is_refused_by_name(tmp_path):
    path = tmp_path / "autoencoder.pt"
    torch.save(SoftIntroVAE(channels=(8, 8)).state_dict(), path)
    with pytest.raises(PhanesInputError, match=r"autoencoder\.pt' does not fit this network"):
        load_part(small().autoencoder, str(path), "train.json")


def test_a_checkpoint_that_would_execute_code_is_refused(tmp_path):
    canary = tmp_path / "canary"

    class Malicious:
        def __reduce__(self):
            return (open, (str(canary), "w"))

    path = tmp_path / "autoencoder.pt"
    torch.save({"network": Malicious()}, path)
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        load_part(small().autoencoder, str(path), "train.json")
    assert not canary.exists()
