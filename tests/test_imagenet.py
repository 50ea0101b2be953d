"""Networks of libraries as backbones: where they start, their maps, features of unit length."""

import copy
import gc
import hashlib
import http.server
import pickle
import threading
import time
import weakref
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import timm
import tiny
import torch
import torchvision
import watch
from safetensors.torch import save_file
from torch import Tensor, nn

from horkd.errors import HorkdError
from horkd.networks import ModelSpec, Network, imagenet, load_network, save_network
from horkd.networks.imagenet import (
    Published,
    as_torchvision_reads,
    download,
    imagenet_name,
    published,
    start_backbone,
)
from horkd.networks.network import spec_from_dict
from horkd.networks.weights import digest, known_digest, load_pretrained
from horkd.storage import save_tensors

TV = ModelSpec("torchvision:resnet18", 0, embedding=5)
TIMM = ModelSpec("timm:test_resnet", 0, embedding=5)  # 0.5 million parameters


def theirs(name: str = "torchvision:resnet18", seed: int = 3, **options) -> nn.Module:
    """The library's own network, with statistics that do something."""
    library, _, architecture = name.partition(":")
    torch.manual_seed(seed)
    if library == "timm":
        network = timm.create_model(architecture, **options)
    else:
        network = torchvision.models.get_model(architecture, weights=None, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return network.eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tv18() -> nn.Module:
    return theirs()


@pytest.fixture(scope="module")
def of_timm() -> nn.Module:
    return theirs("timm:test_resnet")


@pytest.fixture(autouse=True)
def tries(monkeypatch, tmp_path) -> list:
    """Empty caches, a data folder, and no network: what is tried of it is listed."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HORKD_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    (tmp_path / "data" / "weights").mkdir(parents=True)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    tried = []

    def refuse(_event: str, arguments: tuple) -> None:
        if arguments[0] != "127.0.0.1":
            tried.append(arguments[0])
            raise OSError("no network in this test")

    with watch.on_event(refuse, "socket.getaddrinfo"):
        yield tried


@pytest.fixture
def weights(tmp_path) -> Path:
    return tmp_path / "data" / "weights"


@pytest.fixture
def hub(tmp_path) -> Path:
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def publish(monkeypatch, network: nn.Module, folder: Path, server: str = "https://x.invalid"):
    """The file that torchvision's ResNet18 is published in, as if it were this network."""
    torch.save(network.state_dict(), folder / "new")
    sha = hashlib.sha256((folder / "new").read_bytes()).hexdigest()[:8]
    path = (folder / "new").rename(folder / f"resnet18-{sha}.pth")
    file = Published(f"{server}/models/{path.name}", path.name)
    monkeypatch.setattr(imagenet, "published", lambda model: [file])
    return path


def features(network: nn.Module, x: Tensor) -> Tensor:
    """What the linear layer at the end of a ResNet is fed."""
    headless = copy.deepcopy(network)
    headless.fc = nn.Identity()
    with torch.no_grad():
        return headless(x)


def assert_starts(network: Network, source: nn.Module, x: Tensor) -> None:
    """Exactly the source's features before the embedding."""
    network.eval()
    with torch.no_grad():
        found = network.backbone.trunk(x)
        torch.testing.assert_close(found, features(source, x), atol=0, rtol=0)
        embedded = network.backbone.embedding(found)
        torch.testing.assert_close(network(x).features, embedded, atol=0, rtol=0)


def one_line(what, *args) -> str:
    with pytest.raises(HorkdError) as error:
        what(*args)
    return tiny.one_line(error, longest=500)


# ImageNet weights


def test_which_weights_are_meant():
    assert imagenet_name("torchvision:resnet50") == "IMAGENET1K_V1"
    assert imagenet_name("timm:resnet50") == "a1_in1k"
    assert imagenet_name("timm:resnet50.tv_in1k") == "tv_in1k"
    known = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.url
    found = published("torchvision:resnet50")[0]
    assert (found.url, found.name, found.begins) == (known, "resnet50-0676ba61.pth", "0676ba61")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet18", "no ImageNet weights for resnet18, .* start from torchvision:resnet18"),
        ("resnet50x0.5", "start from torchvision:resnet50"),
        ("resnet20", "start from torchvision:resnet18"),
        ("resnet19", "unknown model"),
        ("torchvision:resnet19", "torchvision has no classification network"),
        ("torchvision:vit_h_14", "no weights IMAGENET1K_V1 for vit_h_14, only IMAGENET1K_SWAG"),
        ("timm:resnet19", "timm has no network"),
        ("timm:resnet50.nonsense", r"Invalid pretrained tag \(nonsense\) for resnet50"),
        ("timm:resnest14d.gluon_in1k", None),
        ("timm:test_resnet", None),
        ("timm:seresnet18", "timm has no weights for seresnet18"),
    ],
)
def test_names_without_weights(name, says):
    if says is None:
        assert imagenet_name(name)
        return
    with pytest.raises(HorkdError, match=says) as error:
        imagenet_name(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", ["hub", "data"])
def test_torchvisions_weights_arrive_exactly(monkeypatch, request, tv18, x, tries, place):
    publish(monkeypatch, tv18, request.getfixturevalue("hub" if place == "hub" else "weights"))
    torch.manual_seed(1)
    network = Network(replace(TV, num_classes=4))
    fresh = copy.deepcopy([network.backbone.embedding.state_dict(), network.classifier])
    drawn = torch.random.get_rng_state()
    start_backbone(network, "imagenet")
    assert torch.equal(torch.random.get_rng_state(), drawn)  # as if from scratch
    assert network.training
    assert tries == []
    kept = network.backbone.embedding.state_dict()
    assert all(torch.equal(t, kept[n]) for n, t in fresh[0].items())
    assert torch.equal(network.classifier.weight, fresh[1].weight)
    assert_starts(network, tv18, x)


def test_files_without_counters_are_whole(monkeypatch, tv18, x, weights):
    """Those of PyTorch before 0.4.1, as most of torchvision's first weights are."""
    state = {n: t for n, t in tv18.state_dict().items() if not n.endswith("num_batches_tracked")}
    old = copy.deepcopy(tv18)
    old.state_dict = lambda: state
    publish(monkeypatch, old, weights)
    network = Network(TV)
    start_backbone(network, "imagenet")
    assert_starts(network, tv18, x)


def test_old_names_of_torchvision(monkeypatch):
    """DenseNet's published file says norm.1 for norm1, ViT's linear_1 for 0."""
    for name, today, then in (
        ("densenet121", "denselayer1.norm1.", "denselayer1.norm.1."),
        ("vit_b_16", "encoder_layer_0.mlp.0.", "encoder_layer_0.mlp.linear_1."),
    ):
        if name == "vit_b_16":  # a slim one: the real one is 330 MB
            slim = partial(torchvision.models.VisionTransformer, 32, 16, 1, 2, 8, 16, num_classes=3)
            monkeypatch.setattr(imagenet, "_torchvisions", lambda architecture, make=slim: make())
        whole = imagenet._torchvisions(name).state_dict()
        old = {n.replace(today, then): t + 1 for n, t in whole.items()}
        assert old.keys() != whole.keys()
        found = as_torchvision_reads(name, old)
        assert found.keys() == whole.keys()
        assert all(torch.equal(found[n], t + 1) for n, t in whole.items())


@pytest.mark.parametrize("place", ["hub", "weights"])
def test_a_wrong_hash_is_refused(monkeypatch, request, tv18, place):
    path = publish(monkeypatch, tv18, request.getfixturevalue(place))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    network = Network(TV)
    before = copy.deepcopy(network.state_dict())
    message = one_line(start_backbone, network, "imagenet")
    expected = path.stem.partition("-")[2]
    assert f"{path} is damaged or another file" in message
    assert f"not {expected}; download https://x.invalid/models/{path.name} again" in message
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


@pytest.mark.parametrize(
    ("spec", "url", "name"),
    [
        (TV, "https://download.pytorch.org/models/resnet18-f37072fd.pth", "resnet18-f37072fd.pth"),
        (
            TIMM,
            "https://huggingface.co/timm/test_resnet.r160_in1k/resolve/main/model.safetensors",
            "test_resnet.r160_in1k.safetensors",
        ),
    ],
)
@pytest.mark.parametrize("data", [True, False])
def test_weights_that_are_nowhere(monkeypatch, weights, tmp_path, tries, spec, url, name, data):
    if not data:
        monkeypatch.delenv("HORKD_DATA")
    network = Network(spec)
    started = time.monotonic()
    message = one_line(start_backbone, network, "imagenet")
    assert time.monotonic() - started < 5
    assert len(tries) == 1
    folder = weights if data else tmp_path / "torch" / "hub" / "checkpoints"
    assert f"the ImageNet weights of {spec.name} are not here" in message
    assert f"fetch {url} elsewhere and save it as {folder / name}" in message


@pytest.mark.parametrize("data", [True, False])
def test_without_a_home_nothing_is_put_into_a_folder_called_tilde(
    monkeypatch, weights, tmp_path, tries, data
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", "~nobody-of-this-name/torch")
    if not data:
        monkeypatch.delenv("HORKD_DATA")
    message = one_line(start_backbone, Network(TV), "imagenet")
    assert "no home folder is known for them: set HOME, or TORCH_HOME and HF_HOME" in message
    folder = str(weights) if data else "$HORKD_DATA/weights"
    assert message.endswith(f"save it as {folder}/resnet18-f37072fd.pth")
    assert tries == []
    assert not list(tmp_path.glob("~*"))


def test_a_name_server_that_does_not_answer_is_not_waited_for():
    ended = threading.Event()

    def wait(*_: object) -> None:
        ended.wait(20)

    started = time.monotonic()
    with watch.on_event(wait, "socket.getaddrinfo"):
        says = one_line(download, "m", Published("https://y.invalid/w.pth", "w.pth"))
        took = time.monotonic() - started
        ended.set()
    assert "y.invalid does not answer" in says
    assert took < 5


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_args) -> None:
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A web server on this machine; its folder."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "site" / "models"
    folder.mkdir(parents=True)
    handler = partial(_Quiet, directory=folder.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()
        thread.join()


def test_downloads_are_checked_and_kept(monkeypatch, server, tv18, x, hub):
    address, folder = server
    path = publish(monkeypatch, tv18, folder, address)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    network = Network(TV)
    assert "invalid hash value" in one_line(start_backbone, network, "imagenet")
    assert list(hub.iterdir()) == []
    path.write_bytes(content)
    start_backbone(network, "imagenet")
    assert_starts(network, tv18, x)
    path.unlink()
    assert "HTTP Error 404" in one_line(
        download, "m", Published(f"{address}/models/none.pth", "none.pth")
    )
    again = Network(TV)
    start_backbone(again, "imagenet")  # from the cache
    assert_starts(again, tv18, x)


def test_timms_weights_from_a_local_file(of_timm, x, weights, tries):
    save_file(of_timm.state_dict(), weights / "test_resnet.r160_in1k.safetensors")
    network = Network(TIMM)
    start_backbone(network, "imagenet")
    assert_starts(network, of_timm, x)
    assert tries == []


def test_timms_weights_from_the_cache_of_the_hub(of_timm, x, tmp_path, tries):
    folder = tmp_path / "hf" / "models--timm--test_resnet.r160_in1k"
    for name in ("refs", "snapshots/abc"):
        (folder / name).mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    save_file(of_timm.state_dict(), folder / "snapshots" / "abc" / "model.safetensors")
    network = Network(TIMM)
    start_backbone(network, "imagenet")
    assert_starts(network, of_timm, x)
    assert tries == []


def test_timms_weights_under_the_name_of_their_release(monkeypatch, of_timm, x, hub):
    assert published("timm:resnet18")[1].begins == "d63eafa0"
    entry = copy.copy(timm.models.get_pretrained_cfg("test_resnet"))
    entry.url = "https://x.invalid/test_resnet_0-d63eafa0.pth"
    monkeypatch.setattr(imagenet, "_timm_entry", lambda model: entry)
    torch.save(of_timm.state_dict(), hub / "test_resnet_0-d63eafa0.pth")
    network = Network(TIMM)
    assert "not d63eafa0" in one_line(start_backbone, network, "imagenet")
    begins = digest(hub / "test_resnet_0-d63eafa0.pth")[:8]
    (hub / "test_resnet_0-d63eafa0.pth").rename(hub / f"test_resnet_0-{begins}.pth")
    entry.url = entry.url.replace("d63eafa0", begins)
    start_backbone(network, "imagenet")
    assert_starts(network, of_timm, x)


def test_timms_weights_from_the_hub(monkeypatch, of_timm, x, tmp_path):
    asked = []

    def send(repository, name):
        asked.append((repository, name))
        save_file(of_timm.state_dict(), tmp_path / name)
        return tmp_path / name

    monkeypatch.setattr(imagenet, "_from_hub", send)
    network = Network(TIMM)
    assert "huggingface.co does not answer" in one_line(start_backbone, network, "imagenet")
    assert asked == []  # it would try again and again
    monkeypatch.setattr(imagenet, "_answers", lambda url: True)
    start_backbone(network, "imagenet")
    assert asked == [("timm/test_resnet.r160_in1k", "model.safetensors")]
    assert_starts(network, of_timm, x)


@pytest.mark.parametrize("kind", ["missing", "more", "shape"])
@pytest.mark.parametrize("spec", [TV, TIMM])
def test_imagenet_weights_that_do_not_fit(monkeypatch, request, weights, spec, kind):
    source = request.getfixturevalue("of_timm" if spec is TIMM else "tv18")
    state = dict(source.state_dict())
    if kind == "missing":
        del state["layer2.0.conv1.weight"], state["layer2.0.conv2.weight"]
    elif kind == "more":
        state |= {"layer5.weight": torch.zeros(2), "layer6.weight": torch.zeros(2)}
    else:
        state["layer2.0.conv1.weight"] = torch.zeros(3, 3)
    fake = nn.Module()
    fake.state_dict = lambda: state
    if spec is TIMM:
        path = weights / "test_resnet.r160_in1k.safetensors"
        save_file(state, path)
    else:
        path = publish(monkeypatch, fake, weights)
    network = Network(spec)
    before = copy.deepcopy(network.state_dict())
    message = one_line(start_backbone, network, "imagenet")
    assert f"{path} does not fit {spec.name}" in message
    assert ("layer5.weight" if kind == "more" else "layer2.0.conv1.weight") in message
    assert "layer6" not in message
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


# A local file by its digest


def test_a_file_is_found_by_its_digest(tv18, x, weights, recwarn):
    (weights / "a.pth").write_bytes(b"another")
    (weights / "folder").mkdir()
    other = theirs(num_classes=7, seed=4)
    torch.save({"state_dict": other.state_dict()}, weights / "b.pth")
    save_file(
        {f"module.{n}": t for n, t in tv18.state_dict().items()}, weights / "faces.safetensors"
    )
    known_digest.cache_clear()
    for _ in range(2):
        network = Network(TV)
        start_backbone(network, digest(weights / "faces.safetensors"))
        assert_starts(network, tv18, x)
    assert known_digest.cache_info().misses == 3  # each file is read once
    start_backbone(network, digest(weights / "b.pth"))  # another classifier
    assert_starts(network, other, x)
    (weights / "a.pth").write_bytes(b"yet another")
    assert "has digest 0123456789abcdef" in one_line(start_backbone, network, "0123456789abcdef")
    assert known_digest.cache_info().misses == 4  # and the one that changed again
    assert not recwarn.list  # a classifier is expected in such files


def test_a_file_that_is_named(monkeypatch, tmp_path, tv18, x):
    path = tmp_path / "w.pth"
    torch.save(tv18.state_dict(), path)
    network = Network(TV)
    start_backbone(network, digest(path), path)
    assert_starts(network, tv18, x)
    assert "but the run starts from 0123456789abcdef" in one_line(
        start_backbone, network, "0123456789abcdef", path
    )
    assert "there is no weights file" in one_line(
        start_backbone, network, digest(path), tmp_path / "none"
    )
    assert digest(path) in one_line(start_backbone, network, "imagenet", path)
    assert "choose imagenet, or" in one_line(start_backbone, network, "ImageNet")
    monkeypatch.delenv("HORKD_DATA")
    assert "set HORKD_DATA" in one_line(start_backbone, network, digest(path))


def test_a_file_that_does_not_fit(tmp_path, tv18):
    path = tmp_path / "w.pth"
    network = Network(TV)
    before = copy.deepcopy(network.state_dict())
    state = tv18.state_dict()
    for change, says in (
        ({"conv1.weight": torch.zeros(64, 1, 7, 7)}, "conv1.weight is (64, 1, 7, 7) there"),
        ({"conv1.weight": None}, "1 of 120 tensors are not in it, the first is conv1.weight"),
        ({"layer9": torch.zeros(1)}, "1 more tensors, the first is layer9"),
        ({"bn1.bias": torch.full((64,), torch.nan)}, "not finite"),
    ):
        changed = {n: t for n, t in {**state, **change}.items() if t is not None}
        torch.save(changed, path)
        assert says in one_line(start_backbone, network, digest(path), path)
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:test_resnet", "resnet8x0.5"])
@pytest.mark.parametrize("embeddings", [(5, 7), (5, None), (None, 7)])
def test_a_file_of_this_project_without_its_embedding(tmp_path, name, embeddings):
    theirs, ours = (Network(ModelSpec(name, 3, e)) for e in embeddings)
    path = tmp_path / "own.safetensors"
    save_network(path, theirs)
    fresh = copy.deepcopy(ours.state_dict())
    start_backbone(ours, digest(path), path)
    begins = ("backbone.trunk.", "backbone.0.")
    for key, found in ours.state_dict().items():
        expected = theirs.state_dict() if key.startswith(begins) else fresh
        assert torch.equal(found, expected[key]), key


# Maps


@pytest.mark.parametrize(
    ("name", "channels"),
    [("torchvision:resnet18", (64, 128, 256, 512)), ("timm:test_resnet", (32, 48, 192, 96))],
)
def test_maps_are_the_librarys(request, name, channels, x):
    source = request.getfixturevalue("tv18" if name == "torchvision:resnet18" else "of_timm")
    network = Network(ModelSpec(name, 0)).eval()
    network.backbone.trunk.load_state_dict(source.state_dict(), strict=False)
    seen = []
    handles = [
        getattr(source, f"layer{n}").register_forward_hook(lambda _m, _i, out: seen.append(out))
        for n in (1, 2, 3, 4)
    ]
    with torch.no_grad():
        source(x)
        plain, shown = network(x), network(x, maps=True)
    for handle in handles:
        handle.remove()
    assert network.channels == channels
    assert [tuple(m.shape) for m in shown.maps] == [
        (2, k, s, s) for k, s in zip(network.channels, (16, 8, 4, 2), strict=True)
    ]
    for found, expected in zip(shown.maps, seen, strict=True):
        assert torch.equal(found, expected)
    assert plain.maps == ()
    assert torch.equal(plain.features, shown.features)
    assert torch.equal(plain.features, features(source, x))


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("torchvision:resnet50", (256, 512, 1024, 2048)),
        ("torchvision:wide_resnet50_2", (256, 512, 1024, 2048)),
        ("timm:seresnet50", (256, 512, 1024, 2048)),
        ("timm:resnet50d", (256, 512, 1024, 2048)),
        ("timm:res2net50_26w_4s", (256, 512, 1024, 2048)),
        ("timm:resnest14d", (256, 512, 1024, 2048)),
        ("torchvision:mobilenet_v3_small", ()),
        ("timm:mobilenetv3_small_050", ()),
        ("timm:hrnet_w18_small", ()),
    ],
)
def test_channels_are_those_of_the_maps(name, channels):
    with torch.device("meta"):
        network = Network(ModelSpec(name, 0)).eval()
        plain, shown = (network(torch.zeros(1, 3, 64, 64), maps=m) for m in (False, True))
    assert network.channels == channels
    assert tuple(m.shape[1] for m in shown.maps) == channels
    assert shown.features.shape == plain.features.shape


