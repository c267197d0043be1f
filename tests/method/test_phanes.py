"""The whole method as one module: equals its equations spelled out, slice by slice, and refuses to run uncalibrated."""

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose
from scipy import ndimage
from skimage.exposure import equalize_adapthist
from torch import nn

from scripts.method.anomaly import relative_anomaly_map
from scripts.method.networks.perceptual import SpatialLPIPS
from scripts.method.networks.soft_intro_vae import SoftIntroVAE
from scripts.method.phanes import Phanes
from scripts.pipeline.cases import slice_files
from tests.conftest import BUNDLE


class Blur(nn.Module):
    """A stand-in autoencoder: removes detail, and with it small lesions."""

    def forward(self, image):
        return nn.functional.avg_pool2d(image, 9, stride=1, padding=4, count_include_pad=False)


class Constant(nn.Module):
    """A stand-in inpainter."""

    def forward(self, masked_image, mask):
        return torch.full_like(masked_image, 0.5)


def small(**options) -> Phanes:
    torch.manual_seed(0)
    network = Phanes(Blur(), Constant(), SpatialLPIPS("distilled"), **options).eval()
    network.mask_threshold.fill_(0.02)
    network.refinement_threshold.fill_(0.01)
    return network


@pytest.fixture
def images() -> torch.Tensor:
    coarse = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    images = nn.functional.interpolate(coarse, size=(128, 128), mode="bicubic").clamp(0, 1)
    images[:, :, 60:68, 60:68] = 1.0
    return images


def test_the_output_is_equations_3_and_4_spelled_out_in_numpy(images):
    network = small()
    output = network(images).double().numpy()
    for image, result in zip(images, output, strict=True):
        x = image[None]
        coarse = Blur()(x)
        eq_x, eq_coarse = (equalize_adapthist(i[0, 0].double().numpy()) for i in (x, coarse))
        residual = np.abs(eq_coarse - eq_x)
        residual = np.minimum(1, residual / (np.quantile(residual, 0.95) + 1e-8))

        def saliency(a, b):
            distance = network.perceptual(*(torch.as_tensor(np.array(i))[None, None].float() for i in (a, b)))
            return ndimage.gaussian_filter(distance[0, 0].double().numpy(), 2.0)

        mask = ndimage.gaussian_filter((residual * saliency(eq_coarse, eq_x) > 0.02).astype(float), 1.2) > 0.1
        pseudo_healthy = np.where(mask, 0.5, x[0, 0].numpy())
        anomaly = np.abs(pseudo_healthy - x[0, 0].numpy()) * saliency(pseudo_healthy, x[0, 0].numpy())
        assert (mask != result[2].astype(bool)).mean() < 1e-3  # a pixel on the threshold may fall either way
        np.testing.assert_allclose(result[3], coarse[0, 0], atol=1e-6)
        agree = np.broadcast_to(ndimage.binary_erosion(mask == result[2], iterations=9, border_value=1), mask.shape)
        np.testing.assert_allclose(result[0][agree], anomaly[agree], atol=1e-5)


def test_a_batch_of_eight_equals_eight_batches_of_one(images):
    network = small()
    whole = network(images)
    single = torch.cat([network(image[None]) for image in images])
    assert (whole - single).abs().max() < 1e-6


def test_it_is_deterministic(images):
    network = small()
    assert torch.equal(network(images), network(images))


def test_outside_the_mask_the_pseudo_healthy_image_is_the_input_bit_for_bit(images):
    anomaly, pseudo_healthy, mask, _ = small()(images).split(1, dim=1)
    assert 0 < mask.mean() < 0.5
    assert torch.equal(pseudo_healthy[mask == 0], images[mask == 0])
    assert (anomaly[mask == 0] == 0).all()


def test_a_given_mask_goes_straight_to_the_inpainter(images):
    mask = torch.zeros_like(images)
    mask[..., 60:68, 60:68] = 1.0
    anomaly, pseudo_healthy = small().forward_with_mask(images, mask)
    assert (pseudo_healthy[mask == 1] == 0.5).all()
    assert torch.equal(anomaly > 0, (mask == 1) & ((images - 0.5).abs() > 0))


def test_without_calibration_there_is_no_result(images):
    network = small()
    network.mask_threshold.fill_(float("nan"))
    output = network(images)
    assert output[:, 0].isnan().all()
    assert output[:, 2].isnan().all()


