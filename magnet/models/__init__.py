"""The networks, and `build_model`, which makes one from its configuration."""

import logging

from torch import nn

from magnet import memory
from magnet.config import LanguageConfig, ModelConfig
from magnet.models.coupalign import CoupAlign
from magnet.models.lavt import LAVT
from magnet.models.magnet import MagNet

OWN = {  # settings that one method alone reads
    "magnet": (
        "fusion", "text_side", "pyramid", "pixel_decoder_layers", "pixel_decoder_feedforward", "num_points",
        "decoder_layers", "decoder_feedforward", "num_heads", "mask_detail",
    ),
    "coupalign": ("coupalign",),
}  # fmt: skip
_logger = logging.getLogger(__name__)
METHODS = {"lavt": LAVT, "magnet": MagNet, "coupalign": CoupAlign}


def build_model(config: ModelConfig, vocab_size: int | None = None) -> nn.Module:
    """The network a configuration describes, with random weights except where it names pretrained ones.

    `vocab_size` defaults to the `vocab_size` among language.options, then to the size of language.vocabulary. From now
    on the process keeps what memory it frees, `magnet.memory.keep_freed`.
    """
    if config.method not in METHODS:
        raise ValueError(f"method={config.method!r} is not one of {', '.join(METHODS)}")
    if unread := _unread(config):
        _logger.warning("method=%r does not read %s: these settings change nothing", config.method, ", ".join(unread))
    memory.keep_freed()  # every pass asks for the same large blocks again
    return METHODS[config.method](config, vocab_size or _vocab_size(config.language))


def _unread(config: ModelConfig) -> list[str]:
    """Settings of other methods that are not as they are by default."""
    plain = ModelConfig()
    others = [name for method, names in OWN.items() if method != config.method for name in names]
    return [name for name in others if getattr(config, name) != getattr(plain, name)]


def _vocab_size(language: LanguageConfig) -> int:
    if "vocab_size" in language.options:
        return language.options["vocab_size"]
    from magnet.data.text import load_tokenizer  # here: a model with a stated vocabulary needs no tokenizer

    return len(load_tokenizer(language.vocabulary))
