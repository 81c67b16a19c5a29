"""Released files in use: found, checked, loaded where they lie, converted, scored, trained further."""

import argparse
import dataclasses
import hashlib
import json
import os
import pickle
import random
import shutil
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ASSETS
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

import magnet
from magnet import cli, runs
from magnet.config import DataConfig
from magnet.data import family, load_tokenizer
from magnet.data.files import load_refs
from magnet.data.text import REFSHAPES_VOCABULARY
from magnet.models import checkpoints, released
from magnet.models.checkpoints import Known, find_checkpoint
from magnet.models.released import convert, released_config
from magnet.workbench.published import COLUMNS
from magnet.workbench.weights import benchmark_weights

from .recipe import make_inputs, make_weights, read_shapes
from .test_magnet import SALT, shrink


@pytest.fixture(scope="module")
def tensors() -> dict:
    """A small MagNet, under the authors' names, that reads RefShapes' words."""
    shapes = shrink(read_shapes("magnet_released_swin-tiny"))
    words = "language_model.embeddings.word_embeddings.weight"
    shapes[words] = [[len(load_tokenizer("refshapes")), shapes[words][0][1]], shapes[words][1]]
    return make_weights(shapes, SALT)


@pytest.fixture
def file(tensors, tmp_path):
    path = tmp_path / "magnet_refcoco.pth"
    torch.save({"model": tensors}, path)
    return path


@pytest.fixture(autouse=True)
def known(monkeypatch, request):
    """The published checksums are those of files that are not here."""
    monkeypatch.setitem(checkpoints.KNOWN, "magnet_refcoco.pth", Known(None, "refcoco", "unc"))


# --- found and checked ------------------------------------------------------------------------------------------------


def test_a_file_under_a_published_name_must_be_that_file(file, monkeypatch):
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(checkpoints.KNOWN, file.name, Known(digest, "refcoco", "unc"))
    assert find_checkpoint(file) == file
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"its sha256 is .*, the published magnet_refcoco.pth has {digest}: cut short"):
        magnet.load_released(file)


def test_a_member_that_never_arrived_is_noticed(file):
    """A file made to its size before it was filled has a whole directory and zeros where weights should be."""
    with zipfile.ZipFile(file) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    content = file.read_bytes()
    middle = largest.header_offset + len(largest.FileHeader()) + largest.file_size // 2
    file.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
    with pytest.raises(ValueError, match=f"{largest.filename} is not what its checksum says"):
        magnet.load_released(file)


def test_a_compressed_file_is_not_taken_for_weights(file, tmp_path):
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as other:
        for member in archive.namelist():
            other.writestr(member, archive.read(member))
    with pytest.raises(ValueError, match="is compressed"):
        magnet.load_released(packed)


def test_a_file_is_read_for_its_checksum_once(file, monkeypatch):
    read, digest = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *about: read.append(about) or digest(*about))
    known = Known(hashlib.sha256(file.read_bytes()).hexdigest(), "refcoco", "unc")
    monkeypatch.setitem(checkpoints.KNOWN, file.name, known)
    released_config(file), magnet.load_released(file), checkpoints.sha256(file)
    assert len(read) == 1
    os.utime(file, (1, 1))
    find_checkpoint(file)
    assert len(read) == 2


def test_a_name_on_the_hub(file, monkeypatch):
    asked = []
    monkeypatch.setattr(checkpoints, "hf_hub_download", lambda *where: asked.append(where) or str(file))
    assert find_checkpoint("magnet_refcoco.pth") == find_checkpoint("someone/weights/magnet_refcoco.pth") == file
    assert asked == [("yxchng/magnet_weights", "magnet_refcoco.pth"), ("someone/weights", "magnet_refcoco.pth")]


