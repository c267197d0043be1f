"""The whole method as one module: equals its equations spelled out, slice by slice, and refuses to run uncalibrated."""

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks import copy_model_state
from monai.transforms import Compose
from scipy import ndimage
from skimage.exposure import equalize_adapthist
from torch import nn

from scripts.method.bias_field import BiasField
from scripts.method.coarse_map import CoarseMap
from scripts.method.filling import CoarseFilling
from scripts.method.mask_rule import CalibratedMask, ScanQuantileMask
from scripts.method.networks.perceptual import SpatialLPIPS
from scripts.method.networks.soft_intro_vae import SoftIntroVAE
from scripts.method.phanes import CHANNELS, Phanes
from scripts.method.refinement import Refinement
from scripts.method.relative_map import RelativeMap, relative_anomaly_map
from scripts.pipeline.cases import slice_files
from tests.conftest import BUNDLE
from tests.method.composed import composed, fill_thresholds


class Blur(nn.Module):
    """A stand-in autoencoder: removes detail, and with it small lesions."""

    def forward(self, image):
        return nn.functional.avg_pool2d(image[:, :1], 9, stride=1, padding=4, count_include_pad=False)


class Constant(nn.Module):
    """A stand-in inpainter."""

    def forward(self, masked_image, mask):
        return torch.full_like(masked_image, 0.5)


def small(**components) -> Phanes:
    torch.manual_seed(0)
    network = composed(Blur(), Constant(), **components).eval()
    fill_thresholds(network, mask=0.02)
    return network


@pytest.fixture
def images() -> torch.Tensor:
    coarse = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    images = nn.functional.interpolate(coarse, size=(128, 128), mode="bicubic").clamp(0, 1)
    images[:, :, 60:68, 60:68] = 1.0
    return images


def test_the_output_is_equations_3_and_4_spelled_out_in_numpy(images):
    network, lpips = small(), SpatialLPIPS("distilled")
    lpips.load_state_dict(network.perceptual.state_dict())
    output = network(images).double().numpy()
    for image, result in zip(images, output, strict=True):
        x = image[None]
        coarse = Blur()(x)
        eq_x, eq_coarse = (equalize_adapthist(i[0, 0].double().numpy()) for i in (x, coarse))
        residual = np.abs(eq_coarse - eq_x)
        residual = np.minimum(1, residual / (np.quantile(residual, 0.95) + 1e-8))

        def saliency(a, b):
            distance = lpips(*(torch.as_tensor(np.array(i))[None, None].float() for i in (a, b)))
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
    network.mask.threshold.fill_(float("nan"))
    output = network(images)
    assert output[:, 0].isnan().all()
    assert output[:, 2].isnan().all()


def test_the_published_codes_coarse_map_takes_the_saliency_of_the_images_as_they_are(images):
    paper, published = (small(coarse_map=CoarseMap(saliency=s)) for s in ("equalized", "raw"))
    residual = paper.coarse(images)[1] / paper.saliency(
        *(
            torch.stack([torch.as_tensor(equalize_adapthist(i[0].double().numpy()))[None] for i in stack]).float()
            for stack in (Blur()(images), images)
        )
    )
    expected = residual * paper.saliency(Blur()(images), images)
    torch.testing.assert_close(published.coarse(images)[1], expected, rtol=1e-2, atol=1e-4)


def test_the_published_codes_rule_thresholds_each_scan_by_its_own_quantile(images):
    network = small(mask=ScanQuantileMask(sigma=0.0))
    coarse_map = network.coarse(images)[1]
    expected = [np.mean(m.numpy() > np.quantile(m.numpy(), 0.95)) for m in coarse_map]
    assert network(images)[:, 2].mean(dim=(1, 2)).tolist() == pytest.approx(expected, abs=1e-4)


def test_a_volume_is_its_slices_bit_for_bit_and_its_height_channel_is_left_alone(images):
    network = small(refinement=Refinement(1), bias_field=BiasField(), relative_map=RelativeMap())
    network.bias_field.threshold.fill_(0.05)
    expected = network(images)
    volume = images.permute(1, 2, 3, 0)[None]
    height = torch.arange(8.0).expand_as(volume)
    for found in (network(volume), network(torch.cat([volume, height], dim=1))):
        assert found.shape == (1, 4, 128, 128, 8)
        assert torch.equal(found[0].permute(3, 0, 1, 2), expected)
    two_heads = torch.stack([v.permute(1, 2, 3, 0) for v in images.split(4)])
    assert torch.equal(network(two_heads).permute(0, 4, 1, 2, 3).flatten(0, 1), expected)


class Heights(nn.Module):
    """A stand-in autoencoder that draws each level's height, and fails where none is given."""

    def forward(self, image):
        return image[:, 1:2] / 100


def test_every_reconstruction_is_told_the_height(images):
    network = composed(
        Heights(), Constant(), filling=CoarseFilling(2), bias_field=BiasField(2), refinement=Refinement(1)
    ).eval()
    fill_thresholds(network, mask=0.02, bias=0.0)
    volume = images.permute(1, 2, 3, 0)[None]
    height = 10.0 * torch.arange(8.0).expand_as(volume)
    with torch.no_grad():
        assert torch.equal(network(torch.cat([volume, height], dim=1))[:, 3:], height / 100)