def test_each_choice_of_saliency_changes_the_coarse_map_as_it_says(images):
    maps = {choice: small(coarse_saliency=choice).coarse(images)[1] for choice in ("equalized", "raw", "product")}
    network = small()
    saliency = network.saliency(Blur()(images), images)
    torch.testing.assert_close(maps["product"], maps["equalized"] * saliency)
    residual = maps["equalized"] / network.saliency(
        *(
            torch.stack([torch.as_tensor(equalize_adapthist(i[0].double().numpy()))[None] for i in stack]).float()
            for stack in (Blur()(images), images)
        )
    )
    torch.testing.assert_close(maps["raw"], residual * saliency, rtol=1e-2, atol=1e-4)


def test_the_published_codes_rule_thresholds_each_scan_by_its_own_quantile(images):
    network = small(mask_threshold_rule="scan_quantile", mask_sigma=0.0)
    _, coarse_map = network.coarse(images)
    expected = [np.mean(m.numpy() > np.quantile(m.numpy(), 0.95)) for m in coarse_map]
    assert network.mask(coarse_map).mean(dim=(1, 2, 3)).tolist() == pytest.approx(expected, abs=1e-4)


def test_a_refinement_fills_the_hole_that_the_first_map_finds(images):
    first = small()(images)
    network = small(refinements=1, refined_mask_growth=2)
    found = network(images)
    anomaly, _, mask, coarse = first.split(1, dim=1)
    smoothed = np.stack([ndimage.gaussian_filter(a[0].double().numpy(), 1.0) for a in anomaly])
    above = ndimage.binary_dilation(smoothed > 0.01, np.ones((1, 5, 5)))
    assert 0 < above.mean() < 1
    assert above.astype(int).sum() != int(mask.sum())
    refined = torch.from_numpy(above).float()[:, None]
    assert (refined != found[:, 2:3]).float().mean() < 1e-3  # a pixel on the threshold may fall either way
    refined = found[:, 2:3]
    again, inpainted = network.forward_with_mask(images, refined, coarse)
    expected = torch.cat([(anomaly.double() + again.double()) / 2, inpainted, refined, coarse], dim=1)
    assert float((found - expected).abs().max()) < 1e-6
    assert torch.equal(inpainted[refined == 0], images[refined == 0])
    torch.testing.assert_close(torch.jit.script(network)(images), found, atol=1e-6, rtol=0)
    last, inpainted = network.forward_with_mask(images, network.refined_mask(again), coarse)
    twice = network.analyse(images, 2)
    torch.testing.assert_close(twice[:, 0:1], (anomaly + again + last) / 3, atol=1e-6, rtol=0)
    assert torch.equal(twice[:, 1:2], inpainted)


def test_refinements_need_their_own_threshold_and_a_sensible_number(images):
    network = small(refinements=1)
    network.refinement_threshold.fill_(float("nan"))
    output = network(images)
    assert output[:, 0].isnan().all()
    assert output[:, 2].isnan().all()
    assert not network.analyse(images, 0).isnan().any()
    with pytest.raises(ValueError, match="refinements must be 0 or more, not -1"):
        small(refinements=-1)


class Known(nn.Module):
    """A stand-in autoencoder that knows the healthy slice."""

    def __init__(self, healthy):
        super().__init__()
        self.register_buffer("healthy", healthy)

    def forward(self, image):
        return self.healthy.expand_as(image)


@pytest.fixture
def biased() -> tuple[torch.Tensor, torch.Tensor]:
    """A healthy slice (1, 1, 128, 128), and the same four times, with a lesion and in two of them a strong field."""
    healthy = torch.full((1, 1, 128, 128), 0.0)
    healthy[:, :, 16:112, 16:112] = torch.rand(1, 1, 96, 96, generator=torch.Generator().manual_seed(4)) * 0.1 + 0.5
    slices = healthy.repeat(4, 1, 1, 1)
    slices[:, :, 40:50, 60:70] = 0.9
    ramp = torch.linspace(-0.3, 0.3, 128)[:, None].exp()
    slices[1] *= ramp
    slices[3] *= ramp.T
    return healthy, slices


def with_bias(healthy: torch.Tensor, **options) -> Phanes:
    network = small(mask_sigma=0.0, **options)
    network.autoencoder = Known(healthy)
    network.bias_threshold.fill_(0.05)
    return network


