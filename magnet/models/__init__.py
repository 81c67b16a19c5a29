"""The networks, and `build_model`, which makes one from its configuration."""

from torch import nn

from magnet.config import LanguageConfig, ModelConfig
from magnet.models.coupalign import CoupAlign
from magnet.models.lavt import LAVT
from magnet.models.magnet import MagNet

METHODS = {"lavt": LAVT, "magnet": MagNet, "coupalign": CoupAlign}


def build_model(config: ModelConfig, vocab_size: int | None = None) -> nn.Module:
    """The network a configuration describes, with random weights except where it names pretrained ones.

    `vocab_size` defaults to the `vocab_size` among language.options, then to the size of language.vocabulary.
    """
    if config.method not in METHODS:
        raise ValueError(f"method={config.method!r} is not one of {', '.join(METHODS)}")
    return METHODS[config.method](config, vocab_size or _vocab_size(config.language))


def _vocab_size(language: LanguageConfig) -> int:
    if "vocab_size" in language.options:
        return language.options["vocab_size"]
    from magnet.data.text import load_tokenizer  # here: a model with a stated vocabulary needs no tokenizer

    return len(load_tokenizer(language.vocabulary))