def test_neither_here_nor_on_the_hub(monkeypatch):
    def offline(*_):
        raise ConnectionError("no network")

    monkeypatch.setattr(checkpoints, "hf_hub_download", offline)
    with pytest.raises(FileNotFoundError, match=r"not to be had from the Hugging Face hub \(ConnectionError\)"):
        find_checkpoint("magnet_refcoco.pth")
    with pytest.raises(FileNotFoundError, match=r"mine\.pth: no such checkpoint; give its path, OWNER.*all\.pth"):
        find_checkpoint("mine.pth")


def test_what_the_name_says_about_the_data():
    assert released_data("magnet_refcocog_umd.pth") == ("refcocog", "umd", 480)
    assert released_data("folder/magnet_all.pth") == ("refcoco", "unc", 448)


def released_data(name: str) -> tuple:
    data = checkpoints.data_of(name)
    return data.name, data.split_by, data.image_size


# --- loaded -----------------------------------------------------------------------------------------------------------


def test_a_files_tensors_are_used_where_they_lie_and_a_dictionarys_copied(file, tensors):
    model = magnet.load_released(file)
    name, theirs = "query_decoder.query", tensors["classifier.predictor.query_feat.weight"]
    assert str(file) in Path("/proc/self/maps").read_text()
    model.train().requires_grad_()
    with torch.no_grad():
        model.get_parameter(name).add_(1)  # what is written is this process's own
    assert torch.equal(magnet.load_released(file).state_dict()[name], theirs)
    given = magnet.load_released(tensors)
    with torch.no_grad():
        given.get_parameter(name).add_(1)
    assert torch.equal(
        magnet.load_released(tensors).state_dict()[name], tensors["classifier.predictor.query_feat.weight"]
    )


@torch.no_grad()
def test_a_text_side_whose_gates_are_closed_is_said_and_skipped(tensors, caplog, monkeypatch):
    gates = [name for name in tensors if name.startswith("language_model.res_gates.")]
    closed = {**tensors, **{name: torch.zeros_like(tensors[name]) for name in gates}}
    open_model, model = magnet.load_released(tensors), magnet.load_released(closed)
    assert caplog.text.count("all gates of the text side are zero; it is skipped") == 1
    images, token_ids, token_mask = make_inputs(2, 64, 96)
    inputs = images, token_ids % 40, token_mask
    quick = model(*inputs)["mask_logits"]
    whole = model.train()  # where nothing is skipped; nothing else of this network depends on the mode
    for module in whole.modules():
        module.training = module in set(whole.text_sides)
    calls = count_calls(monkeypatch)
    assert torch.equal(whole(*inputs)["mask_logits"], quick) and calls == ["text side"] * len(whole.text_sides)
    calls.clear()
    assert torch.equal(model.eval()(*inputs)["mask_logits"], quick) and calls == []
    open_model(*inputs)
    assert calls == ["text side"] * len(model.text_sides)


def count_calls(monkeypatch) -> list[str]:
    from magnet.models import cam

    calls, centre = [], cam.centre
    monkeypatch.setattr(cam, "centre", lambda tokens: calls.append("text side") or centre(tokens))
    return calls


@torch.no_grad()
def test_a_gate_that_opens_is_noticed(tensors):
    gates = [name for name in tensors if name.startswith("language_model.res_gates.")]
    model = magnet.load_released({**tensors, **{name: torch.zeros_like(tensors[name]) for name in gates}})
    gate = model.text_sides[0].gate
    assert gate.is_closed()
    gate.outer.weight.fill_(1)
    assert gate.is_closed()  # the inner matrix is still zero
    gate.inner.weight[0, 0] = 1
    assert not gate.is_closed()


# --- of other kinds, hostile, damaged ---------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_precision_is_converted_and_said(tensors, tmp_path, dtype, caplog):
    other = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    torch.save({"model": other}, tmp_path / "x.pth")
    model = magnet.load_released(tmp_path / "x.pth")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert f"tensors in {str(dtype)[6:]}, not float32; they are converted" in caplog.text
    images, token_ids, token_mask = make_inputs(1, 64, 64)
    assert model(images, token_ids % 40, token_mask)["mask_logits"].isfinite().all()


