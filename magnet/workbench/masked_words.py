"""What a hidden word is guessed from: the rest of the sentence, the picture, the true mask.

    predictors, losses = train_predictors(run, GroundingConfig(mask_encoder="pooled"), num_steps=200)
    asked = ask(run, predictors)            # one row per hidden word, one column per context: right or not
    summarize_guesses(asked)                # accuracies and their paired differences, with 95 % intervals

A predictor that learnt with the mask and is asked without it answers a question it never met. So each context gets a
predictor of its own, all on the pixels of one frozen network, on the same sentences with the same words hidden. Words
are read by a copy of the network's language encoder that learns with its predictor: the network's own has never met a
hidden word, and a text that nobody can read would make the picture look better than it is. For the same reason all
predictors begin as one that has learnt to guess from text alone.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from magnet.config import GroundingConfig
from magnet.data import collate, load_tokenizer, read_refer, select_split, training_set
from magnet.data.dataset import ExpressionDataset
from magnet.evaluate import progress_bar
from magnet.losses.grounding import SEEN, MaskGrounding
from magnet.runs import Run
from magnet.statistics import LEVEL, bootstrap
from magnet.workbench.words import TextOnly, draw_sentences, train_on_text, word_classes

_TEXT_SCENES = 4000  # whose sentences are read before any picture is seen
DIFFERENCES = (("image", "text"), ("mask", "text"), ("mask", "image"), ("mask", "other mask"))


def train_predictors(
    run: Run, grounding: GroundingConfig, num_steps: int, batch_size: int = 32, lr: float = 1e-3, seed: int = 0,
    contexts: tuple[str, ...] = tuple(SEEN), text_steps: int = 0, progress: bool = True,
) -> tuple[dict[str, MaskGrounding], pd.DataFrame]:  # fmt: skip
    """One predictor per context on the run's frozen pixels, and the loss of each at every step (num_steps, contexts).

    Each has a language encoder of its own, `predictor.language`, at first the network's. All start from the same
    weights, those of `text_steps` steps of 64 sentences alone, and see the same sentences, the same words hidden.
    Data: what the run trains on, with another seed and without its easy beginning. The rate rises for a tenth of the
    steps, then falls along half a cosine.
    """
    model = run.load_model().requires_grad_(False)
    start = _start(grounding, run, model, seed, text_steps)
    predictors = {context: _for_context(start, context) for context in contexts}
    parameters = [parameter for one in predictors.values() for parameter in one.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=max(2, num_steps), pct_start=0.1, cycle_momentum=False
    )
    losses = []
    with progress_bar(progress, total=num_steps, unit="step") as bar:
        for batch in _training_batches(run, num_steps, batch_size, seed):
            losses.append(_step(model, predictors, batch))
            for one in predictors.values():
                nn.utils.clip_grad_norm_(one.parameters(), 1.0)
            optimizer.step(), schedule.step(), optimizer.zero_grad()
            bar.update()
    return {context: one.eval() for context, one in predictors.items()}, pd.DataFrame(losses)


def _start(grounding: GroundingConfig, run: Run, model: nn.Module, seed: int, text_steps: int) -> MaskGrounding:
    """The predictor, with its encoder, that all contexts begin with: it has learnt from text alone."""
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(run.config.model.language.vocabulary)
    predictor = MaskGrounding(replace(grounding, context="text"), model, tokenizer)
    predictor.language = copy.deepcopy(model.language).requires_grad_()
    if text_steps:
        sentences = draw_sentences(_TEXT_SCENES, tokenizer, run.config.seed + 1000 + seed)
        train_on_text(predictor, TextOnly(predictor.language, model.vision.channels[-1]), sentences, text_steps)
    return predictor


def _for_context(start: MaskGrounding, context: str) -> MaskGrounding:
    predictor = copy.deepcopy(start)
    predictor.config = replace(start.config, context=context)
    return predictor


def _training_batches(run: Run, num_steps: int, batch_size: int, seed: int) -> Iterator[dict]:
    data = replace(run.config.data, easy_first=0, sentences_per_image=1)
    dataset = training_set(data, run.config.model.language.vocabulary, run.config.seed + 1000 + seed)
    for step in range(num_steps):
        torch.manual_seed(hash((seed, step)))
        yield collate([dataset[step * batch_size + i] for i in range(batch_size)])


def _step(model: nn.Module, predictors: dict[str, MaskGrounding], batch: dict) -> dict[str, float]:
    """Gradients of every predictor's loss at the same hidden words; the losses."""
    hidden, losses = next(iter(predictors.values())).hide_words(batch), {}
    pixels = read_pixels(model, batch, hidden)
    for context, predictor in predictors.items():
        loss, _ = predictor(predictor, batch, hidden, read_words(predictor, batch, hidden, pixels))
        loss.backward()
        losses[context] = loss.item()
    return losses


@torch.no_grad()
def read_pixels(model: nn.Module, batch: dict, hidden: tuple[Tensor, Tensor]) -> Tensor:
    """The pictures as the frozen network sees them when it reads the hidden sentences: (B,C,H,W)."""
    return model.encode(batch["images"], hidden[0], batch["token_mask"])["pixel_features"]


def read_words(predictor: MaskGrounding, batch: dict, hidden: tuple[Tensor, Tensor], pixels: Tensor) -> dict:
    """What the predictor takes as `encode`'s features: the hidden sentences as its own encoder reads them, and pixels,
    which it looks at if its context has them."""
    return {"word_features": predictor.language(hidden[0], batch["token_mask"]), "pixel_features": pixels}


