"""The networks: shapes, sizes, cost, and what is kept on disk."""

from pathlib import Path

import pytest
import tiny
import torch
from torch import nn
from torchvision.models import resnet18, resnet50
from torchvision.models.vgg import cfgs, make_layers

from horkd.errors import HorkdError
from horkd.networks.architectures import ARCHITECTURES
from horkd.networks.network import ModelSpec, Network, load_network, macs, parameters, save_network
from horkd.storage import DamagedFile, save_tensors


def build(name: str, classes: int = 100, embedding: int | None = None) -> Network:
    return Network(ModelSpec(name, classes, embedding))


def randomise_statistics(network: nn.Module) -> None:
    """BatchNorm that does something in eval mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "mobilefacenet"])
def test_shapes_at_every_resolution(architecture):
    network = build(f"{architecture}x0.25", classes=7).eval()
    for resolution in (32, 16, 8, 4, 1):
        features, logits, _ = network(torch.randn(2, 3, resolution, resolution))
        assert features.shape == (2, network.width)
        assert logits.shape == (2, 7)
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("resnet18", 512),
        ("resnet34x0.6", 307),
        ("resnet50x0.5", 1024),
        ("vgg11x0.5", 256),
        ("resnet8", 64),
        ("resnet14x2", 128),
        ("resnet20x0.5", 32),
        ("resnet32x0.25", 16),
    ],
)
def test_feature_widths(name, width):
    assert build(name).width == width


@pytest.mark.parametrize(
    ("name", "millions"),
    # 3×3 stem, one linear layer for 100 classes
    [("resnet18", 11.220132), ("resnet34", 21.328292), ("resnet50", 23.705252)],
)
def test_parameters_of_the_cifar_networks(name, millions):
    assert parameters(build(name)) == round(millions * 1e6)


def test_the_slimmed_resnet34_has_the_papers_size():
    network = build("resnet34x0.6", embedding=512)
    assert round(parameters(network.backbone) / 1e6, 2) == 7.83
    assert network.width == 512


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_are_torchvisions_behind_another_stem(name):
    theirs = {"resnet18": resnet18, "resnet50": resnet50}[name](num_classes=10)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    compare_with(theirs.eval(), build(name, classes=10).eval(), resolution=8)


def test_vgg11_is_torchvisions_with_one_linear_layer():
    layers = make_layers(cfgs["A"], batch_norm=True)
    for module in layers:
        if isinstance(module, nn.Conv2d):  # a bias before BatchNorm does nothing
            module.bias = None
    theirs = nn.Sequential(layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
    compare_with(theirs.eval(), build("vgg11", classes=10).eval(), resolution=32)


def compare_with(theirs: nn.Module, ours: Network, resolution: int) -> None:
    """Both hold their layers in the order of computation: same weights, same answer."""
    randomise_statistics(theirs)
    values = theirs.state_dict().values()
    names = list(ours.state_dict())
    ours.load_state_dict(dict(zip(names, values, strict=True)))
    x = torch.randn(3, 3, resolution, resolution)
    with torch.no_grad():
        torch.testing.assert_close(ours(x).logits, theirs(x), atol=1e-4, rtol=1e-4)


def test_vgg_drops_only_the_pools_that_no_longer_fit():
    layers = build("vgg11x0.25").eval().backbone[0]
    sizes = {r: layers(torch.randn(1, 3, r, r)).shape[-1] for r in (1, 2, 8, 16, 32, 64)}
    assert sizes == {1: 1, 2: 1, 8: 1, 16: 1, 32: 1, 64: 2}


def test_macs_and_parameters_of_a_tiny_network_by_hand():
    """resnet8x0.25 at 16 pixels: widths 4, 8, 16 on maps of 16, 8, 4 pixels."""
    nine = 3 * 3
    stem = nine * 3 * 4
    stage1 = 2 * nine * 4 * 4
    stage2 = nine * 4 * 8 + nine * 8 * 8 + 4 * 8  # the last is the 1×1 shortcut
    stage3 = nine * 8 * 16 + nine * 16 * 16 + 8 * 16
    network = build("resnet8x0.25", classes=10)
    by_hand = 16**2 * (stem + stage1) + 8**2 * stage2 + 4**2 * stage3 + 16 * 10
    assert macs(network, 16) == by_hand
    assert macs(network, 32) - 160 == 4 * (by_hand - 160)
    batch_norm = 2 * (4 + 2 * 4 + 3 * 8 + 3 * 16)
    assert parameters(network) == stem + stage1 + stage2 + stage3 + batch_norm + 16 * 10 + 10


def test_macs_leave_the_network_as_it_was():
    network = tiny.network().train()
    before = {n: t.clone() for n, t in network.state_dict().items()}
    macs(network, 8)
    assert network.training
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


@pytest.mark.parametrize("embedding", [None, 5])
def test_features_are_pooled_and_are_what_the_classifier_sees(embedding):
    network = build("resnet8x0.5", 4, embedding).eval()
    randomise_statistics(network)
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        features, logits, _ = network(x)
        weight, bias = network.classifier.weight, network.classifier.bias
        torch.testing.assert_close(logits, features @ weight.T + bias)
        pooled = network.backbone[0](x).mean(dim=(2, 3))
        if embedding is None:
            torch.testing.assert_close(features, pooled)
        else:
            layer = network.backbone[-1]
            torch.testing.assert_close(features, pooled @ layer.weight.T + layer.bias)
            assert features.shape == (3, 5)


def test_the_same_seed_gives_the_same_weights():
    a, b, c = (tiny.network(seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert not all(torch.equal(a[n], c[n]) for n in a)


@pytest.mark.parametrize(
    ("name", "pixels"),
    [("resnet8x0.25", 4), ("resnet18x0.1", 8), ("vgg11x0.05", 8), ("mobilefacenet", 112)],
)
def test_one_image_of_which_batchnorm_has_no_deviation_is_one_line(name, pixels):
    network, image = Network(ModelSpec(name, 3)), torch.zeros(1, 3, pixels, pixels)
    with pytest.raises(HorkdError, match="cannot be trained on one image at a time") as error:
        network(image)
    assert "take batches of 2 or more, or `.eval()`" in tiny.one_line(error)
    assert network(image.expand(2, -1, -1, -1)).logits.shape == (2, 3)
    assert network.eval()(image).logits.shape == (1, 3)


@pytest.mark.parametrize(
    "name", ["resnet19", "ResNet18", "resnet18x", "resnet18x0", "resnet18x-1", "", "vgg16", "x2"]
)
def test_unknown_names(name):
    with pytest.raises(HorkdError, match=r"unknown model .*choose from resnet18, "):
        build(name)


# On disk


@pytest.fixture
def trained() -> Network:
    network = build("resnet8x0.25", 5, embedding=7)
    randomise_statistics(network)
    return network


def test_round_trip_is_exact(trained, tmp_path):
    save_network(tmp_path / "n.safetensors", trained, key="abc")
    loaded = load_network(tmp_path / "n.safetensors")
    assert loaded.spec == trained.spec
    assert not loaded.training
    want, got = trained.state_dict(), loaded.state_dict()
    assert list(want) == list(got)
    assert all(torch.equal(want[n], got[n]) and want[n].dtype == got[n].dtype for n in want)


def saved(network: Network, path: Path, bits: int) -> int:
    """Bytes of the network's file."""
    save_network(path, network, bits)
    return path.stat().st_size