def test_maps_are_gone_with_their_output(x):
    network = Network(TV)
    out = network(x, maps=True)
    watched = [weakref.ref(m) for m in out.maps]
    out.features.sum().backward()
    gradients = [p.grad for p in network.backbone.trunk.parameters()]
    assert all(g is not None for g in gradients)
    del out
    gc.collect()
    assert [w() for w in watched] == [None] * 4
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in network.modules())


def test_calls_side_by_side_do_not_mix(x):
    network = Network(TV).eval()
    images = [x[:1] + k for k in range(4)]
    with torch.no_grad():
        expected = [network(image, maps=True).maps for image in images]
    found: dict[int, list] = {}

    def ask(k: int) -> None:
        with torch.no_grad():
            found[k] = [network(images[k], maps=True).maps for _ in range(3)]

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, maps in enumerate(expected):
        for again in found[k]:
            assert len(again) == 4
            for a, b in zip(again, maps, strict=True):
                torch.testing.assert_close(a, b)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_copies_show_their_own_maps(x, tv18, copied):
    network = Network(replace(TV, embedding=None, num_classes=2)).eval()
    names = {f"backbone.trunk.{n}" for n in tv18.state_dict() if not n.startswith("fc.")}
    assert network.state_dict().keys() == names | {"classifier.weight", "classifier.bias"}
    other = copied(network)
    with torch.no_grad():
        before = network(x, maps=True)
        for parameter in network.parameters():
            parameter.zero_()
        after = other(x, maps=True)
    for a, b in zip(before.maps, after.maps, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(before.logits, after.logits)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:test_resnet"])
def test_a_backbone_is_one_graph_with_and_without_maps(name, x):
    network = Network(ModelSpec(name, 0, 5, unit=True)).eval()
    with torch.no_grad():
        expected = network(x), network(x, maps=True)
        torch.compiler.reset()
        network.backbone.compile(backend="eager", fullgraph=True)
        found = network(x), network(x, maps=True)
    torch.compiler.reset()
    for want, got in zip(expected, found, strict=True):
        torch.testing.assert_close(got.features, want.features)
        torch.testing.assert_close(got.maps, want.maps)


# Features of unit length

UNITS = [
    ModelSpec("resnet8x0.25", 3, unit=True),
    ModelSpec("vgg11x0.1", 3, embedding=6, unit=True),
    ModelSpec("mobilefacenetx0.125", 3, embedding=6, unit=True),
    ModelSpec("torchvision:resnet18", 3, embedding=6, unit=True),
    ModelSpec("timm:test_resnet", 3, unit=True),
]


@pytest.mark.parametrize("spec", UNITS)
def test_features_of_unit_length(spec):
    torch.manual_seed(0)
    network = Network(spec).eval()
    plain = Network(replace(spec, unit=False)).eval()
    plain.load_state_dict(network.state_dict())
    size = 112 if spec.name.startswith("mobilefacenet") else 32
    x = torch.randn(3, 3, size, size)
    with torch.no_grad():
        out, other = network(x, maps=True), plain(x)
    assert len(out.maps) == len(network.channels) > 0
    lengths = other.features.norm(dim=1, keepdim=True)
    assert not torch.allclose(lengths, torch.ones(3, 1), atol=1e-2)
    torch.testing.assert_close(out.features, other.features / lengths)
    torch.testing.assert_close(out.features.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(out.logits, network.classifier(out.features))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = network(x).features
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.norm(dim=1), torch.ones(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(rounded, out.features, atol=0.1, rtol=0)


def test_unit_length_in_double_precision():
    network = Network(UNITS[2]).double().eval()
    out = network(torch.randn(2, 3, 112, 112, dtype=torch.float64))
    assert out.features.dtype == torch.float64
    ones = torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(out.features.norm(dim=1), ones, atol=1e-14, rtol=0)


def test_features_of_length_zero_stay_finite():
    network = Network(UNITS[1])
    nn.init.zeros_(network.backbone[3].weight)
    nn.init.zeros_(network.backbone[3].bias)
    out = network(torch.randn(2, 3, 8, 8))
    assert torch.equal(out.features, torch.zeros(2, 6))
    out.logits.sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_gradients_at_unit_features_are_within_reach():
    network = Network(UNITS[0])
    out = network(torch.randn(4, 3, 16, 16))
    loss = nn.functional.cross_entropy(out.logits, torch.tensor([0, 1, 2, 0]))
    (gradient,) = torch.autograd.grad(loss, out.features)
    soft = out.logits.softmax(1) - nn.functional.one_hot(torch.tensor([0, 1, 2, 0]), 3)
    torch.testing.assert_close(gradient, soft @ network.classifier.weight / 4)


def test_round_trip_of_unit_length(tmp_path):
    path = tmp_path / "n.safetensors"
    network = Network(UNITS[0]).eval()
    save_network(path, network)
    loaded = load_network(path, UNITS[0])
    assert loaded.spec == UNITS[0]
    assert loaded.spec.unit
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(x).features, network(x).features)
    message = one_line(load_network, path, replace(UNITS[0], unit=False))
    assert "embedding None at unit length, not resnet8x0.25 with 3 and None" in message
    assert load_pretrained(path, UNITS[0]).spec.unit
    message = one_line(load_pretrained, path, replace(UNITS[0], unit=False))
    assert "features of unit length, not of any length" in message


def test_a_file_from_before_unit_length(tmp_path):
    network = Network(replace(UNITS[0], unit=False))
    spec = asdict(network.spec)
    assert spec.pop("unit") is False
    path = tmp_path / "n.safetensors"
    save_tensors(path, network.state_dict(), {"spec": spec})
    assert load_network(path).spec == load_network(path, network.spec).spec == network.spec
    assert spec_from_dict(spec).unit is False
