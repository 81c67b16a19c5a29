import errno
import json
import os
import pickle
import sys
from dataclasses import replace
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_config, tiny_magnet
from PIL import Image
from torch import nn
from torch.nn import functional as F

from magnet import runs
from magnet.config import Config, DataConfig, LanguageConfig, ModelConfig, VisionConfig
from magnet.data import read_refer
from magnet.evaluate import evaluate, evaluation_mode, progress_bar, read_results, score
from magnet.metrics import intersection_union, rle_decode, rle_encode
from magnet.models import build_model
from magnet.statistics import summarize

SIZES = [(40, 30), (24, 24), (30, 40), (40, 30)]  # height, width of the four pictures
WORDS = ["red", "blue", "thing", "left"]


def write_refer(root, pictures, texts):
    """A data set "toy": one object per picture (H,W,3), its mask where the picture is red; `texts` for each object."""
    folder = root / "toy"
    (folder / "images").mkdir(parents=True)
    images, annotations, refs = [], [], []
    for number, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        rle = {"size": [height, width], "counts": rle_encode(picture[..., 0] == 255)}
        Image.fromarray(picture).save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        annotations.append({"id": number, "image_id": number, "category_id": 1, "segmentation": rle})
        sentences = [{"sent_id": 10 * number + i, "raw": text, "kind": "toy"} for i, text in enumerate(texts)]
        ref = {"ref_id": number, "ann_id": number, "image_id": number, "category_id": 1, "split": "val"}
        refs.append({**ref, "sentences": sentences})
    instances = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "refs(me).p").write_bytes(pickle.dumps(refs))
    vocabulary = root / "vocabulary.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    return vocabulary


def toy_config(root, vocabulary, image_size=24):
    data = DataConfig(root=str(root), name="toy", split_by="me", image_size=image_size, num_tokens=6, num_workers=0)
    return Config(recipe="toy", data=data, model=ModelConfig(language=LanguageConfig(vocabulary=str(vocabulary))))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    pictures = []
    for height, width in SIZES:
        picture = np.zeros((height, width, 3), np.uint8)
        top, left = generator.integers(0, 10, 2)
        picture[top : top + 13, left : left + 12, 0] = 255
        pictures.append(picture)
    return toy_config(
        root, write_refer(root, pictures, ["red thing", "the left thing", "blue red left thing left red"])
    )


class Redness(nn.Module):
    """Finds red at a quarter of the resolution, more of it the longer the sentence is."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.dropout = nn.Dropout(0.5)

    def forward(self, images, token_ids, token_mask):
        red = F.avg_pool2d(images[:, 0], 4)
        lengths = token_mask.sum(1)[:, None, None]
        return {"mask_logits": self.dropout(self.scale * red) + 0.3 * (lengths - 5)}


class Constant(nn.Module):
    """The same logits for everything, and no parameters."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, images, token_ids, token_mask):
        return {"mask_logits": self.logits.expand(len(images), -1, -1)}


def run_toy(config, **options):
    return evaluate(Redness(), config=config, progress=False, **options)


def test_every_expression_is_scored_as_one_by_one(config):
    table = run_toy(config)
    expressions = read_refer(config.data.root, "toy", "me")
    assert table["sent_id"].tolist() == expressions["sent_id"].tolist() and len(table) == 12
    for row, truth in zip(table.itertuples(), expressions.itertuples()):
        picture = Image.open(f"{expressions.attrs['images']}/{truth.file}").resize((24, 24), Image.BILINEAR)
        red = (torch.tensor(np.array(picture)[..., 0]) / 255 - 0.485) / 0.229
        length = min(6, len(truth.text.split()) + 2)
        logits = F.avg_pool2d(red[None, None], 4) + 0.3 * (length - 5)
        own = F.interpolate(logits, (truth.height, truth.width), mode="bilinear", align_corners=True)[0, 0] > 0
        target = rle_decode(truth.rle, truth.height, truth.width)
        assert intersection_union(own.numpy(), target) == (row.I, row.U)
        assert row.iou == row.I / row.U
        np.testing.assert_array_equal(rle_decode(row.rle, row.height, row.width), own.numpy())
    assert table["iou"].between(0.3, 1).all() and table["iou"].nunique() > 6


