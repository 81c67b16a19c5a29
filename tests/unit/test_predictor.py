import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import magnet
from magnet import runs
from magnet.config import Config, DataConfig, LanguageConfig, ModelConfig
from magnet.metrics import rle_decode
from magnet.predictor import Predictor, read_picture

SIZE = 24


class Redness(nn.Module):
    """A logit of 2 where the picture is red, -2 elsewhere; more with each word."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, images, token_ids, token_mask):
        self.seen = images
        red = (images[:, 0] * 0.229 + 0.485 > 0.5) & (images[:, 1] * 0.224 + 0.456 < 0.5)
        return {"mask_logits": self.dropout(red * 4.0 - 2) + 0.1 * token_mask.sum(1)[:, None, None]}


@pytest.fixture()
def vocabulary(tmp_path):
    path = tmp_path / "vocabulary.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "thing"]))
    return str(path)


@pytest.fixture()
def data():
    return DataConfig(image_size=SIZE, num_tokens=5)


@pytest.fixture()
def predictor(vocabulary, data):
    return Predictor(Redness(), data, vocabulary)


def picture(height=48, width=72):
    """Green with a red upper left quarter."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 1] = 255
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    return pixels


def test_the_mask_has_the_picture_s_own_size(predictor):
    predictor.set_image(picture())
    mask, score = predictor.predict("red thing")
    assert mask.shape == (48, 72) and mask.dtype == bool
    truth = picture()[..., 0] == 255
    assert (mask & truth).sum() / (mask | truth).sum() > 0.9
    assert isinstance(score, float) and 0.5 < score < 1


def test_the_score_is_the_mean_probability_inside_the_mask(predictor):
    predictor.set_image(picture())
    logits, score = predictor.predict("red", return_logits=True)
    assert logits.shape == (48, 72) and logits.dtype == np.float32
    inside = [1 / (1 + np.exp(-logit)) for logit in logits.ravel() if logit > 0]
    assert score == pytest.approx(sum(inside) / len(inside), abs=1e-5)
    np.testing.assert_array_equal(predictor.predict("red")[0], logits > 0)


def test_an_empty_mask_scores_zero(predictor):
    predictor.set_image(picture()[24:])
    mask, score = predictor.predict("red thing")
    assert not mask.any() and score == 0