@pytest.mark.parametrize("change", [torch.Tensor.long, torch.Tensor.to_sparse, lambda t: t.to(torch.complex64)])
def test_a_tensor_of_another_kind_is_named(tensors, tmp_path, change):
    name = "classifier.predictor.query_feat.weight"
    torch.save({"model": {**tensors, name: change(tensors[name])}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=rf"x\.pth.* first {name} holds "):
        magnet.load_released(tmp_path / "x.pth")


class Harmful:
    def __reduce__(self):
        return os.system, ("exit 1",)


@pytest.mark.parametrize("beside", [Harmful(), argparse.Namespace(inside=Harmful())])
def test_code_in_a_file_is_named_and_not_run(tensors, tmp_path, beside, monkeypatch):
    torch.save({"model": tensors, "x": beside}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"refused, .*it names posix\.system\. Nothing of it was run"):
        magnet.load_released(tmp_path / "x.pth")


def test_a_bare_pickle_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "x.pth").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match=r"refused, .*a plain pickle\..* torch\.save\(\{'model'"):
        magnet.load_released(tmp_path / "x.pth")


@pytest.mark.parametrize("best", [np.float64(3.5), np.float32(3.5), np.int64(3), np.bool_(True)])
def test_numbers_of_numpy_may_stand_beside_the_weights(tensors, tmp_path, best):
    torch.save({"state_dict": tensors, "best": best}, tmp_path / "x.pth")
    assert magnet.load_released(tmp_path / "x.pth").config == magnet.load_released(tensors).config