def test_half_is_half_the_size_and_nearly_the_same(tmp_path):
    network = build("resnet14", 100).eval()
    sizes = [saved(network, tmp_path / f"{bits}.safetensors", bits) for bits in (16, 32)]
    assert sizes[0] < 0.55 * sizes[1]
    loaded = load_network(tmp_path / "16.safetensors")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    for name, t in network.state_dict().items():
        rounded = t.half().float() if t.is_floating_point() else t
        assert torch.equal(loaded.state_dict()[name], rounded)


@pytest.mark.parametrize("name", ["resnet14", "vgg11x0.25", "mobilefacenet"])
def test_eight_bits_are_a_quarter_of_the_size_and_off_by_half_a_level(tmp_path, name):
    """Of every output channel: by its own largest weight, which is kept exactly."""
    network = Network(ModelSpec(name, 10)).eval()
    sizes = [saved(network, tmp_path / f"{bits}.safetensors", bits) for bits in (8, 32)]
    assert sizes[0] < 0.35 * sizes[1]
    loaded = load_network(tmp_path / "8.safetensors")
    assert loaded.spec == network.spec
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    rounded = 0
    for key, t in network.state_dict().items():
        got = loaded.state_dict()[key]
        if t.ndim < 2:
            assert torch.equal(got, t)
            continue
        rounded += 1
        for channel, found in zip(t, got, strict=True):
            level = channel.abs().max() / 127
            assert (found - channel).abs().max() <= 0.501 * level
            assert found.abs().max() == pytest.approx(float(channel.abs().max()), rel=1e-6)
    assert rounded > 5


def test_channels_of_zeros_stay_zeros_with_eight_bits(tmp_path):
    network = build("resnet8x0.25", 5)
    with torch.no_grad():
        network.classifier.weight[2] = 0
        network.backbone[0][0].weight.zero_()
    saved(network, tmp_path / "n.safetensors", 8)
    loaded = load_network(tmp_path / "n.safetensors")
    assert loaded.classifier.weight[2].abs().max() == 0
    assert loaded.backbone[0][0].weight.abs().max() == 0
    assert loaded.classifier.weight.isfinite().all()


def test_other_numbers_of_bits_are_refused(tmp_path):
    with pytest.raises(HorkdError, match="bits is 4: choose from 32, 16, 8"):
        save_network(tmp_path / "n.safetensors", build("resnet8x0.25", 5), 4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "other", [ModelSpec("resnet14x0.25", 5, 7), ModelSpec("resnet8x0.25", 6, 7)]
)
def test_a_checkpoint_of_another_architecture(trained, tmp_path, other):
    path = tmp_path / "n.safetensors"
    save_network(path, trained)
    with pytest.raises(HorkdError, match=r"holds resnet8x0.25 with 5 classes") as caught:
        load_network(path, other)
    assert other.name in str(caught.value)
    assert load_network(path, trained.spec).spec == trained.spec


def test_weights_that_do_not_fit_their_specification(trained, tmp_path):
    path = tmp_path / "n.safetensors"
    spec = {"name": "resnet14x0.25", "num_classes": 5, "embedding": 7}
    save_tensors(path, trained.state_dict(), {"spec": spec})
    with pytest.raises(HorkdError, match=r"does not fit resnet14x0.25") as caught:
        load_network(path)
    assert "\n" not in str(caught.value)


def test_a_file_without_specification(trained, tmp_path):
    save_tensors(tmp_path / "n.safetensors", trained.state_dict(), {"something": "else"})
    with pytest.raises(HorkdError, match="has no model specification"):
        load_network(tmp_path / "n.safetensors")


def test_missing_and_damaged_files(trained, tmp_path):
    path = tmp_path / "n.safetensors"
    with pytest.raises(HorkdError, match="there is no file"):
        load_network(path)
    save_network(path, trained)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a checkpoint", bytes(len(whole))):
        path.write_bytes(damaged)
        with pytest.raises(DamagedFile, match="is damaged"):
            load_network(path)
