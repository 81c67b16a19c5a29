"""Language backbones in groups of layers: any Hugging Face encoder with a layer list (BERT, RoBERTa, DistilBERT...)."""

import logging
from functools import lru_cache

from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, PreTrainedConfig

from magnet.config import LanguageConfig

_NO_SIZES = ("model_type", "transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path")
_logger = logging.getLogger(__name__)


class LanguageBackbone(nn.Module):
    """A text encoder whose words can be changed between groups of layers (methods: 12 layers in four groups of 3).

    `group_sizes` lists the layers per group, as equal as possible, larger groups first. `width` is D.
    """

    def __init__(self, config: LanguageConfig, vocab_size: int, *, num_groups: int = 4):
        super().__init__()
        self.encoder = _create(config, vocab_size)
        self.encoder.pooler = None
        self.width: int = self.encoder.config.hidden_size
        layers = _layer_list(self.encoder)
        self.num_groups = num_groups
        self.group_sizes = [len(layers) // num_groups + (i < len(layers) % num_groups) for i in range(num_groups)]

    def settings(self) -> dict:
        """The encoder's own settings, as `LanguageConfig.options` takes them, to build it without pretrained files."""
        found = self.encoder.config.to_diff_dict() | {"vocab_size": self.encoder.config.vocab_size}
        return {name: value for name, value in found.items() if name not in _NO_SIZES}

    def embed(self, token_ids: Tensor) -> Tensor:
        """Token ids (B,T) -> words (B,T,D) before the first layer."""
        return self.encoder.embeddings(token_ids)

    def group(self, index: int, words: Tensor, token_mask: Tensor) -> Tensor:
        """Run group `index` (from 0) on words (B,T,D); token_mask (B,T) is 1 for valid tokens, 0 for padding."""
        start = sum(self.group_sizes[:index])
        additive_mask = (token_mask[:, None, None, :].to(words.dtype) - 1) * 1e4  # 0 valid, -1e4 padding
        for layer in _layer_list(self.encoder)[start : start + self.group_sizes[index]]:
            output = layer(words, additive_mask)
            words = output if isinstance(output, Tensor) else output[0]
        return words

    def forward(self, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        """Token ids and mask (B,T) -> words (B,T,D) after the last layer."""
        words = self.embed(token_ids)
        for index in range(self.num_groups):
            words = self.group(index, words, token_mask)
        return words


@lru_cache  # once, not for every network that is built
def say_groups(*sizes: int) -> None:
    """Where groups are not equal, their sizes as a warning, which shows wherever logging was not set up: they decide
    which exchange the words still feel."""
    if len(set(sizes)) > 1:
        _logger.warning("the language layers, %d for %d stages, make groups of %s", sum(sizes), len(sizes), list(sizes))


def _create(config: LanguageConfig, vocab_size: int) -> nn.Module:
    _check_options(config)
    options = {"attn_implementation": "eager", **config.options}
    if config.pretrained is None:
        return AutoModel.from_config(AutoConfig.for_model(config.name, **{**options, "vocab_size": vocab_size}))
    encoder, report = _load_pretrained(config.pretrained, options)
    if problems := _problems(encoder.config, report, config, vocab_size):
        raise ValueError(f"language.pretrained={config.pretrained!r} does not fit: {'; '.join(problems[:5])}")
    return encoder


def _check_options(config: LanguageConfig) -> None:
    """transformers takes any option in silence, also a misspelt one."""
    if config.name not in CONFIG_MAPPING:
        raise ValueError(f"language.name={config.name!r} is no model type of transformers; 'bert' is one")
    known = AutoConfig.for_model(config.name)
    unknown = [name for name in config.options if not hasattr(known, name)]
    if unknown:
        settings = sorted(vars(known))
        raise ValueError(f"language.options {unknown} are no settings of {config.name!r}, which has {settings}")


def _load_pretrained(source: str, options: dict) -> tuple[nn.Module, dict]:
    """The encoder, and transformers' report of what was missing or of another shape."""
    try:
        return AutoModel.from_pretrained(source, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    except OSError as error:
        raise FileNotFoundError(
            f"language.pretrained={source!r}: neither a complete local folder nor reachable on the Hugging Face hub. "
            f"Without a network, copy its config.json and model.safetensors into a folder and set "
            f"language.pretrained=/path/to/folder"
        ) from error
    except Exception as error:  # a broken file raises what its format's library likes
        raise ValueError(f"language.pretrained={source!r} cannot be read: {error}") from error


def _problems(found: PreTrainedConfig, report: dict, config: LanguageConfig, vocab_size: int) -> list[str]:
    """What keeps a loaded encoder from being the one that was asked for."""
    problems = []
    if found.model_type != config.name:
        problems.append(f"it holds a {found.model_type!r}, but language.name={config.name!r}")
    if found.vocab_size < vocab_size:
        asked = f"language.vocabulary={config.vocabulary!r} has {vocab_size}; give the vocabulary it was trained with"
        problems.append(f"it knows {found.vocab_size} word pieces, but {asked}")
    problems += sorted(f"{name} is missing" for name in report["missing_keys"] if not name.startswith("pooler."))
    return problems + [f"{name} is {tuple(a)}, not {tuple(b)}" for name, a, b in sorted(report["mismatched_keys"])]


def _layer_list(encoder: nn.Module) -> nn.ModuleList:
    num_layers = encoder.config.num_hidden_layers
    for module in encoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return module
    raise ValueError(f"{type(encoder).__name__} has no list of its {num_layers} layers; take an encoder such as BERT")