@pytest.mark.parametrize("name", ["lavt", "magnet", "magnet with detail"])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_each_picture_is_decoded_and_looked_at_once(config, monkeypatch, name, batch_size):
    made = tiny_config() if name == "lavt" else tiny_magnet()
    settings = replace(made.model, mask_detail=4) if name == "magnet with detail" else made.model
    torch.manual_seed(0)
    model = build_model(replace(settings, language=replace(settings.language, vocabulary="refshapes"))).eval()
    for module in model.modules():  # so that what the masks are depends on all that is computed
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    data, model_config = replace(config.data, image_size=64), replace(config.model, language=settings.language)
    mine = replace(config, data=data, model=model_config)
    alone = [evaluate(model, (config.data.root, "toy", "me"), config=mine, batch_size=1)]
    decoded, looked, read = [], [], []
    count(monkeypatch, "magnet.data.dataset.read_image", lambda file, *_: decoded.append(file.name))
    count(monkeypatch, "magnet.models.vision.VisionBackbone.stem", lambda self, images: looked.append(len(images)))
    count(monkeypatch, "magnet.models.base.ReferringNetwork.read", lambda self, seen, ids, *_: read.append(len(ids)))
    together = evaluate(model, config=mine, batch_size=batch_size)
    assert sorted(decoded) == ["0.png", "1.png", "2.png", "3.png"] and sum(looked) == 4
    assert sum(read) == 12 and max(read) <= batch_size
    for column in ("sent_id", "I", "U", "rle"):
        assert together[column].tolist() == alone[0][column].tolist(), column


def test_an_answer_changed_on_the_outside_is_what_is_scored(config):
    class Opposite(type(build_model(tiny_config().model))):
        def forward(self, *inputs):
            outputs = super().forward(*inputs)
            return {**outputs, "mask_logits": -outputs["mask_logits"]}

    torch.manual_seed(0)
    plain, mine = build_model(tiny_config().model).eval(), replace(config, data=replace(config.data, image_size=64))
    turned = Opposite(plain.config, plain.language.encoder.config.vocab_size).eval()
    turned.load_state_dict(plain.state_dict())
    expected = evaluate(turned, config=mine, progress=False)["rle"].tolist()
    assert expected != evaluate(plain, config=mine, progress=False)["rle"].tolist()
    plain.register_forward_hook(lambda module, inputs, outputs: {**outputs, "mask_logits": -outputs["mask_logits"]})
    assert evaluate(plain, config=mine, progress=False)["rle"].tolist() == expected


def count(monkeypatch, target: str, note) -> None:
    """Have `note` called with the arguments of every call of `target`."""
    owner, name = target.rsplit(".", 1)
    owner = sys.modules.get(owner) or getattr(sys.modules[owner.rsplit(".", 1)[0]], owner.rsplit(".", 1)[1])
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **options: note(*args) or original(*args, **options))


def test_the_table_has_the_promised_columns(config):
    table = run_toy(config)
    assert list(table.columns[:6]) == ["sent_id", "ref_id", "image_id", "I", "U", "iou"]
    assert {"text", "kind", "category", "area", "height", "width", "has_location"} <= set(table.columns)
    assert table.columns[-1] == "rle" and "file" not in table
    assert table["cut"].tolist() == [False, False, True] * 4
    expected = {"name": "toy", "split_by": "me", "split": "val", "protocol": "original", "source": "Redness"}
    assert expected.items() <= table.attrs.items()


@pytest.mark.parametrize("batch_size", [1, 2, 5, 12])
@pytest.mark.parametrize("protocol", ["original", "paper"])
def test_batch_size_does_not_matter(config, batch_size, protocol):
    expected = run_toy(config, protocol=protocol)
    pd.testing.assert_frame_equal(run_toy(config, protocol=protocol, batch_size=batch_size), expected)


