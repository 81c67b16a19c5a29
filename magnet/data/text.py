"""Sentences to token ids: WordPiece as BERT does it, or any Hugging Face tokenizer.

tokenizer = load_tokenizer("refshapes")
token_ids, token_mask = encode(tokenizer, ["the red star left of the ring"], num_tokens=20)
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LOCAL_COPY = (
    "where there is a network, `hf download NAME config.json vocab.txt tokenizer.json tokenizer_config.json"
    " --local-dir FOLDER`, and give that folder, or its vocab.txt, as --model.language.vocabulary; a released file's"
    " words go to `magnet convert FILE NEW_FOLDER --vocabulary`"
)
REFSHAPES_VOCABULARY = Path(__file__).parents[1] / "assets" / "refshapes_vocab.txt"


def load_tokenizer(vocabulary: str):
    """A transformers fast tokenizer.

    vocabulary: "refshapes" (shipped with the package), a WordPiece vocabulary file (one piece per line; lower-cased and
    split as BERT does), a folder that AutoTokenizer reads, or a hub name.
    Raises FileNotFoundError that names what was wanted and how to give a local copy; ValueError for a file that is no
    WordPiece vocabulary.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive the loader's fork
    path = REFSHAPES_VOCABULARY if vocabulary == "refshapes" else Path(vocabulary).expanduser()
    if path.is_file():
        return _word_piece(path)
    if path.is_dir():
        return _from_library(str(path), is_folder=True)
    if vocabulary.startswith(("/", ".", "~")) or path.suffix == ".txt" or path == REFSHAPES_VOCABULARY:
        raise FileNotFoundError(f"{path} does not exist; {LOCAL_COPY}")
    return _from_library(vocabulary, is_folder=False)


def _word_piece(path: Path):
    from transformers import BertTokenizerFast

    pieces = path.read_text(encoding="utf-8").splitlines()
    missing = [piece for piece in SPECIALS if piece not in pieces]
    if missing or len(set(pieces)) != len(pieces):
        what = f"lacks {', '.join(missing)}" if missing else "holds a piece twice"
        raise ValueError(f"{path} is no WordPiece vocabulary: it {what}; {LOCAL_COPY}")
    return BertTokenizerFast(vocab={piece: index for index, piece in enumerate(pieces)}, do_lower_case=True)


def _from_library(name: str, is_folder: bool):
    """A folder's, or the downloaded copy if there is one; the hub is asked once before the client, which retries."""
    from huggingface_hub import HfApi
    from transformers import AutoTokenizer

    where = f"in {name}" if is_folder else f"{name!r} here or on the Hugging Face hub"
    not_downloaded = () if is_folder else (OSError, ValueError)
    try:
        with suppress(*not_downloaded):
            return AutoTokenizer.from_pretrained(name, local_files_only=True)
        HfApi().model_info(name, timeout=10)
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # the hub's client and damaged files raise many kinds
        raise FileNotFoundError(f"no tokenizer {where} ({_first_line(error)}); {LOCAL_COPY}") from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def encode(tokenizer, texts: Sequence[str], num_tokens: int = 20, words: str = "sentence"):
    """Token ids and their mask: two (B, T) int64 tensors, T = num_tokens; the mask is 1 for tokens, 0 for padding.

    The published token rule: [CLS] sentence [SEP], cut to the first T ids (a long sentence loses its [SEP]), padded
    with the tokenizer's pad id (0 for BERT). words="bag" sorts the pieces between the specials by id, so that order
    is lost and nothing else; "none" keeps only [CLS] [SEP]. Raises ValueError for any other `words`.
    """
    if words not in ("sentence", "bag", "none"):
        raise ValueError(f"words={words!r}: one of 'sentence', 'bag', 'none'")
    token_ids = np.full((len(texts), num_tokens), tokenizer.pad_token_id, dtype=np.int64)
    token_mask = np.zeros_like(token_ids)
    for row, ids in enumerate(_ids(tokenizer, texts, words)):
        ids = ids[:num_tokens]
        if words == "bag":
            ids = _sorted_between_specials(ids, tokenizer.sep_token_id)
        token_ids[row, : len(ids)] = ids
        token_mask[row, : len(ids)] = 1
    return torch.from_numpy(token_ids), torch.from_numpy(token_mask)


def _ids(tokenizer, texts: Sequence[str], words: str = "sentence") -> list[list[int]]:
    if words == "none":
        return [[tokenizer.cls_token_id, tokenizer.sep_token_id]] * len(texts)
    return tokenizer(list(texts), verbose=False)["input_ids"] if len(texts) else []


def _sorted_between_specials(ids: list[int], separator: int) -> list[int]:
    end = len(ids) - (ids[-1] == separator)
    return [ids[0], *sorted(ids[1:end]), *ids[end:]]


def token_counts(tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Length of each text in tokens before cutting, specials included: (N,) int64."""
    return np.array([len(ids) for ids in _ids(tokenizer, texts)], dtype=np.int64)


def report(tokenizer, texts: Sequence[str], num_tokens: int = 20) -> dict:
    """What the token rule loses: {"cut", "empty", "only_unknown": {"count": int, "first": up to 3 row numbers}}."""
    pieces = [ids[1:-1] for ids in _ids(tokenizer, texts)]
    found = {
        "cut": [row for row, ids in enumerate(pieces) if len(ids) > num_tokens - 2],
        "empty": [row for row, ids in enumerate(pieces) if not ids],
        "only_unknown": [row for row, ids in enumerate(pieces) if set(ids) == {tokenizer.unk_token_id}],
    }
    return {what: {"count": len(rows), "first": rows[:3]} for what, rows in found.items()}