def test_objects_of_numpy_may_not(tensors, tmp_path):
    torch.save({"model": tensors, "x": np.array([{}], dtype=object)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"refused, .*it names numpy"):
        magnet.load_released(tmp_path / "x.pth")


def test_a_pickle_with_changed_bytes_is_refused_whatever_it_fails_as(tmp_path):
    torch.save({"model": {"a": torch.ones(2)}, "args": argparse.Namespace(x=1)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as file:
        held = {name: file.read(name) for name in file.namelist()}
    chance, causes = random.Random(0), set()
    for _ in range(600):
        with zipfile.ZipFile(tmp_path / "y.pth", "w") as file:
            for name, content in held.items():
                file.writestr(name, changed(content, chance) if name.endswith("data.pkl") else content)
        try:
            checkpoints.read_checkpoint(tmp_path / "y.pth")
        except ValueError as error:
            assert "y.pth" in str(error)
            causes.add(type(error.__cause__))
    assert causes & {KeyError, IndexError, TypeError, AttributeError, struct.error}  # not of the kinds one expects


def changed(content: bytes, chance: random.Random) -> bytes:
    content = bytearray(content)
    for _ in range(2):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content)


# --- converted, scored, trained further -------------------------------------------------------------------------------


@torch.no_grad()
def test_a_converted_file_is_a_run_that_answers_alike(file, tmp_path):
    folder = convert(file, tmp_path / "converted", vocabulary="refshapes")
    run, images = runs.find(folder), make_inputs(1, 64, 64)
    inputs = images[0], images[1] % 40, images[2]
    assert torch.equal(run.load_model()(*inputs)["mask_logits"], magnet.load_released(file)(*inputs)["mask_logits"])
    data = DataConfig(root=str(ASSETS), image_size=64)
    assert len(magnet.evaluate(folder, data, num_expressions=4, progress=False)) == 4
    predictor = magnet.load(folder)
    predictor.set_image(torch.zeros(64, 64, 3, dtype=torch.uint8).numpy())
    assert predictor.predict("the red star")[0].shape == (64, 64)
    with pytest.raises(ValueError, match="converted is not an empty folder; name another one"):
        convert(file, folder)


@pytest.fixture
def like_refcoco(tmp_path, monkeypatch) -> Path:
    """A data root whose "refcoco unc" is three objects of each split of RefShapes, and counts as whole."""
    folder, source = tmp_path / "data" / "refcoco", ASSETS / "refshapes"
    folder.mkdir(parents=True)
    for name in ("images", "instances.json"):
        (folder / name).symlink_to(source / name)
    refs, splits = load_refs(source / "refs(v1).p"), ("val", "testA", "testB")
    few = [ref for split in splits for ref in [ref for ref in refs if ref["split"] == split][:3]]
    (folder / "refs(unc).json").write_text(json.dumps(few))
    monkeypatch.setitem(family.COUNTS, ("refcoco", "unc"), {})
    return tmp_path / "data"


def test_a_converted_folder_has_the_columns_and_the_published_numbers_of_its_file(
    file, like_refcoco, tmp_path, monkeypatch
):
    monkeypatch.setitem(checkpoints.KNOWN, file.name, Known(None, "refcoco", "unc", image_size=64))
    folder = convert(file, tmp_path / "converted", vocabulary="refshapes")
    for module in ("magnet.evaluate", "magnet.workbench.weights"):  # the file's words, which are not the published ones
        monkeypatch.setattr(sys.modules[module], "load_tokenizer", lambda _: load_tokenizer("refshapes"))
    tables = [benchmark_weights(one, like_refcoco, folder=tmp_path, progress=False) for one in (file, folder)]
    of_file, of_folder = (table.drop(columns="seconds_per_expression") for table in tables)
    assert of_file.equals(of_folder) and of_file["column"].unique().tolist() == list(COLUMNS)[:3]
    assert of_folder.loc[of_folder["protocol"] == "paper", "published: MagNet"].tolist() == [75.24, 78.24, 71.05]


@pytest.mark.parametrize("name, own_set", [("magnet_refcoco.pth", ("refcoco", "unc")), ("magnet_all.pth", None),
                                           ("mine.pth", None)])  # fmt: skip
def test_a_converted_folder_says_which_file_it_was(file, tmp_path, name, own_set):
    file = file.rename(tmp_path / name)
    run = runs.find(convert(file, tmp_path / "converted"))
    origin = checkpoints.origin_of(run)
    assert origin == checkpoints.origin_of(file) and (origin.file, origin.learnt_from) == (name, own_set)
    assert origin.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    run.origin.write_text('{"file": 1}')
    with pytest.raises(ValueError, match=r"released\.json: "):
        checkpoints.origin_of(run)


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_converted_folder_takes_its_words_along(file, tmp_path, monkeypatch, is_folder):
    words = tmp_path / "vocab.txt"
    shutil.copy(REFSHAPES_VOCABULARY, words)
    if is_folder:
        load_tokenizer(str(words)).save_pretrained(tmp_path / "words")
        words = tmp_path / "words"
    monkeypatch.chdir(tmp_path)
    convert(file, "converted", vocabulary=words.name)
    words.rename(tmp_path / "gone")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "converted").rename(tmp_path / "elsewhere" / "moved")
    monkeypatch.chdir(tmp_path / "elsewhere")
    tokenizer = load_tokenizer(runs.find("moved").config.model.language.vocabulary)
    sentence = "the Red star, left of Zorn's ring"
    assert tokenizer(sentence)["input_ids"] == load_tokenizer("refshapes")(sentence)["input_ids"]
    magnet.load("moved").set_image(np.zeros((64, 64, 3), np.uint8))


@pytest.mark.parametrize("full", ["words", "weights", "config.json"])
@pytest.mark.parametrize("is_there", [False, True])
def test_a_full_disk_leaves_no_converted_folder(file, tmp_path, monkeypatch, full, is_there):
    folder = tmp_path / "converted"
    if is_there:
        folder.mkdir()

    def fails(*_, **__):
        raise {"words": Exception, "weights": SafetensorError, "config.json": OSError}[full]("No space left on device")

    holder, name = {"words": (PreTrainedTokenizerBase, "save_pretrained"), "weights": (released, "save_file"),
                    "config.json": (Path, "write_text")}[full]  # fmt: skip
    monkeypatch.setattr(holder, name, fails)
    with pytest.raises(OSError, match=r"could not write .*converted.*No space left on device"):
        convert(file, folder, vocabulary="refshapes")
    assert not folder.exists() and [path.name for path in tmp_path.iterdir()] == [file.name]


def test_tensors_that_share_memory_are_converted(tensors, tmp_path):
    query, bias = "classifier.predictor.query_%s.weight", "image_model.patch_embed.proj.bias"
    words = "language_model.embeddings.word_embeddings.weight"
    shared = {query % "feat": tensors[query % "embed"], bias: tensors[bias][:1].expand(len(tensors[bias]))}
    torch.save({"model": {**tensors, **shared, words: tensors[words].T.contiguous().T}}, tmp_path / "own.pth")
    made = runs.find(convert(tmp_path / "own.pth", tmp_path / "run")).load_model().state_dict()
    read = magnet.load_released(tmp_path / "own.pth").state_dict()
    assert all(torch.equal(made[name], tensor) for name, tensor in read.items())


def test_a_vocabulary_that_cannot_be_read_with_the_file_leaves_no_folder(file, tmp_path):
    folder, words = tmp_path / "converted", tmp_path / "vocab.txt"
    with pytest.raises(FileNotFoundError, match=r"vocab\.txt does not exist"):
        convert(file, folder, str(words))
    pieces = list(load_tokenizer("refshapes").get_vocab())
    words.write_text("\n".join([*pieces, "zebra"]))
    sizes = rf"vocab\.txt holds {len(pieces) + 1} pieces, .* of .*magnet_refcoco\.pth {len(pieces)}; give"
    with pytest.raises(ValueError, match=sizes):
        convert(file, folder, str(words))
    assert not folder.exists()


def test_a_file_is_scored_without_being_converted(file, monkeypatch):
    assert released_config(file).data.name == "refcoco"
    monkeypatch.setattr(sys.modules["magnet.evaluate"], "load_tokenizer", lambda _: load_tokenizer("refshapes"))
    data = DataConfig(root=str(ASSETS), image_size=64)
    table = magnet.evaluate(file, data, num_expressions=4, progress=False)
    assert len(table) == 4 and table.attrs["source"] == "magnet_refcoco.pth"


def test_mask_grounding_is_added_to_a_model_that_is_there_by_one_command(file, run_root, tmp_path, monkeypatch, capsys):
    folder = convert(file, tmp_path / "converted", vocabulary="refshapes")
    options = [
        "--data.root",
        str(ASSETS),
        "--data.image-size",
        "64",
        "--data.no-fresh",
        "--data.sentences-per-image",
        "1",
    ]
    steps = ["--optim.num-steps", "2", "--optim.batch-size", "2", "--optim.val-expressions", "2"]
    settings = ["--optim.num-processes", "1", "--optim.frozen", "--grounding.ratio", "0.9"]
    start = ["magnet", "train", "magnet_tiny", "--init", str(folder)]
    monkeypatch.setattr("sys.argv", [*start, *options, *steps, *settings])
    cli.main()
    (made,) = run_root.iterdir()
    config = json.loads((made / "config.json").read_text())
    assert config["model"]["text_side"] == "released" and config["grounding"]["ratio"] == 0.9
    assert config["model"]["decoder_width"] == magnet.load_released(file).config.decoder_width
    log = [json.loads(line) for line in (made / "log.jsonl").read_text().splitlines()]
    assert "grounding" in log[0]["raw"]


def test_training_can_start_from_a_file_by_its_name_on_the_hub(file, monkeypatch):
    from magnet.train import initial_model

    monkeypatch.setattr(checkpoints, "hf_hub_download", lambda *_: str(file))
    assert initial_model("magnet_refcoco.pth") == released_config(file).model
    assert dataclasses.replace(released_config(file).model) == magnet.load_released(file).config