def test_order_of_expressions_does_not_matter(config, monkeypatch):
    def shuffled(*arguments):
        table = read_refer(*arguments)
        mixed = table.sample(frac=1, random_state=3)
        mixed.attrs = table.attrs
        return mixed

    expected = run_toy(config)
    monkeypatch.setattr(import_module("magnet.evaluate"), "read_refer", shuffled)
    mixed = run_toy(config, batch_size=5)
    assert mixed["sent_id"].tolist() != expected["sent_id"].tolist()
    pd.testing.assert_frame_equal(mixed.sort_values("sent_id", ignore_index=True), expected)
    assert summarize(mixed, num_draws=20) == pytest.approx(summarize(expected, num_draws=20))


def test_worker_processes_change_nothing(config):
    data = DataConfig(**{**vars(config.data), "num_workers": 1})
    pd.testing.assert_frame_equal(run_toy(config, data=data, batch_size=5), run_toy(config))


def test_protocols_by_hand(tmp_path):
    # One picture, 4 high and 8 wide, truth in its left half; the model sees 4 × 4 and says 1, 1, -0.3, -1 by column.
    picture = np.zeros((4, 8, 3), np.uint8)
    picture[:, :4, 0] = 255
    config = toy_config(tmp_path, write_refer(tmp_path, [picture], ["red thing"]), image_size=4)
    model = Constant(torch.tensor([1.0, 1.0, -0.3, -1.0]).expand(1, 4, 4))
    # At 8 columns the logits are 1, 1, 1, 0.63, 0.07, -0.4, -0.7, -1: five columns above 0, six above log(0.35 / 0.65).
    expected = {"original": (16, 20), "gres": (16, 20), "cris": (16, 24), "paper": (8, 8)}
    for protocol, counts in expected.items():
        row = evaluate(model, config=config, protocol=protocol, progress=False).iloc[0]
        assert (row["I"], row["U"]) == counts
        assert rle_decode(row["rle"], 4, 8).sum() == {"cris": 24}.get(protocol, 20)  # own size, whatever the protocol


def test_an_empty_prediction_scores_nothing(config):
    table = evaluate(Constant(torch.full((1, 6, 6), -1.0)), config=config, progress=False)
    assert (table["I"] == 0).all() and (table["U"] == table["area"]).all() and (table["iou"] == 0).all()
    assert not any(rle_decode(row.rle, row.height, row.width).any() for row in table.itertuples())


def test_a_part_is_evenly_spread(config):
    table = run_toy(config, num_expressions=3)
    assert table["sent_id"].tolist() == [0, 20, 32]  # first, middle and last of twelve
    assert len(run_toy(config, num_expressions=99)) == 12
    with pytest.raises(ValueError, match="num_expressions=0"):
        run_toy(config, num_expressions=0)


def test_the_model_is_left_as_it_was(config):
    model = Redness().train()
    model.dropout.eval()
    with evaluation_mode(model):
        assert not model.training
    assert model.training and not model.dropout.training
    evaluate(model, config=config, progress=False)
    assert model.training and not model.dropout.training and model.scale.grad is None


def test_bfloat16_is_close(config):
    exact, coarse = run_toy(config), run_toy(config, precision="bfloat16")
    assert (exact["iou"] - coarse["iou"]).abs().max() < 0.1
    with pytest.raises(ValueError, match=r"'fp16'.*'float32', 'bfloat16'"):
        run_toy(config, precision="fp16")


