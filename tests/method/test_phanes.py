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

from scripts.method.coarse_map import CoarseMap
from scripts.method.filling import ConstantFilling
from scripts.method.mask_rule import ScanQuantileMask
from scripts.method.networks.perceptual import SpatialLPIPS
from scripts.method.phanes import CHANNELS, Phanes
from scripts.pipeline.cases import slice_files
from tests.conftest import BUNDLE
from tests.method.composed import composed, fill_threshold


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
    fill_threshold(network, 0.02)
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
            return distance[0, 0].double().numpy()

        mask = residual * saliency(eq_coarse, eq_x) > 0.02
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
    residual = paper.coarse(images)[1] / paper.perceptual(
        *(
            torch.stack([torch.as_tensor(equalize_adapthist(i[0].double().numpy()))[None] for i in stack]).float()
            for stack in (Blur()(images), images)
        )
    )
    expected = residual * paper.perceptual(Blur()(images), images)
    torch.testing.assert_close(published.coarse(images)[1], expected, rtol=1e-2, atol=1e-4)


def test_the_published_codes_rule_thresholds_each_scan_by_its_own_quantile(images):
    network = small(mask=ScanQuantileMask())
    assert torch.equal(network(images)[:, 2:3], network.mask(network.coarse(images)[1]))


def test_a_volume_is_its_slices_bit_for_bit_and_its_height_channel_is_left_alone(images):
    network = small()
    expected = network(images)
    volume = images.permute(1, 2, 3, 0)[None]
    height = torch.arange(8.0).expand_as(volume)
    for found in (network(volume), network(torch.cat([volume, height], dim=1))):
        assert found.shape == (1, 4, 128, 128, 8)
        assert torch.equal(found[0].permute(3, 0, 1, 2), expected)
    two_heads = torch.stack([v.permute(1, 2, 3, 0) for v in images.split(4)])
    assert torch.equal(network(two_heads).permute(0, 4, 1, 2, 3).flatten(0, 1), expected)


def test_the_inpainter_sees_the_filled_hole_and_the_mask(images):
    class Sees(nn.Module):
        def forward(self, masked_image, mask):
            self.seen = masked_image, mask
            return masked_image

    network = composed(Blur(), Sees(), filling=ConstantFilling(0.25)).eval()
    mask = (images > 0.7).float()
    network.forward_with_mask(images, mask)
    filled, seen = network.inpainter.seen
    assert torch.equal(seen, mask)
    assert torch.equal(filled, torch.where(mask > 0, 0.25, images))


def test_the_threshold_keeps_its_name_in_files_whatever_the_network_is_part_of():
    network = small()
    fill_threshold(network, 0.1)
    state = network.state_dict()
    assert float(state["mask_threshold"]) == pytest.approx(0.1)
    assert "mask.threshold" not in state
    other = nn.ModuleDict({"network": small()})
    other.load_state_dict({f"network.{name}": value for name, value in state.items()})
    assert float(other["network"].mask.threshold) == pytest.approx(0.1)
    _, changed, _ = copy_model_state(small(), network)
    assert "mask_threshold" in changed
    small(mask=ScanQuantileMask()).load_state_dict(state)  # a rule without a threshold
    with pytest.raises(RuntimeError, match=r"Missing key.*mask\.threshold"):
        network.load_state_dict(small(mask=ScanQuantileMask()).state_dict())


def test_the_weights_of_heads_in_the_same_file_are_left_out():
    state = small().state_dict()
    of_heads = {"network.x": torch.ones(1), "mask.threshold": torch.tensor(9.0)}
    network = small()
    network.load_state_dict({**state, **of_heads})
    assert float(network.mask.threshold) == pytest.approx(0.02)


def test_the_channels_are_in_the_order_of_their_names(images):
    network = small()
    maps = dict(zip(CHANNELS, network(images).split(1, dim=1), strict=True))
    assert torch.equal(maps["coarse"], Blur()(images))
    assert torch.equal(maps["mask"], network.mask(network.coarse(images)[1]))
    anomaly, pseudo_healthy = network.forward_with_mask(images, maps["mask"])
    assert torch.equal(maps["anomaly"], anomaly)
    assert torch.equal(maps["pseudo_healthy"], pseudo_healthy)


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
        assert (network(slices) - single).abs().max() < 1e-5
