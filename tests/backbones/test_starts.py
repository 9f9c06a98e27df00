"""Weights to start from: what is read, and what is said of files that cannot be."""

import hashlib
import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from glimpse.backbones import BACKBONES, OSNet, Start, build_backbone, load_start, preprocessing, read_safetensors
from glimpse.backbones.fast import folded
from glimpse.errors import WeightsError


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_backbone("osnet_x0_25")


@pytest.fixture
def weights(network, tmp_path):
    """A float16 file of that network with a head, as published files are."""
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    tensors = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    tensors["head_fc.weight"] = torch.zeros(2, 2)
    path = tmp_path / "start.safetensors"
    metadata = {"input": "RGB / 127.5 - 1 (mean 0.5, std 0.5)", "source": "here", "training_data": "noise"}
    save_file(tensors, path, metadata)
    return path


def test_a_file_gives_weights_and_says_what_they_are(network, weights):
    other = build_backbone("osnet_x0_25")
    start = load_start(other, "osnet_x0_25", weights)
    for name, value in other.state_dict().items():
        if value.is_floating_point():
            assert value.dtype == torch.float32
            assert_close(value, network.state_dict()[name].half().float(), rtol=0, atol=0)
    assert start == Start(
        name="start.safetensors",
        sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        source="here",
        training_data="noise",
    )


def test_scratch_changes_nothing(network):
    before = {k: v.clone() for k, v in network.state_dict().items()}
    assert load_start(network, "osnet_x0_25", "scratch") == Start(name="scratch")
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_preprocessing_reads_lists_then_the_sentence_then_imagenet():
    mean, std = [0.1, 0.2, 0.3], [1.0, 2.0, 3.0]
    lists = {"mean": json.dumps(mean), "std": json.dumps(std)}
    assert preprocessing(lists | {"input": "mean 0.5, std 0.5"}) == (tuple(mean), tuple(std))
    assert preprocessing({"input": "mean 0.5, std 0.25"}) == ((0.5,) * 3, (0.25,) * 3)
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert preprocessing({"input": "RGB, ImageNet mean and std"}) == preprocessing({}) == imagenet


@pytest.mark.parametrize("mean", ["[0.5, 0.5]", "0.5", "half", '["a", "b", "c"]'])
def test_preprocessing_that_is_not_three_numbers_is_refused(mean):
    with pytest.raises(WeightsError, match="are not three numbers each"):
        preprocessing({"mean": mean, "std": "[1, 1, 1]"})


def refused(network, start, name="osnet_x0_25") -> str:
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(WeightsError) as error:
        load_start(network, name, start)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items()), "half-loaded weights"
    return str(error.value)


def test_missing_tensors_are_named(network, weights):
    tensors = load_file(weights)
    del tensors["stem.weight"]
    save_file(tensors, weights)
    message = refused(network, weights)
    assert message.startswith(str(weights))
    assert "1 tensors are missing and 0 have another shape (first: stem.weight)" in message
    assert "Remedy: name the backbone that the file was made for" in message


def test_weights_of_another_width_do_not_fit(weights):
    assert "have another shape" in refused(build_backbone("osnet_x0_5"), weights, "osnet_x0_5")


def test_no_file(network, tmp_path):
    message = refused(network, tmp_path / "no.safetensors")
    assert message.startswith(f"{tmp_path / 'no.safetensors'}: there is no such file. Remedy: give the path")