def test_too_little_memory_names_sizes_and_remedies(config, monkeypatch):
    error = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
    monkeypatch.setattr(Redness, "forward", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(MemoryError, match=r"1 pictures of 24 px and 3 sentences.*batch_size=1.*image_size.*bfloat16"):
        run_toy(config, batch_size=4)
    with pytest.raises(MemoryError, match="1 sentences at once; try a smaller network"):
        run_toy(config, batch_size=1)


def test_logits_that_are_not_finite_name_their_expressions(config):
    class Broken(Redness):
        def forward(self, images, token_ids, token_mask):
            logits = super().forward(images, token_ids, token_mask)["mask_logits"]
            logits[token_mask.sum(1) == 6, 2, 3] = torch.nan  # the longest sentence of each object
            return {"mask_logits": logits}

    with pytest.raises(FloatingPointError, match=r"sent_id \[2, 12\]"):
        evaluate(Broken(), config=config, batch_size=6, progress=False)


def test_settings_that_do_not_exist_are_refused(config):
    with pytest.raises(ValueError, match="no protocol"):
        run_toy(config, protocol="mine")
    with pytest.raises(ValueError, match=r"no split 'test'.*val"):
        run_toy(config, split="test")
    with pytest.raises(ValueError, match="give config="):
        evaluate(Redness())
    with pytest.raises(FileNotFoundError, match="no run and no file 'nothing'"):
        evaluate("nothing")


# A run ----------------------------------------------------------------------------------------------------------------


@pytest.fixture()
def run(config, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path / "runs")
    monkeypatch.setattr(runs.Run, "load_model", lambda self: Redness())
    run = runs.open_run(config)
    run.weights.touch()
    return run


def test_a_run_keeps_its_table(run, config):
    table = evaluate(run, progress=False)
    written = pd.read_parquet(run.folder / "eval" / "toy-val-original.parquet")
    pd.testing.assert_frame_equal(written, table)
    assert written.attrs == table.attrs and table.attrs["source"] == run.name
    assert [path.name for path in run.folder.glob("eval/*")] == ["toy-val-original.parquet"]


def test_a_run_goes_by_many_names(run):
    for source in (run.folder, str(run.folder), run.weights, run.name, "toy"):
        assert evaluate(source, num_expressions=2, progress=False).attrs["source"] == run.name


def test_only_whole_tables_of_the_run_itself_are_kept(run, config):
    evaluate(run, num_expressions=4, progress=False)
    evaluate(run, data=DataConfig(**{**vars(config.data), "words": "none"}), progress=False)
    assert not (run.folder / "eval").exists()
    evaluate(run, data=(config.data.root, "toy", "me"), protocol="cris", progress=False)
    assert (run.folder / "eval" / "toy-val-cris.parquet").exists()


def test_two_ways_to_split_do_not_share_a_file(run, config):
    folder = runs.Path(config.data.root) / "toy"
    (folder / "refs(other).p").write_bytes((folder / "refs(me).p").read_bytes())
    evaluate(run, data=(config.data.root, "toy", "other"), progress=False)
    assert [path.name for path in run.folder.glob("eval/*")] == ["toy_other-val-original.parquet"]


def test_a_kept_table_is_used_until_the_weights_change(run, monkeypatch):
    expected = evaluate(run, progress=False)
    monkeypatch.setattr(runs.Run, "load_model", lambda self: Constant(torch.full((1, 6, 6), -1.0)))
    kept = evaluate(run, cached=True, progress=False)
    pd.testing.assert_frame_equal(kept, expected)
    assert kept.attrs == expected.attrs
    run.weights.write_bytes(b"newer")
    assert (evaluate(run, cached=True, progress=False)["iou"] == 0).all()


def test_a_table_made_in_bfloat16_is_not_kept(run):
    expected = evaluate(run, progress=False)
    evaluate(run, precision="bfloat16", progress=False)
    kept = evaluate(run, cached=True, progress=False)
    assert kept.attrs["precision"] == "float32" and kept["I"].tolist() == expected["I"].tolist()


def test_a_full_disk_keeps_the_table_before(run, monkeypatch):
    expected = evaluate(run, progress=False)

    def full(self, path):
        path.write_bytes(b"half a table")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_parquet", full)
        with pytest.raises(OSError, match=r"toy-val-original.parquet: No space left on device; what was there is kept"):
            evaluate(run, progress=False)
    pd.testing.assert_frame_equal(evaluate(run, cached=True, progress=False), expected)


def test_a_damaged_table_is_named(run):
    evaluate(run, progress=False)
    file = run.folder / "eval" / "toy-val-original.parquet"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"toy-val-original\.parquet is damaged.*evaluate again"):
        evaluate(run, cached=True, progress=False)
    with pytest.raises(FileNotFoundError):
        read_results(run.folder / "eval" / "none.parquet")


