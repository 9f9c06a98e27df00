"""Weights and cards written and read again, and crops embedded."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

from glimpse import model as room
from glimpse.backbones import BACKBONES, Backbone, Look, build_backbone, load_start
from glimpse.data import Sample
from glimpse.data.transforms import EvalTransform
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, DataError, EmbeddingError, WeightsError
from glimpse.methods import Baseline
from glimpse.model import Card, Model, build, load, packaged, read_card, save


class Patches(Backbone):
    """Stands in for `osnet_x0_25`: one convolution, so that bounds on rounding are those of the heads."""

    channels = 16

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 16, stride=16)

    def look(self, x, visible=None):
        return Look(self.conv(x).relu(), visible)


@pytest.fixture
def patches(monkeypatch):
    monkeypatch.setitem(BACKBONES, "osnet_x0_25", Patches)


OPTIONS = {
    "qpm": {"strips": 2, "dim": 16},
    "pcb": {"strips": 2, "dim": 8},
    "fpr": {"dim": 16, "bands": 2},
    "baseline": {},
}
SIZE, HALF = (64, 32), (0.5, 0.5, 0.5)


def made(method: str = "qpm", seed: int = 0, ids: int = 3, visibility: bool = False, **how) -> Model:
    torch.manual_seed(seed)
    card = Card(
        method=method,
        options=OPTIONS[method],
        backbone="osnet_x0_25",
        visibility=visibility,
        size=SIZE,
        mean=HALF,
        std=HALF,
        ids=ids,
    )
    network = build(card)
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return Model(network, card, f"{method}@{seed}", **{"precision": "float32"} | how)


def crop(seed: int, width: int = 24, height: int = 50) -> Image.Image:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (6, 3, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)


CROPS = [crop(i) for i in range(7)]


def same(one: Embedding, two: Embedding, atol: float = 0.0) -> None:
    assert one.names == two.names
    for name in one.names:
        assert_close(one[name], two[name], rtol=0, atol=atol)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("method", sorted(OPTIONS))
def test_what_is_saved_embeds_the_same_when_loaded(method, tmp_path):
    model, path = made(method), tmp_path / "new" / "weights.safetensors"
    model.save(path)
    again = load(path, precision="float32")
    same(model.embed(CROPS), again.embed(CROPS))
    assert again.card == model.card
    assert sorted(p.name for p in path.parent.iterdir()) == ["weights.json", "weights.safetensors"]
    assert again.made_by.startswith(f"{method}@")
    assert len(again.made_by) == len(method) + 1 + 8
    assert again.embed(CROPS[:1]).made_by == again.made_by


@pytest.mark.parametrize("method", sorted(OPTIONS))
def test_weights_for_search_are_half_as_large_and_embed_nearly_the_same(method, tmp_path, patches):
    model = made(method)
    model.save(tmp_path / "full.safetensors")
    model.save(tmp_path / "search.safetensors", for_search=True)
    tensors = load_file(tmp_path / "search.safetensors")
    assert not [name for name in tensors if "classifier" in name]
    # Variances go down to 1e-8, below what half precision holds.
    kept = {t.dtype for name, t in tensors.items() if "running_var" not in name and "num_batches" not in name}
    assert kept == {torch.float16}
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("search", "full")]
    assert sizes[0] < 0.65 * sizes[1]
    again = load(tmp_path / "search.safetensors", precision="float32")
    assert again.card.ids == 0
    same(model.embed(CROPS), again.embed(CROPS), atol=0.01)


@pytest.mark.parametrize("method", sorted(OPTIONS))
def test_a_visibility_head_is_saved_and_loaded_with_the_rest(method, tmp_path):
    model = made(method, visibility=True)
    model.save(tmp_path / "whole.safetensors")
    again = load(tmp_path / "whole.safetensors", precision="float32")
    assert again.card.visibility
    assert again.method.backbone.visibility is not None
    one = model.embed(CROPS)
    same(again.embed(CROPS), one)
    same(model.embed(CROPS, [(0, 0, 24, 25)] * 7), again.embed(CROPS, [(0, 0, 24, 25)] * 7))
    if "weights" in one.names:
        assert (one["weights"] < 1).all()
    model.save(tmp_path / "search.safetensors", for_search=True)
    assert load(tmp_path / "search.safetensors").method.backbone.visibility is not None


def test_what_the_head_sees_can_be_asked_for():
    model = made("pcb", visibility=True, batch=3)
    seen = model.visibility(CROPS)
    assert (seen.shape, seen.dtype) == ((7, 4, 2), torch.float32)
    # Strips of two rows: their weights are what is seen of them.
    assert_close(model.embed(CROPS)["weights"], seen.reshape(7, 2, 4).mean(2), rtol=0, atol=1e-5)
    told = model.visibility(CROPS, [(0, 0, 24, 25)] * 7)
    assert told[:, 2:].max() < 0.02  # the rim of the box, which resizing leaves
    assert told[:, :2].min() > 0.5
    with pytest.raises(DataError, match="images: there is nothing to look at"):
        model.visibility([])
    with pytest.raises(WeightsError, match=r"qpm@0: have no head .* Remedy: train them with `visibility: true`"):
        made().visibility(CROPS)


def test_a_card_from_before_visibility_heads_is_read(tmp_path):
    model, path = made(), tmp_path / "old.safetensors"
    model.save(path)
    card = json.loads(path.with_suffix(".json").read_text())
    assert (card.pop("visibility"), card.pop("interpolation")) == (False, "bicubic")
    path.with_suffix(".json").write_text(json.dumps(card))
    again = load(path, precision="float32")
    assert (again.card.visibility, again.method.backbone.visibility) == (False, None)
    same(again.embed(CROPS), model.embed(CROPS))


def test_crops_are_resized_as_the_card_says():
    model = made()
    bilinear = Model(
        model.method, model.card.model_copy(update={"interpolation": "bilinear"}), "qpm@0", precision="float32"
    )
    pixels, _ = EvalTransform(SIZE, HALF, HALF, "bilinear")(CROPS[0])
    with torch.inference_mode():
        expected = model.method.embed(model.method(pixels[None]))["parts"]
    assert_close(bilinear.embed(CROPS[:1])["parts"], expected, rtol=0, atol=1e-5)
    assert (model.embed(CROPS[:1])["parts"] - expected).abs().max() > 1e-3


def test_weights_with_a_head_do_not_fit_a_card_without(tmp_path):
    path = tmp_path / "weights.safetensors"
    made(visibility=True).save(path)
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(card | {"visibility": False}))
    assert "does not fit its card (first tensor that differs: backbone.visibility.bias)" in refused(path)


def test_hashes_tell_weights_apart(tmp_path):
    makers = []
    for seed in (0, 1):
        made(seed=seed).save(tmp_path / f"{seed}.safetensors")
        makers.append(load(tmp_path / f"{seed}.safetensors").embed(CROPS[:2]))
    shutil.copy(tmp_path / "0.safetensors", tmp_path / "copy.safetensors")
    shutil.copy(tmp_path / "0.json", tmp_path / "copy.json")
    assert makers[0].made_by != makers[1].made_by
    assert load(tmp_path / "copy.safetensors").made_by == makers[0].made_by
    with pytest.raises(EmbeddingError, match="made by different weights"):
        made().distance().matrix(*makers)


def test_weights_have_one_name_only(tmp_path):
    with pytest.raises(ConfigError, match=r"weights.pt: is not a name for weights. Remedy: let it end in .safetensors"):
        made().save(tmp_path / "weights.pt")
    assert not list(tmp_path.iterdir())


def refused(path: Path | str) -> str:
    with pytest.raises(WeightsError) as error:
        load(path)
    return str(error.value)


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "weights.safetensors"
    made().save(path)
    return path


def test_unknown_names_list_what_is_installed(monkeypatch, weights):
    monkeypatch.setattr(room, "packaged", lambda: {"default": weights, "small": weights})
    assert refused("larger") == (
        "larger: is neither a file nor installed weights (default, small). "
        "Remedy: give the path of a .safetensors file."
    )
    assert load("small").made_by.startswith("weights@")
    assert refused("no/such.safetensors").startswith("no/such.safetensors: there is no such file")


def test_installed_weights_have_cards():
    assert "default" in packaged()
    for name, path in packaged().items():
        assert path.with_suffix(".json").exists(), name


def test_a_card_is_needed(weights):
    weights.with_suffix(".json").unlink()
    message = refused(weights)
    assert message.startswith(f"{weights.with_suffix('.json')}: the card of the weights is missing")
    assert "Remedy: keep the .json beside the .safetensors" in message


def test_a_card_that_is_a_folder_cannot_be_read(weights):
    weights.with_suffix(".json").unlink()
    weights.with_suffix(".json").mkdir()
    assert "the card cannot be read" in refused(weights)


@pytest.mark.parametrize("text", [b"not json", b"", b"\xff\xfe\x00"])
def test_a_card_is_json(weights, text):
    weights.with_suffix(".json").write_bytes(text)
    assert f"{weights.with_suffix('.json')}: is not JSON" in refused(weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "field 'colour': extra inputs are not permitted"),
        ({"size": [64]}, "field 'size.1': field required"),
        ({"backbone": "vgg"}, "field 'backbone': input should be 'osnet_x0_25'"),
        ({"ids": -1}, "field 'ids': input should be greater than or equal to 0"),
        ({"method": "magic"}, "method 'magic': is not known. Remedy: choose one of baseline, pcb, pgfa, sgsfa"),
    ],
)
def test_wrong_cards_name_the_field(weights, change, message):
    card = weights.with_suffix(".json")
    card.write_text(json.dumps(json.loads(card.read_text()) | change))
    assert message in refused(weights)


def test_wrong_options_in_a_card_name_the_field(weights):
    card = weights.with_suffix(".json")
    card.write_text(json.dumps(json.loads(card.read_text()) | {"options": {"stripes": 2}}))
    with pytest.raises(ConfigError, match="options of 'qpm': field 'stripes'"):
        load(weights)


def test_weights_that_do_not_fit_their_card(weights, tmp_path):
    card = weights.with_suffix(".json")
    whole = json.loads(card.read_text())
    for change in ({"options": {"strips": 2, "dim": 32}}, {"ids": 4}, {"backbone": "osnet_x0_5"}):
        card.write_text(json.dumps(whole | change))
        message = refused(weights)
        assert f"{weights}: does not fit its card (first tensor that differs: " in message
        assert "Remedy: keep .safetensors and .json of one training together" in message
    card.write_text(json.dumps(whole))
    tensors = load_file(weights)
    save_file({k: v for k, v in tensors.items() if k != "to_g.weight"}, weights)
    assert "(first tensor that differs: to_g.weight)" in refused(weights)
    save_file(tensors | {"more": torch.zeros(1)}, weights)
    assert "(first tensor that differs: more)" in refused(weights)


def test_damaged_and_pickled_weights(weights, tmp_path):
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert "is not a readable safetensors file" in refused(weights)
    pickled = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1)}, pickled)
    assert "pickled weights are not read" in refused(pickled)


def test_card_read_is_card_written(tmp_path):
    card = Card(
        method="qpm",
        options={"dim": 8},
        backbone="osnet_x0_25",
        size=SIZE,
        mean=HALF,
        std=HALF,
        recipe={"a": [1]},
        metrics={"mAP": 0.5},
    )
    save(build(card), card, tmp_path / "a.safetensors")
    assert read_card(tmp_path / "a.json") == card


# ---------------------------------------------------------------- embedding


def test_batches_change_nothing(patches):
    whole = made().embed(CROPS)
    for batch in (1, 3, 7, 100):
        same(made(batch=batch).embed(iter(CROPS)), whole, atol=1e-5)


def test_rows_are_in_the_order_of_the_crops(patches):
    model = made(batch=2)
    together = model.embed(CROPS)
    for row in (0, 3, 6):
        same(model.embed([CROPS[row]]), together[row], atol=1e-5)


@pytest.mark.parametrize("method", sorted(OPTIONS))
def test_prompts_belong_to_their_crop(method, patches):
    model, box = made(method), (0, 0, 24, 25)
    mask = np.zeros((50, 24), bool)
    mask[:25] = True
    mixed = model.embed([CROPS[0]] * 4, [None, box, mask, mask.astype(np.float32)])
    same(mixed[0], model.embed(CROPS[:1]), atol=1e-5)
    for row in (1, 2, 3):
        same(mixed[row], model.embed(CROPS[:1], [box]), atol=1e-5)
    assert any((mixed[0][name] - mixed[1][name]).abs().max() > 0.01 for name in mixed.names)
    if "weights" in mixed.names:
        # Windows of FPR reach over the edges of its bands.
        left = 0.25 if method == "fpr" else 0.1
        assert mixed["weights"][1, 1] < left * mixed["weights"][0, 1]


def test_what_a_prompt_hides_is_not_seen(patches):
    model, box = made(), (0, 0, 24, 25)
    other = CROPS[0].copy()
    other.paste(CROPS[1].crop((0, 25, 24, 50)), (0, 25))
    one, two = model.embed([CROPS[0], other], [box, box])[0], model.embed([other], [box])
    same(one, two, atol=1e-5)
    plain = model.embed([CROPS[0], other])
    assert (plain["weights"][0] - plain["weights"][1]).abs().max() > 1e-3


def test_there_are_as_many_prompts_as_crops(patches):
    with pytest.raises(DataError, match=r"visible: has fewer regions than there are crops \(crop 1 is the first\)"):
        made().embed(CROPS, [(0, 0, 24, 25)])
    with pytest.raises(DataError, match=r"visible: has more regions than there are crops \(crop 2 is the first\)"):
        made().embed(CROPS[:2], iter([None] * 3))


def test_prompts_that_do_not_fit_are_named(patches):
    with pytest.raises(DataError, match=r"the mask is .* but the image is 50 x 24"):
        made().embed(CROPS[:1], [np.ones((24, 50), bool)])
    with pytest.raises(DataError, match="nothing of the crop is visible"):
        made().embed(CROPS[:1], [(100, 0, 200, 10)])


def test_nothing_to_embed():
    with pytest.raises(DataError, match=r"images: there is nothing to embed\. Remedy: give at least one crop"):
        made().embed([])


def test_bfloat16_is_close_to_float32(patches):
    exact, rough = (made(precision=precision).embed(CROPS) for precision in ("float32", "bfloat16"))
    assert {rough[name].dtype for name in rough.names} == {torch.float32}
    distance = made().distance(neighbours=7)
    exact_matrix = distance.matrix(exact, exact)
    rough_matrix = distance.matrix(*(Embedding(e.tensors) for e in (rough, rough)))
    assert (exact_matrix - rough_matrix).abs().max() < 0.05
    assert (exact["weights"] - rough["weights"]).abs().max() < 0.02
    assert (exact_matrix - rough_matrix).abs().max() > 0  # it is another precision


def test_settings_that_do_not_exist_are_refused(patches):
    with pytest.raises(
        ConfigError, match=r"precision: 'fp16' is not known\. Remedy: choose one of auto, float32, bfloat16"
    ):
        made(precision="fp16")
    with pytest.raises(ConfigError, match="batch: 0 crops per pass are too few"):
        made(batch=0)


def test_distance_takes_the_methods_options_only(patches):
    assert made().distance(gamma=0.5, neighbours=3).n == 3
    with pytest.raises(ConfigError, match=r"distance of 'baseline': has no option 'gamma'"):
        made("baseline").distance(gamma=0.5)


def test_parts_and_size_are_the_methods(patches):
    model = made()
    assert model.size == SIZE
    assert model.part_names == ["strip 1", "strip 2"]
    assert [region.box for region in model.regions] == [(0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0)]


# ---------------------------------------------------------------- samples


class Memory:
    """Crops in a dict; crop 2 is damaged and crop 4 is no picture."""

    root = "memory"

    def read(self, name: str) -> bytes:
        row = int(name.removesuffix(".png"))
        if row == 4:
            return b"text"
        file = io.BytesIO()
        CROPS[row].save(file, "PNG")
        return file.getvalue()[: 100 if row == 2 else None]


SAMPLES = [Sample(Memory(), f"{row}.png", row + 1) for row in range(7)]
GOOD = [0, 1, 3, 5, 6]


def test_samples_are_embedded_as_their_crops(patches):
    model = made(batch=2)
    good = [SAMPLES[row] for row in GOOD]
    done: list[int] = []
    result = model.embed_samples(good, progress=done.append)
    same(result.embedding, model.embed([CROPS[row] for row in GOOD]))
    assert (result.kept, result.bad, sum(done)) == ([0, 1, 2, 3, 4], [], 5)


def test_a_bad_crop_stops_unless_it_is_skipped(patches):
    model = made(batch=3)
    with pytest.raises(DataError, match=r"memory/2.png"):
        model.embed_samples(SAMPLES)
    result = model.embed_samples(SAMPLES, skip_bad=True)
    assert result.kept == GOOD
    assert [error.where for error in result.bad] == ["memory/2.png", "memory/4.png"]
    same(result.embedding, model.embed([CROPS[row] for row in GOOD]), atol=1e-5)


def test_when_every_crop_is_bad_nothing_is_embedded(patches):
    with pytest.raises(DataError, match=r"memory/2.png: no crop can be read"):
        made().embed_samples([SAMPLES[2], SAMPLES[4]], skip_bad=True)
    with pytest.raises(DataError, match="crops: no crop can be read"):
        made().embed_samples([])


def test_edits_get_the_row_of_the_sample_and_may_prompt(patches):
    model, box, rows = made(batch=2), (0, 0, 24, 25), []

    def edit(row, image):
        rows.append(row)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), box if row == 3 else None

    result = model.embed_samples(SAMPLES, edit=edit, skip_bad=True)
    assert rows == GOOD
    flipped = [CROPS[row].transpose(Image.Transpose.FLIP_LEFT_RIGHT) for row in GOOD]
    same(result.embedding, model.embed(flipped, [box if row == 3 else None for row in GOOD]), atol=1e-5)


# ---------------------------------------------------------------- the published peer


@pytest.mark.real_data
def test_the_published_peer_loads_without_a_card_and_survives_saving(models, tmp_path):
    path = models / "osnet_lct_reid.safetensors"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    exact = load(path, precision="float32")
    assert (exact.card.method, exact.card.size, exact.card.mean) == ("peer", (256, 128), (0.485, 0.456, 0.406))
    assert "Apache-2.0" in exact.card.terms
    crops = CROPS[:3]
    one = exact.embed(crops)
    exact.save(tmp_path / "peer.safetensors")
    same(load(tmp_path / "peer.safetensors", precision="float32").embed(crops), one, atol=1e-5)
    rough = load(path, precision="bfloat16").embed(crops)
    cosine = nn.functional.cosine_similarity(one["globals"], rough["globals"])
    assert cosine.min() > 0.995


def test_weights_of_a_method_are_a_start_for_another(tmp_path: Path) -> None:
    backbone = build_backbone("osnet_x0_25")
    card = Card(method="baseline", backbone="osnet_x0_25", size=(128, 64), mean=(0.5,) * 3, std=(0.25,) * 3, ids=3)
    save(Baseline(backbone, 3), card, tmp_path / "a.safetensors")
    other = build_backbone("osnet_x0_25")
    start = load_start(other, "osnet_x0_25", tmp_path / "a.safetensors")
    assert start.mean == (0.5, 0.5, 0.5)
    assert start.std == (0.25, 0.25, 0.25)
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
