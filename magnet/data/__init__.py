"""From files on disk to batches: REFER files -> expression table -> dataset -> batch."""

from magnet.data.dataset import (
    ExpressionDataset,
    check_images,
    collate,
    normalize,
    squash_image,
    squash_mask,
    training_set,
)
from magnet.data.refer import data_root, read_refer, select_split, splits
from magnet.data.tags import add_tags, add_token_tags
from magnet.data.text import encode, load_tokenizer, report