def test_a_real_network_is_found_loaded_and_scored(config, tmp_path, monkeypatch):
    from safetensors.torch import save_file

    from magnet.models import build_model

    monkeypatch.setattr(runs, "ROOT", tmp_path)
    options = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    language = LanguageConfig(vocabulary=config.model.language.vocabulary, options={**options, "vocab_size": 9})
    vision = VisionConfig(
        name="swin_tiny_patch4_window7_224",
        options={"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 3},
    )
    data = DataConfig(**{**vars(config.data), "image_size": 32})
    run = runs.open_run(Config(recipe="real", data=data, model=ModelConfig(vision=vision, language=language)))
    save_file(build_model(run.config.model).state_dict(), run.weights)
    one, all_at_once = (evaluate("real", batch_size=size, progress=False) for size in (1, 12))
    assert len(one) == 12 and (one["I"] - all_at_once["I"]).abs().max() <= 2  # sums in another order


# Predictions made elsewhere -------------------------------------------------------------------------------------------


def as_coco(table, counts=str):
    return [
        {"sent_id": row.sent_id, "rle": {"size": [row.height, row.width], "counts": counts(row.rle)}}
        for row in table.itertuples()
    ]


def runs_of(rle, height, width):
    """The uncompressed counts: lengths of runs down the columns, beginning with background."""
    flat = rle_decode(rle, height, width).ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, len(flat)]).tolist()
    return counts if flat[0] == 0 else [0, *counts]


def same_scores(found, expected):
    left_out = ["num_tokens", "cut"]  # of the tokenizer, which a file of predictions does not come with
    pd.testing.assert_frame_equal(found, expected.drop(columns=left_out))
    assert found.attrs == {k: v for k, v in expected.attrs.items() if k != "precision"} | {
        "source": found.attrs["source"]
    }


@pytest.mark.parametrize("protocol", ["original", "cris", "gres"])
def test_predictions_in_any_form_give_the_same_table(config, tmp_path, protocol):
    expected = run_toy(config, protocol=protocol)
    records = as_coco(expected)
    (tmp_path / "list.json").write_text(json.dumps(records))
    (tmp_path / "lines.jsonl").write_text("\n".join(json.dumps(r) for r in reversed(records)) + "\n")
    bare = [{"sent_id": r["sent_id"], "rle": r["rle"]["counts"]} for r in records]
    (tmp_path / "bare.json").write_text(json.dumps(bare))
    sizes = zip(expected["rle"], expected["height"], expected["width"])
    plain = [{**r, "rle": {**r["rle"], "counts": runs_of(*size)}} for r, size in zip(records, sizes)]
    (tmp_path / "plain.json").write_text(json.dumps(plain))
    pd.DataFrame(plain).to_parquet(tmp_path / "plain.parquet")
    pd.DataFrame(records).to_parquet(tmp_path / "coco.parquet")
    expected.to_parquet(tmp_path / "table.parquet")
    files = sorted(path for path in tmp_path.iterdir() if path.is_file())
    assert len(files) == 7
    for file in files:
        same_scores(score(file, config.data, protocol=protocol), expected)


