"""CompareRuns without a browser."""

import base64
import io

import numpy as np
import pytest
from conftest import ASSETS
from PIL import Image

from magnet.data import read_refer, select_split
from magnet.explore import CompareRuns
from magnet.explore.failures import read_failures
from magnet.refshapes.baselines import baseline_table
from magnet.workbench.overlay import outline


@pytest.fixture(scope="module")
def failures():
    expressions = select_split(read_refer(ASSETS), "val")
    tables = [baseline_table(name, expressions) for name in ("head_phrase", "largest")]
    tables[1] = tables[1].sample(frac=1, random_state=0)  # the order of the second does not matter
    return [read_failures(table, expressions, progress=False) for table in tables]


@pytest.fixture(scope="module")
def compared(failures):
    return CompareRuns(*failures, names=("head phrase", "largest"))


def test_it_opens_where_a_is_right_and_b_wrong(compared, failures):
    a, b = (one.table.set_index("sent_id")["iou"] for one in failures)
    shown = failures[0].table["sent_id"].iloc[compared.rows]
    assert len(shown) and (a[shown] >= 0.5).all() and (b[shown] < 0.5).all()
    assert len(shown) == ((a >= 0.5) & (b.loc[a.index] < 0.5)).sum()
    assert compared.choice.options[0][0] == f"head phrase alone ({len(shown)})"


def test_choices_and_tags_select_rows_and_keys_walk(compared, failures):
    everything = []
    for _, choice in compared.choice.options:
        compared.choice.value = choice
        everything += compared.rows.tolist()
    assert sorted(everything) == list(range(len(failures[0].table)))
    compared.choice.value, compared.tag.value = "both", ("relation",)
    assert failures[0].table["has_relation"].iloc[compared.rows].all()
    compared.tag.value = ()
    compared.keyboard.press("j")
    assert compared.row == compared.rows[1] and failures[0].table["text"].iloc[compared.row] in compared.about.value


def test_both_answers_are_drawn_and_belong_to_the_same_sentence(compared, failures):
    compared.choice.value, b = "neither", failures[1]
    for row in compared.rows[:3]:
        sent_id = failures[0].table["sent_id"].iloc[row]
        own = int(np.flatnonzero(b.table["sent_id"] == sent_id)[0])
        other = failures[0].example(row, compared.answers)
        assert (other.prediction == b.example(own).prediction).all() and other.iou == b.example(own).iou
    answer, other = compared.a.example(compared.row), compared.a.example(compared.row, compared.answers)
    assert outline(answer.prediction) != outline(other.prediction)
    assert all(outline(one.prediction) in compared.picture.value for one in (answer, other))
    assert f"largest, IoU {other.iou:.2f}" in compared.picture.value


def test_the_stand_in_shows_differences_by_tag(compared):
    figure = compared.stand_in()
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert names[0] == f"all (n = {len(compared.answers)})" and all("n = " in name for name in names)
    assert "head phrase − largest" in figure.axes[0].get_xlabel()
    assert Image.open(io.BytesIO(base64.b64decode(compared._repr_mimebundle_()["image/png"]))).width == 750


def test_tables_alone_are_compared_and_it_is_said_what_is_missing(failures, tmp_path, monkeypatch):
    monkeypatch.setenv("MAGNET_DATA", str(tmp_path / "nothing"))
    alone = CompareRuns(*(one.table.drop(columns="error") for one in failures))
    said = alone.children[-1].value
    assert len(alone.rows) and "notes are lost" in said
    assert said.count("the data is not there") == 1  # both lack the same
    assert "<image" not in alone.picture.value and 'class="answer"' in alone.picture.value


def test_other_expressions_are_refused(failures):
    a, b = failures
    with pytest.raises(ValueError, match="lacks"):
        CompareRuns(a, b.table.iloc[1:], expressions=b.truths, progress=False)
