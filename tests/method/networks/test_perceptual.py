"""SpatialLPIPS is the lpips package's distance map on the same trunk, and needs neither package nor network to run."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts.common.torchvision_shim import make_torchvision_importable
from scripts.method.networks.perceptual import SpatialLPIPS, VGG19Features

make_torchvision_importable()
lpips = pytest.importorskip("lpips")
models = pytest.importorskip("torchvision.models")

ROOT = Path(__file__).resolve().parents[3]
SIZES = [(128, 128), (97, 130)]


def image_pair(height=128, width=128, batch=2):
    """An image batch and a slightly changed one, (B, 1, H, W) in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(batch, 1, height, width, generator=generator)
    b = (a + 0.1 * torch.randn(a.shape, generator=generator)).clamp(0, 1)
    return torch.nn.functional.avg_pool2d(a, 3, 1, 1), b


def distance_of_the_package(package, a, b):
    with torch.no_grad():
        return package(a.repeat(1, 3, 1, 1), b.repeat(1, 3, 1, 1), normalize=True)


def build(net):
    torch.manual_seed(0)
    return {"squeeze": models.squeezenet1_1, "alex": models.alexnet}[net](weights=None)


def as_package(network, net):
    """The lpips package's own network around the trunk of a torchvision network."""
    package = lpips.LPIPS(net=net, spatial=True, pnet_rand=True, verbose=False)
    features = network.state_dict()
    slices = package.net.state_dict()
    package.net.load_state_dict({key: features[f"features.{key.split('.', 1)[1]}"] for key in slices})
    return package


@pytest.mark.parametrize("net", ["squeeze", "alex"])
@pytest.mark.parametrize("size", SIZES)
def test_trunk_from_a_file_equals_the_package_with_that_trunk(net, size, tmp_path):
    network = build(net)
    torch.save(network.state_dict(), tmp_path / "trunk.pt")
    a, b = image_pair(*size)
    ours = SpatialLPIPS("file", tmp_path / "trunk.pt", net)(a, b)
    torch.testing.assert_close(ours, distance_of_the_package(as_package(network, net), a, b), atol=1e-5, rtol=0)