def test_under_paper_predictions_are_square(config, tmp_path):
    generator = np.random.default_rng(0)
    expressions = read_refer(config.data.root, "toy", "me")
    masks = generator.random((len(expressions), 24, 24)) < 0.5
    records = [
        {"sent_id": int(sent_id), "rle": {"size": [24, 24], "counts": rle_encode(mask)}}
        for sent_id, mask in zip(expressions["sent_id"], masks)
    ]
    (tmp_path / "square.json").write_text(json.dumps(records))
    table = score(tmp_path / "square.json", config.data, protocol="paper")
    for row, truth, mask in zip(table.itertuples(), expressions.itertuples(), masks):
        target = Image.fromarray(rle_decode(truth.rle, truth.height, truth.width)).resize((24, 24), Image.NEAREST)
        assert intersection_union(mask, np.array(target)) == (row.I, row.U)
        assert rle_decode(row.rle, truth.height, truth.width).mean() == pytest.approx(mask.mean(), abs=0.1)
    with pytest.raises(ValueError, match=r"sent_id 0: the mask is 24 × 24.*not 40 × 30"):
        score(tmp_path / "square.json", config.data, protocol="original")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda r: r[2:], r"2 sent_ids have no prediction \(toy me, 12 expressions\), first \[0, 1\]"),
        (lambda r: [*r, {**r[0], "sent_id": 77}], r"1 sent_ids are not in this split.*\[77\]"),
        (lambda r: [*r, r[3]], r"1 sent_ids come more than once.*\[10\]"),
        (lambda r: [{"sent_id": 0}, *r[1:]], "record 0 has no rle"),
        (lambda r: [[1, 2], *r[1:]], "record 0 has no rle"),
        (lambda r: [{**r[0], "rle": {"size": [30, 40], "counts": "x"}}, *r[1:]], "sent_id 0: the mask is 30 × 40"),
        (lambda r: [{**r[0], "rle": {"size": [40, 30], "counts": "04"}}, *r[1:]], "sent_id 0: the run lengths '04'"),
        (lambda r: [{**r[0], "rle": {"size": [40, 30], "counts": [1, 2]}}, *r[1:]], "sent_id 0: its runs sum to 3"),
        (lambda r: [{**r[0], "rle": {"counts": [1, 2]}}, *r[1:]], "sent_id 0: .*size"),
        (lambda r: [{**r[0], "rle": None}, *r[1:]], "sent_id 0: "),
        (lambda r: [{**r[0], "sent_id": [0]}, *r[1:]], r"no whole number as sent_id: {'sent_id': \[0\]"),
        (lambda r: [{**r[0], "sent_id": "0"}, *r[1:]], "no whole number as sent_id: {'sent_id': '0'"),
    ],
)
def test_predictions_that_do_not_fit_name_file_and_expression(config, tmp_path, change, message):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(change(as_coco(run_toy(config)))))
    with pytest.raises(ValueError, match=rf"mine\.json.*{message}"):
        score(file, config.data)


@pytest.mark.parametrize("name", ["cut.json", "cut.jsonl", "cut.parquet"])
def test_a_file_cut_short_is_named(config, tmp_path, name):
    table, file = run_toy(config), tmp_path / name
    if name.endswith("parquet"):
        table.to_parquet(file)
    else:
        records = as_coco(table)
        file.write_text(json.dumps(records) if name == "cut.json" else "\n".join(map(json.dumps, records)))
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    with pytest.raises(ValueError, match=rf"{name} is damaged or cut short"):
        score(file, config.data)


def test_a_file_that_is_not_there_is_named(config, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist"):
        score(tmp_path / "none.json", config.data)


@pytest.mark.skipif("MAGNET_REAL_DATA" not in os.environ, reason="MAGNET_REAL_DATA is not set")
def test_the_truth_of_real_photographs_scores_full_marks(tmp_path):
    data = (os.environ["MAGNET_REAL_DATA"], "refcocog_google_val_mini", "google")
    expressions = read_refer(*data)
    (tmp_path / "truth.json").write_text(json.dumps(as_coco(expressions)))
    summary = summarize(score(tmp_path / "truth.json", data), num_draws=100)
    assert summary["n"] == 13
    assert {summary[key] for key in ("oIoU", "mIoU", "P@0.9", "oIoU_low", "oIoU_high")} == {100}


def test_progress_goes_to_stderr_outside_a_notebook(capsys):
    import ipykernel.kernelapp  # noqa: F401  (that it is loaded does not make this process a notebook's)

    list(progress_bar(True, iterable=range(3)))
    said = capsys.readouterr()
    assert said.out == "" and "3/3" in said.err