def test_a_whole_head_goes_through_in_chunks_and_nothing_changes():
    slices = torch.rand(40, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    network = small(refinement=Refinement(1), filling=CoarseFilling(1))
    with torch.no_grad():
        torch.testing.assert_close(
            network(slices), torch.cat([network(s) for s in slices.split(20)]), rtol=0, atol=1e-6
        )


def test_thresholds_keep_their_names_in_files_whatever_the_network_is_part_of():
    network = small(refinement=Refinement(1), bias_field=BiasField())
    fill_thresholds(network, 0.1, 0.2, 0.3)
    state = network.state_dict()
    names = ("mask_threshold", "refinement_threshold", "bias_threshold")
    assert [float(state[name]) for name in names] == pytest.approx([0.1, 0.2, 0.3])
    assert not any("." in name and "threshold" in name for name in state)
    other = nn.ModuleDict({"network": small(refinement=Refinement(1), bias_field=BiasField())})
    other.load_state_dict({f"network.{name}": value for name, value in state.items()})
    assert float(other["network"].refinement.threshold) == pytest.approx(0.2)
    _, changed, _ = copy_model_state(small(refinement=Refinement(1), bias_field=BiasField()), network)
    assert set(names) <= set(changed)
    small().load_state_dict(state)  # thresholds of additions that are not there are left out
    with pytest.raises(RuntimeError, match=r"Missing key.*refinement\.threshold"):
        network.load_state_dict(small().state_dict())


def test_the_channels_are_in_the_order_of_their_names(images):
    network = small()
    maps = dict(zip(CHANNELS, network(images).split(1, dim=1), strict=True))
    assert torch.equal(maps["coarse"], Blur()(images))
    assert torch.equal(maps["mask"], network.mask(network.coarse(images)[1]))
    anomaly, pseudo_healthy = network.forward_with_mask(images, maps["mask"])
    assert torch.equal(maps["anomaly"], anomaly)
    assert torch.equal(maps["pseudo_healthy"], pseudo_healthy)


def test_a_refinement_fills_the_hole_that_the_first_map_finds(images):
    first = small()(images)
    network = small(refinement=Refinement(1))
    found = network(images)
    anomaly, _, mask, coarse = first.split(1, dim=1)
    smoothed = np.stack([ndimage.gaussian_filter(a[0].double().numpy(), 1.0) for a in anomaly])
    above = ndimage.binary_dilation(smoothed > 0.01, np.ones((1, 9, 9)))
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
    last, inpainted = network.forward_with_mask(images, network.refinement(again), coarse)
    twice = small(refinement=Refinement(2))(images)
    torch.testing.assert_close(twice[:, 0:1], (anomaly + again + last) / 3, atol=1e-6, rtol=0)
    assert torch.equal(twice[:, 1:2], inpainted)


def test_a_refinement_needs_its_own_threshold_and_can_be_left_out(images):
    network = small(refinement=Refinement(1))
    network.refinement.threshold.fill_(float("nan"))
    output = network(images)
    assert output[:, 0].isnan().all()
    assert output[:, 2].isnan().all()
    assert torch.equal(network.analyse(images, refine=False, relative=True), small()(images))


class Known(nn.Module):
    """A stand-in autoencoder that knows the healthy slice."""

    def __init__(self, healthy):
        super().__init__()
        self.register_buffer("healthy", healthy)

    def forward(self, image):
        return self.healthy.expand_as(image[:, :1])


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


def with_bias(healthy: torch.Tensor, bias_field: BiasField | None = None) -> Phanes:
    torch.manual_seed(0)
    network = composed(Known(healthy), Constant(), mask=CalibratedMask(), bias_field=bias_field).eval()
    fill_thresholds(network, mask=0.02, bias=0.05)
    return network


def test_a_strong_bias_field_is_taken_out_and_put_back(biased):
    healthy, slices = biased
    network, plain = with_bias(healthy, BiasField(2)), with_bias(healthy)
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


def test_a_bias_correction_needs_its_threshold(biased):
    healthy, slices = biased
    network = with_bias(healthy, BiasField(1))
    network.bias_field.threshold.fill_(float("nan"))
    assert network(slices)[:, [0, 2]].isnan().all()


def test_a_relative_map_is_that_of_its_equation_and_leaves_the_rest(images):
    network = small(refinement=Refinement(1), relative_map=RelativeMap())
    absolute, relative = network.analyse(images, refine=True, relative=False), network(images)
    expected = relative_anomaly_map(absolute[:, :1], images, absolute[:, 3:])
    assert torch.equal(relative[:, :1], expected)
    assert torch.equal(relative[:, 1:], absolute[:, 1:])
    torch.testing.assert_close(torch.jit.script(network)(images), relative)


def test_it_scripts_and_the_script_agrees(images):
    network = small()
    scripted = torch.jit.script(network)
    torch.testing.assert_close(scripted(images), network(images), atol=1e-6, rtol=0)
    assert torch.jit.script(SoftIntroVAE(channels=(4, 8)).eval())(images).shape == images.shape


@pytest.mark.real_data
def test_real_slices_through_the_shipped_weights_do_not_depend_on_their_batch(data_root):
    # The coarse image decides equalisation bins, and those the mask: a difference of 1e-6 there would show as a pixel.
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "train.json")
    parser.update({"bundle_root": str(BUNDLE), "device": "cpu"})
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(BUNDLE / "models" / "model.pt", weights_only=True))
    transform = Compose([parser.get_parsed_content("preprocessing"), *parser.get_parsed_content("to_slice")])
    items = slice_files(str(data_root / "ixi_midaxial"), "val")[:8]
    slices = torch.stack([torch.as_tensor(transform(item)["image"]) for item in items])
    with torch.no_grad():
        single = torch.cat([network(image[None]) for image in slices])
        assert (network(slices) - single).abs().max() < 1e-6


def test_the_hole_is_drawn_again_from_the_slice_without_the_lesion(images):
    network = small(filling=CoarseFilling(2))
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