def test_a_strong_bias_field_is_taken_out_and_put_back(biased):
    healthy, slices = biased
    network, plain = with_bias(healthy, bias_passes=2), with_bias(healthy)
    with torch.no_grad():
        found, expected = network(slices), plain(slices)
        corrected, _, field = network.correct_bias(slices, plain.autoencoder(slices))
        of_corrected = plain(corrected)
    for i in (0, 2):  # no field: bit for bit what it is without a correction
        assert torch.equal(found[i], expected[i])
        assert torch.equal(corrected[i], slices[i])
    for i in (1, 3):
        tissue = healthy[0] > 0
        inside = tissue.clone()
        inside[:, 36:54, 56:74] = False
        assert (corrected[i] - slices[0])[inside].abs().max() < 0.02
        assert (slices[i] - slices[0])[inside].abs().max() > 0.1
        assert torch.equal(found[i, [0, 2, 3]], of_corrected[i, [0, 2, 3]])
        outside = found[i, 2] == 0
        assert torch.equal(found[i, 1][outside], slices[i, 0][outside])
        replaced = (0.5 * field[i, 0])[~outside]  # the stand-in inpainter's grey, as bright as the slice is there
        torch.testing.assert_close(found[i, 1][~outside], replaced, atol=1e-6, rtol=0)
    with torch.enable_grad():  # the path of programs, without branches
        torch.testing.assert_close(network(slices), found, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.jit.script(network)(slices), found, atol=1e-6, rtol=0)


def test_a_bias_correction_needs_its_threshold_and_a_sensible_number(biased):
    healthy, slices = biased
    network = with_bias(healthy, bias_passes=1)
    network.bias_threshold.fill_(float("nan"))
    assert network(slices)[:, [0, 2]].isnan().all()
    with pytest.raises(ValueError, match="bias_passes must be 0 or more, not -1"):
        small(bias_passes=-1)
    with pytest.raises(ValueError, match="bias_degree must be 1 or more, not 0"):
        small(bias_degree=0)


def test_a_relative_map_is_that_of_its_equation_and_leaves_the_rest(images):
    absolute, relative = small(refinements=1)(images), small(refinements=1, relative_map=True)(images)
    expected = relative_anomaly_map(absolute[:, :1], images, absolute[:, 3:])
    assert torch.equal(relative[:, :1], expected)
    assert torch.equal(relative[:, 1:], absolute[:, 1:])
    torch.testing.assert_close(torch.jit.script(small(relative_map=True))(images), small(relative_map=True)(images))


def test_it_scripts_and_the_script_agrees(images):
    network = small()
    scripted = torch.jit.script(network)
    torch.testing.assert_close(scripted(images), network(images), atol=1e-6, rtol=0)
    assert torch.jit.script(SoftIntroVAE(channels=(4, 8)).eval())(images).shape == images.shape


@pytest.mark.parametrize("option", [{"coarse_residual": "x"}, {"coarse_saliency": "x"}, {"mask_threshold_rule": "x"}])
def test_unknown_choices_are_refused(option):
    with pytest.raises(ValueError, match="must be"):
        small(**option)


@pytest.mark.real_data
def test_real_slices_through_the_shipped_weights_do_not_depend_on_their_batch(data_root):
    # The coarse image decides equalisation bins, and those the mask: a difference of 1e-6 there would show as a pixel.
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "train.json")
    parser.update({"bundle_root": str(BUNDLE), "device": "cpu"})
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(BUNDLE / "models" / "model.pt", weights_only=True))
    transform = Compose(parser.get_parsed_content("preprocessing") + parser.get_parsed_content("to_slice"))
    items = slice_files(str(data_root / "ixi_midaxial"), "val")[:8]
    slices = torch.stack([torch.as_tensor(transform(item)["image"]) for item in items])
    with torch.no_grad():
        single = torch.cat([network(image[None]) for image in slices])
        assert (network(slices) - single).abs().max() < 1e-6


def test_the_hole_is_drawn_again_from_the_slice_without_the_lesion(images):
    network = small(hole_fill="coarse", fill_passes=2)
    mask = torch.zeros_like(images)
    mask[:, :, 56:72, 56:72] = 1
    filled = network.masked_input(images, mask, Blur()(images))
    expected = images.numpy().astype(np.float64)
    inside = mask.numpy() > 0
    for _ in range(3):
        blurred = Blur()(torch.from_numpy(expected)).numpy()
        expected = np.where(inside, blurred, images.numpy())
    assert np.abs(filled.numpy() - expected).max() < 1e-6
    assert float(filled[:, :, 60:68, 60:68].mean()) < float(Blur()(images)[:, :, 60:68, 60:68].mean())


def test_the_mean_residual_is_the_mean_of_the_two_maps(images):
    coarse = Blur()(images)
    maps = [
        small(coarse_residual=choice).coarse_map(images, coarse).double() for choice in ("equalized", "raw", "mean")
    ]
    assert float((maps[0] - maps[1]).abs().max()) > 0.01
    assert torch.allclose(maps[2], (maps[0] + maps[1]) / 2, atol=1e-6)
