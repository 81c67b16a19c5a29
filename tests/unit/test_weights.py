"""Files that do not fit a network: the first five tensors that differ, and why that is likely so."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_config, tiny_magnet
from safetensors.torch import save_file

import magnet
from magnet import runs
from magnet.models.weights import differences, fill


@pytest.fixture(scope="module")
def networks():
    wide = tiny_magnet().model
    wide = replace(wide, vision=replace(wide.vision, options=wide.vision.options | {"embed_dim": 16}))
    configs = {"lavt": tiny_config().model, "magnet": tiny_magnet().model, "wide": wide}
    configs["pwam"] = replace(configs["magnet"], fusion="pwam")
    return {name: magnet.build_model(config) for name, config in configs.items()}


def refusal(network: torch.nn.Module, tensors: dict) -> str:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ValueError, match=r"^x\.pth does not fit this network; differences: ") as refused:
        fill(network, tensors, "x.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    return str(refused.value)


def test_every_tensor_finds_its_place():
    model = torch.nn.Linear(3, 2)
    fill(model, {"weight": torch.ones(2, 3), "bias": torch.ones(2)}, "x.pth")
    assert model.weight.eq(1).all() and model.bias.eq(1).all()


def test_differences_follow_the_networks_order():
    own = {name: torch.zeros(2) for name in "abcd"}
    given = {"e": torch.zeros(2), "d": torch.zeros(2, 1), "c": torch.tensor([1.0, torch.inf]), "b": torch.zeros(2)}
    expected = ["a is missing", "c is not finite", "d is (2, 1), not (2,)", "e has no place"]
    assert differences(own, given) == expected and differences(own, own) == []


@pytest.mark.parametrize(
    "network, given, first, reason",
    [
        (
            "magnet",
            "lavt",
            "image_sides.0.full.pixel.weight is missing",
            "it has decoder, fusions, norms and lacks image_s",
        ),
        ("lavt", "magnet", "fusions.0.pixel.weight is missing", "and lacks decoder, fusions, norms"),
        (
            "magnet",
            "pwam",
            "image_sides.0.full.query_norm.weight is missing",
            "another kind of network: it lacks text_sides",
        ),
        ("magnet", "wide", "vision.body.patch_embed.proj.weight is (16, ", "another size or kind"),
    ],
)
def test_a_file_of_another_kind_or_size(networks, network, given, first, reason):
    message = refusal(networks[network], networks[given].state_dict())
    shown, _, why = message.partition(", first ")[2].partition(". It is ")
    assert len(shown.split("; ")) == 5 and shown.startswith(first) and reason in why


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("query_decoder.query"), "differences: 1, first query_decoder.query is missing. It was saved"),
        (lambda t: t.update(surprise=torch.zeros(1)), "first surprise has no place. It holds more than"),
        (lambda t: t["query_decoder.query"].fill_(torch.nan), "query is not finite. It was damaged"),
        (
            lambda t: t.update({"query_decoder.query": torch.zeros(2, 16)}),
            "query is (2, 16), not (1, 16). All others fit",
        ),
        (lambda t: kind(t, lambda q: q.long()), "query_decoder.query holds int64, not float32. All others fit"),
        (lambda t: kind(t, lambda q: q.to(torch.complex64)), "query holds complex64, not float32."),
        (lambda t: kind(t, lambda q: q.to_sparse()), "query holds sparse_coo float32, not float32."),
        (lambda t: kind(t, lambda q: torch.quantize_per_tensor(q, 0.1, 0, torch.qint8)), "holds qint8, not float32."),
        (lambda t: kind(t, lambda q: q.double() + 1e300), "query_decoder.query is not finite."),
    ],
)
def test_one_tensor_that_does_not_fit(networks, change, message):
    tensors = {name: tensor.clone() for name, tensor in networks["magnet"].state_dict().items()}
    change(tensors)
    assert message in refusal(networks["magnet"], tensors)


def kind(tensors: dict, change) -> None:
    tensors["query_decoder.query"] = change(tensors["query_decoder.query"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_precision_becomes_the_networks(dtype):
    model = torch.nn.Linear(3, 2)
    given = {"weight": torch.ones(2, 3, dtype=dtype), "bias": torch.ones(2)}
    fill(model, given, "x.pth", assign=True)
    assert model.weight.dtype == torch.float32 and model(torch.ones(3)).eq(4).all()


def test_training_says_why_it_cannot_start_from_a_file(run_root, tmp_path, networks):
    save_file(networks["lavt"].state_dict(), tmp_path / "lavt.safetensors")
    with pytest.raises(ValueError, match=r"^init does not fit .*it has decoder, fusions, norms and lacks image"):
        magnet.fit(tiny_magnet(), init=tmp_path / "lavt.safetensors", progress=False)


@pytest.mark.parametrize("source", ["absent.pth", "lavt_tiny"])
def test_a_path_that_leads_nowhere_is_named(run_root, tmp_path, source):
    runs.open_run(tiny_config()).weights.touch()  # a recipe's name means its newest run, a path means that path
    path = str(tmp_path / source)
    with pytest.raises(FileNotFoundError, match=rf"no run and no file '{path}'\. Runs in .*lavt_tiny-"):
        runs.find(path)
    with pytest.raises(
        FileNotFoundError, match=rf"{path}: no such checkpoint; give" if "." in source else "no run and"
    ):
        magnet.fit(tiny_magnet(), init=path)


def test_a_file_of_weights_is_no_run(run_root, tmp_path):
    path = tmp_path / "released.pth"
    path.touch()
    with pytest.raises(ValueError, match=r"released\.pth is a file of weights.*magnet\.load_released"):
        runs.find(str(path))
    for read in (magnet.load, magnet.evaluate):  # these read released files, and this is none
        with pytest.raises(ValueError, match=r"released\.pth: not a checkpoint of PyTorch"):
            read(str(path))