@torch.no_grad()
def ask(
    run: Run, predictors: dict[str, MaskGrounding], num_expressions: int | None = None, split: str = "val",
    batch_size: int = 64, progress: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Every content word of the split's sentences hidden alone, by [MASK]: which predictors find it?

    The predictor that sees masks is also asked with the mask of another picture: context "other mask".

    Args: num_expressions: only so many sentences, evenly spread.
    Returns one row per hidden word: sent_id, image_id, text, token (its place in the sentence), word, kind, and for
    each context its three best guesses ("mask guesses"), whether the best is right ("mask right"), "mask loss" in nats.
    """
    data, tokenizer = run.config.data, load_tokenizer(run.config.model.language.vocabulary)
    table = select_split(read_refer(data.root, data.name, data.split_by, data.polygon_overlap), split)
    if num_expressions:
        table = table.iloc[np.linspace(0, len(table) - 1, min(num_expressions, len(table))).round().astype(int)]
    dataset, model = ExpressionDataset(table, data, tokenizer, training=False), run.load_model()
    questions, answers = _questions(dataset, table, tokenizer), []
    with progress_bar(progress, total=len(questions), unit="word") as bar:
        for start in range(0, len(questions), batch_size):
            asked = questions.iloc[start : start + batch_size]
            batch, others = (collate([dataset[row % len(dataset)] for row in asked["row"] + shift])
                             for shift in (0, len(dataset) // 2))  # fmt: skip
            hidden = _hide(batch, asked["token"], tokenizer.mask_token_id)
            logits = _logits(model, predictors, batch, others["masks"], hidden)
            answers.append(_answers(logits, batch["token_ids"][hidden[1]], tokenizer))
            bar.update(len(asked))
    return questions.drop(columns="row").join(pd.concat(answers, ignore_index=True))


def _questions(dataset: ExpressionDataset, table: pd.DataFrame, tokenizer) -> pd.DataFrame:
    classes, pieces = word_classes(), tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    asked = torch.tensor([piece in classes for piece in pieces])[dataset.token_ids] & dataset.token_mask.bool()
    rows, tokens = asked.nonzero(as_tuple=True)
    words = [pieces[i] for i in dataset.token_ids[asked].tolist()]
    questions = table[["sent_id", "image_id", "text"]].iloc[rows.numpy()].reset_index(drop=True)
    kinds = [classes[word] for word in words]
    return questions.assign(row=rows.numpy(), token=tokens.numpy(), word=words, kind=kinds)


def _hide(batch: dict, tokens: pd.Series, mask_id: int) -> tuple[Tensor, Tensor]:
    """One token of each sentence hidden: what `MaskGrounding.predict` takes."""
    where = F.one_hot(torch.tensor(tokens.to_numpy()), batch["token_ids"].shape[1]).bool()
    return batch["token_ids"].masked_fill(where, mask_id), where


def _logits(
    model: nn.Module, predictors: dict[str, MaskGrounding], batch: dict, other_masks: Tensor, hidden: tuple
) -> dict[str, Tensor]:
    pixels = read_pixels(model, batch, hidden)
    features = {name: read_words(one, batch, hidden, pixels) for name, one in predictors.items()}
    logits = {name: one.predict(one, batch, hidden, features[name], name) for name, one in predictors.items()}
    if (one := predictors.get("mask")) is not None:
        logits["other mask"] = one.predict(one, {**batch, "masks": other_masks}, hidden, features["mask"])
    return logits


def _answers(logits: dict[str, Tensor], truth: Tensor, tokenizer) -> pd.DataFrame:
    columns = {}
    for name, values in logits.items():
        best = values.topk(3).indices
        columns[f"{name} guesses"] = [" ".join(tokenizer.convert_ids_to_tokens(row)) for row in best.tolist()]
        columns[f"{name} right"] = (best[:, 0] == truth).numpy()
        columns[f"{name} loss"] = F.cross_entropy(values, truth, reduction="none").numpy()
    return pd.DataFrame(columns)


def summarize_guesses(
    asked: pd.DataFrame, what: Literal["right", "loss"] = "right", num_draws: int = 10_000
) -> pd.DataFrame:
    """Accuracy (percent) or mean loss (nats) of each context, and differences, with 95 % intervals over images.

    One row for each: value, low, high, n (hidden words). A difference is named "mask - image"; it is paired.
    """
    contexts = [name for name in (*SEEN, "other mask") if f"{name} {what}" in asked]
    scores = {name: asked[f"{name} {what}"].to_numpy(float) * (1 if what == "right" else 0.01) for name in contexts}
    every = np.ones(len(asked))
    draws = dict(zip(contexts, bootstrap(asked["image_id"], [(one, every) for one in scores.values()], num_draws).T))
    rows = {name: (100 * scores[name].mean(), draws[name]) for name in contexts}
    for more, less in DIFFERENCES:
        if more in scores and less in scores:
            rows[f"{more} - {less}"] = rows[more][0] - rows[less][0], draws[more] - draws[less]
    ends = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    return pd.DataFrame.from_dict(
        {name: [value, *np.quantile(drawn, ends), len(asked)] for name, (value, drawn) in rows.items()},
        orient="index", columns=["value", "low", "high", "n"],
    )  # fmt: skip