def test_pictures_of_every_kind(predictor, tmp_path):
    rgb = Image.fromarray(picture())
    rgb.save(tmp_path / "file.png")
    alpha = np.dstack([picture(), np.full((48, 72), 9, np.uint8)])
    kinds = [rgb, rgb.convert("RGBA"), rgb.convert("P"), picture(), alpha, tmp_path / "file.png"]
    for kind in [*kinds, str(tmp_path / "file.png")]:
        predictor.set_image(kind)
        mask, _ = predictor.predict("red thing")
        assert mask.shape == (48, 72) and mask[:20, :30].all() and not mask[30:].any()
    for grey in (rgb.convert("L"), picture()[..., 0], rgb.convert("1")):
        predictor.set_image(grey)
        assert predictor.predict("red")[0].shape == (48, 72)
        assert torch.allclose(*(predictor.image[0, c] * s + m for c, s, m in [(0, 0.229, 0.485), (2, 0.225, 0.406)]))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_a_picture_held_sideways_is_turned_upright(predictor, tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera says: turn clockwise by 90 degrees
    file = tmp_path / f"sideways.{suffix}"
    Image.fromarray(np.ascontiguousarray(np.rot90(picture()))).save(file, exif=exif)
    for image in (file, Image.open(file)):
        predictor.set_image(image)
        mask, _ = predictor.predict("red thing")
        assert mask.shape == (48, 72) and mask[:20, :30].all() and not mask[30:].any()


def test_the_model_keeps_its_mode_and_answers_the_same_twice(predictor):
    predictor.model.train()
    predictor.set_image(picture())
    first, second = (predictor.predict("red", return_logits=True)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert predictor.model.training


def test_what_is_no_picture_is_named(predictor, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:500])
    for name in ("text.png", "cut.png"):
        with pytest.raises(ValueError, match=f"{name} is no picture"):
            predictor.set_image(tmp_path / name)
    with pytest.raises(ValueError, match=r"an array float64 \(4, 4, 3\) is no picture.*uint8"):
        predictor.set_image(np.zeros((4, 4, 3)))
    with pytest.raises(ValueError, match=r"an array float32 \(4, 4\) is no picture.*uint8"):
        predictor.set_image(np.zeros((4, 4), np.float32))  # PIL would take it for grey from 0 to 255
    with pytest.raises(ValueError, match=r"a Tensor is no picture.*uint8"):
        predictor.set_image(torch.zeros(3, 4, 4))
    with pytest.raises(FileNotFoundError, match="none"):
        predictor.set_image("none.png")


# Pictures as people have them -----------------------------------------------------------------------------------------

RED = (255, 0, 0)


@pytest.mark.parametrize(
    ("name", "mode", "colour"),
    [("ink.jpg", "CMYK", (0, 255, 255, 0)), ("a.png", "RGBA", (*RED, 9)), ("p.gif", "P", RED), ("one.png", "RGB", RED)],
)
def test_files_of_every_kind_are_read_in_their_colours(predictor, tmp_path, name, mode, colour):
    size = (1, 1) if name == "one.png" else (30, 20)
    Image.new(mode, size, colour).save(tmp_path / name)
    predictor.set_image(tmp_path / name)
    mask, _ = predictor.predict("red thing")
    assert mask.shape == size[::-1] and mask.all()


def test_a_palette_with_transparent_colours_is_read_without_a_warning(tmp_path):
    Image.new("P", (3, 2), RED).save(tmp_path / "p.png", transparency=bytes(9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (np.asarray(read_picture(tmp_path / "p.png")) == RED).all()


@pytest.mark.parametrize("name", ["grey.png", "grey.tif"])
def test_sixteen_bits_of_grey_keep_their_upper_eight(tmp_path, name):
    values = np.array([[0, 255, 256, 30_000, 65_535]], np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    np.testing.assert_array_equal(np.asarray(read_picture(tmp_path / name))[..., 1], values // 256)


def test_what_cannot_be_read_is_named(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "words.jpg").write_text("no picture")
    (tmp_path / "empty.png").touch()
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    cut = Image.open(tmp_path / "cut.jpg")  # reads its pixels later
    for image in [*sorted(tmp_path.iterdir()), tmp_path, cut]:
        name = getattr(image, "filename", image)
        with pytest.raises(ValueError, match=rf"{name} is no picture \(.+\); give an RGB"):
            read_picture(image)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the process's peak where Linux notes it")
def test_fifty_megapixels_are_answered_in_four_times_their_bytes(tmp_path):
    file = tmp_path / "large.png"
    Image.new("RGB", (10_000, 5_000), RED).save(file, compress_level=1)
    # not getrusage: its peak begins at that of the process that started this one, here of all tests before
    code = f"""import magnet, pathlib, re
kept = lambda what: 1024 * int(re.search(rf"{{what}}:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
predictor = magnet.load("refshapes-tiny")
before = kept("VmRSS")
predictor.set_image({str(file)!r})
assert predictor.predict("the red star")[0].shape == (5000, 10000)
print((kept("VmHWM") - before) / 150e6)"""
    times = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(times) < 4


def test_what_is_no_text_is_named_and_a_refused_picture_leaves_none(predictor, tmp_path):
    predictor.set_image(np.zeros((20, 30, 3), np.uint8))
    for wrong in (None, ["red thing"], 5):
        with pytest.raises(ValueError, match="is no text; give one phrase, a string"):
            predictor.predict(wrong)
    with pytest.raises(ValueError, match="is no picture"):
        predictor.set_image(np.zeros((0, 0, 3), np.uint8))
    with pytest.raises(RuntimeError, match="no picture yet"):
        predictor.predict("red thing")


def test_texts_that_cannot_work_say_so(predictor):
    with pytest.raises(RuntimeError, match="set_image first"):
        predictor.predict("red")
    predictor.set_image(picture())
    for empty in ("", "  "):
        with pytest.raises(ValueError, match="holds no word"):
            predictor.predict(empty)
    with pytest.warns(UserWarning, match="'zebra' holds only words"):
        predictor.predict("zebra")
    with pytest.warns(UserWarning, match="'red thing red thing' is cut.*5 tokens"):
        predictor.predict("red thing red thing")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor.predict("red zebra thing")


def test_logits_that_are_not_finite_are_refused(predictor, monkeypatch):
    predictor.set_image(picture())
    monkeypatch.setattr(Redness, "forward", lambda self, i, t, m: {"mask_logits": torch.full((1, 4, 4), torch.nan)})
    with pytest.raises(FloatingPointError, match="'red'"):
        predictor.predict("red")


# Finding weights ------------------------------------------------------------------------------------------------------


@pytest.fixture()
def run(vocabulary, data, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path / "runs")
    monkeypatch.setattr(runs, "SHIPPED", tmp_path / "weights")
    monkeypatch.setattr(runs.Run, "load_model", lambda self: Redness())
    return runs.open_run(
        Config(recipe="toy", data=data, model=ModelConfig(language=LanguageConfig(vocabulary=vocabulary)))
    )


def test_a_run_goes_by_folder_name_and_recipe(run):
    for name in (run.folder, str(run.folder), run.name, "toy"):
        predictor = magnet.load(name)
        predictor.set_image(picture())
        assert predictor.data.image_size == SIZE and predictor.predict("red thing")[0].any()


def test_shipped_weights_go_by_their_name(run):
    run.folder.rename(runs.SHIPPED.parent / "moved")
    runs.SHIPPED.mkdir()
    (runs.SHIPPED.parent / "moved").rename(runs.SHIPPED / "toy-shipped")
    assert magnet.load("toy-shipped").data.image_size == SIZE
    with pytest.raises(FileNotFoundError, match=r"no run and no file 'toy-shiped'.*Shipped weights: toy-shipped\."):
        magnet.load("toy-shiped")


def test_prediction_and_evaluation_agree(run):
    from test_evaluate import write_refer

    root = run.folder.parent.parent / "data"
    shipped = picture(30, 42)
    write_refer(root, [shipped], ["red thing"])
    row = magnet.evaluate(run, data=(root, "toy", "me"), progress=False).iloc[0]
    predictor = magnet.load(run.name)
    predictor.set_image(shipped)
    np.testing.assert_array_equal(predictor.predict("red thing")[0], rle_decode(row["rle"], 30, 42))