def test_imagenet_trunk_equals_the_package_as_published(tmp_path, monkeypatch):
    """torchvision's cache holds a stand-in with its file name, which nothing but a download compares with its hash."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(build("squeeze").state_dict(), cache / "squeezenet1_1-b8a52dc0.pth")
    a, b = image_pair()
    expected = distance_of_the_package(lpips.LPIPS(net="squeeze", spatial=True, verbose=False), a, b)
    torch.testing.assert_close(SpatialLPIPS("imagenet")(a, b), expected, atol=1e-5, rtol=0)


@pytest.mark.real_data
@pytest.mark.parametrize(("net", "name"), [("squeeze", "squeezenet1_1"), ("alex", "alexnet")])
def test_real_weights_equal_the_package(net, name, data_root):
    weights = data_root / "perceptual" / f"{name}_features.pt"
    package = lpips.LPIPS(net=net, spatial=True, pnet_rand=True, verbose=False)
    features = torch.load(weights, weights_only=True)
    slices = package.net.state_dict()
    package.net.load_state_dict({key: features[f"features.{key.split('.', 1)[1]}"] for key in slices})
    a, b = image_pair()
    expected = distance_of_the_package(package, a, b)
    torch.testing.assert_close(SpatialLPIPS("file", weights, net)(a, b), expected, atol=1e-5, rtol=0)


def test_distance_is_zero_for_equal_images_and_nowhere_negative():
    model = SpatialLPIPS()
    for parameter in model.heads.parameters():
        torch.nn.init.normal_(parameter)  # weights of either sign
    a, b = image_pair()
    assert model(a, a).abs().max() == 0
    assert model(a, b).min() >= 0
    assert model(a, b).shape == a.shape


def test_gradients_stay_finite_where_all_features_are_zero():
    model = SpatialLPIPS().requires_grad_(True)
    torch.nn.init.constant_(model.trunk.features[0].weight, 0.0)
    torch.nn.init.constant_(model.trunk.features[0].bias, -1.0)
    model(*image_pair()).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_batch_is_its_images_one_by_one():
    model = SpatialLPIPS()
    a, b = image_pair(batch=8)
    one_by_one = torch.cat([model(a[i : i + 1], b[i : i + 1]) for i in range(8)])
    torch.testing.assert_close(model(a, b), one_by_one, atol=1e-6, rtol=0)


def test_distilled_trunk_is_built_without_reading_or_importing_anything():
    """Its weights come with the state dict it is part of; a hospital machine has no torchvision cache."""
    program = (
        "import sys, torch; torch.load = None\n"
        "from scripts.method.networks.perceptual import SpatialLPIPS\n"
        "SpatialLPIPS()(torch.rand(1, 1, 128, 128), torch.rand(1, 1, 128, 128))\n"
        "assert not {'torchvision', 'lpips'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_distilled_weights_round_trip_in_half_precision(tmp_path):
    torch.manual_seed(0)
    widths = {"stem": 8, "fires": [[4, 8]] * 8}
    model = SpatialLPIPS(**widths)
    torch.save({key: value.half() for key, value in model.state_dict().items()}, tmp_path / "distilled.pt")
    a, b = image_pair()
    loaded = SpatialLPIPS(weights=tmp_path / "distilled.pt", **widths)
    assert loaded(a, b).dtype == torch.float32
    torch.testing.assert_close(loaded(a, b), model(a, b), atol=1e-3, rtol=1e-2)


def test_autocast_keeps_the_distance_in_single_precision():
    model = SpatialLPIPS()
    a, b = image_pair()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(a, b).dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trunk": "resnet"}, "choose imagenet, file, distilled, squeezenet"),
        ({"trunk": "file", "net": "vgg", "weights": "x"}, "choose squeeze or alex"),
        ({"trunk": "file"}, "needs the path"),
        ({"fires": [[4, 8]] * 7}, "eight fire blocks"),
    ],
)
def test_wrong_choices_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SpatialLPIPS(**arguments)


def test_missing_or_unfitting_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        SpatialLPIPS("file", tmp_path / "none.pt")
    torch.save(build("alex").state_dict(), tmp_path / "alex.pt")
    with pytest.raises(ValueError, match=r"alex\.pt do not fit"):
        SpatialLPIPS("file", tmp_path / "alex.pt", "squeeze")


class TestVGG19Features:
    @pytest.fixture(scope="class")
    def network(self):
        torch.manual_seed(0)
        return models.vgg19(weights=None).eval()

    @pytest.fixture(scope="class")
    def weights(self, network, tmp_path_factory):
        path = tmp_path_factory.mktemp("vgg") / "vgg19.pt"
        torch.save({k: v for k, v in network.state_dict().items() if k.startswith("features.")}, path)
        return path

    def test_taps_equal_torchvision(self, network, weights):
        a, _ = image_pair(64, 64)
        mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        x, expected = (a.repeat(1, 3, 1, 1) - mean) / std, {}
        for index, layer in enumerate(network.features):
            x = layer(x)
            expected[index] = x.clone()
        model = VGG19Features(weights, taps=("relu3_1", "relu1_1", "relu5_2"))
        with torch.no_grad():
            taps = model.features(a)
        assert len(taps) == 3
        for tap, layer in zip(taps, (1, 11, 31), strict=True):
            torch.testing.assert_close(tap, expected[layer], atol=1e-5, rtol=1e-4)

    def test_signed_range_is_the_published_codes(self, weights):
        """It fed images in [0, 1] to a network that expected [-1, 1], so (x + 1) / 2 was what VGG19 saw."""
        a, _ = image_pair(32, 32)
        signed = VGG19Features(weights, ("relu1_1",), "signed")(a)[0]
        unit = VGG19Features(weights, ("relu1_1",))((a + 1) / 2)[0]
        torch.testing.assert_close(signed, unit, atol=1e-5, rtol=1e-4)

    def test_unknown_choices_are_refused(self, weights):
        with pytest.raises(ValueError, match="relu9_9"):
            VGG19Features(weights, ("relu9_9",))
        with pytest.raises(ValueError, match="choose unit or signed"):
            VGG19Features(weights, input_range="byte")