def test_damaged_pickled_and_empty_files_are_not_read(network, weights, tmp_path):
    whole = weights.read_bytes()
    pickled = tmp_path / "model.pth"
    torch.save(network.state_dict(), pickled)
    for name, data in {
        "cut.safetensors": whole[: len(whole) // 2],
        "head.safetensors": whole[:100],
        "empty.safetensors": b"",
        "text.safetensors": b"not weights at all",
        "model.pth": pickled.read_bytes(),
    }.items():
        path = tmp_path / name
        path.write_bytes(data)
        message = refused(network, path)
        assert message.startswith(f"{path}: is not a readable safetensors file")
        assert "Remedy: pickled weights are not read; convert or copy again" in message
    assert str(tmp_path) in refused(network, tmp_path)


def test_an_unknown_backbone_lists_the_known_ones():
    with pytest.raises(WeightsError, match=r"backbone 'vgg': is not known\. Remedy: choose one of osnet_x0_25, "):
        build_backbone("vgg")
    assert len(BACKBONES) == 10


def test_no_imagenet_weights_of_osnet(network):
    assert "no ImageNet weights of OSNet" in refused(network, "imagenet")


def test_no_imagenet_weights_of_ibn_a():
    assert "no ImageNet weights of ResNet-50-IBN-a" in refused(
        build_backbone("resnet50_ibn_a"), "imagenet", "resnet50_ibn_a"
    )


def test_a_download_that_fails_says_what_else_to_give(monkeypatch):
    network = build_backbone("mobilenetv2_100_same")

    def offline(*args, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    message = refused(network, "imagenet", "mobilenetv2_100_same")
    assert "start 'imagenet' of backbone 'mobilenetv2_100_same': cannot be downloaded (no route to host)" in message
    assert "Remedy: check the network, or give a local .safetensors file" in message


def test_resnet_50_starts_from_the_weights_that_the_papers_had(monkeypatch):
    asked = []

    def offline(name, **options):
        asked.append(name)
        raise ConnectionError("no route to host")

    network = build_backbone("resnet50")
    monkeypatch.setattr(timm, "create_model", offline)
    refused(network, "imagenet", "resnet50")
    assert asked == ["resnet50.tv_in1k"]
    assert asked[0] in timm.list_pretrained("resnet50.*")


def test_a_download_is_loaded_and_its_preprocessing_kept(monkeypatch):
    network = build_backbone("mobilenetv2_100")
    trained = timm.create_model("mobilenetv2_100", num_classes=0, global_pool="")
    asked = []
    monkeypatch.setattr(timm, "create_model", lambda name, **options: asked.append((name, options)) or trained)
    start = load_start(network, "mobilenetv2_100", "imagenet")
    assert asked == [("mobilenetv2_100", {"pretrained": True, "num_classes": 0, "global_pool": ""})]
    assert_close(dict(network.net.state_dict()), dict(trained.state_dict()), rtol=0, atol=0)
    assert start.mean == tuple(trained.pretrained_cfg["mean"])
    assert start.name.startswith("imagenet (")
    assert start.training_data == "ImageNet"


@pytest.mark.real_data
def test_published_osnet_loads_whole_and_folds(models):
    path = models / "osnet_lct_reid.safetensors"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    network = build_backbone("osnet_lct_x1_0")
    start = load_start(network, "osnet_lct_x1_0", path)
    tensors, _ = read_safetensors(path)
    assert {k for k in tensors if not k.startswith("head_")} == {
        k for k in network.state_dict() if not k.endswith("num_batches_tracked")
    }
    assert start.mean == (0.485, 0.456, 0.406)
    assert "person-reidentification-retail-0265" in start.source
    x = torch.randn(2, 3, 128, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = network.eval()(x)
        assert_close(folded(network)(x), exact, rtol=0, atol=1e-4 * float(exact.max()))
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(x).float()
    # Trained weights bear bfloat16 well; random ones of this depth do not.
    assert (rough - exact).norm() / exact.norm() < 0.05
    with pytest.raises(WeightsError, match="does not fit backbone 'osnet_x1_0'"):
        load_start(OSNet(1.0), "osnet_x1_0", path)


@pytest.mark.real_data
def test_published_mobilenet_loads_whole(models):
    path = models / "mobilenetv2_100_imagenet.safetensors"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    network = build_backbone("mobilenetv2_100_same")
    start = load_start(network, "mobilenetv2_100_same", path)
    assert (start.mean, start.std) == ((0.5,) * 3, (0.5,) * 3)
    tensors, _ = read_safetensors(path)
    assert set(tensors) == {k for k in network.net.state_dict() if not k.endswith("num_batches_tracked")}
    with torch.no_grad():
        assert network.eval()(torch.zeros(1, 3, 64, 32)).isfinite().all()
