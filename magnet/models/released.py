"""Released checkpoints in, our networks out: sizes are read off the tensors, and every tensor must find its place.

A family of checkpoints is one `Release`: how to know it, how to configure our network for it, and what its tensors are
called here. `load_released` does the rest.
"""

import argparse
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from magnet.config import LanguageConfig, ModelConfig, VisionConfig
from magnet.models import build_model
from magnet.models.vision import differences

Tensors = Mapping[str, Tensor]
Rename = tuple[str, str | Callable[[re.Match], str]]


@dataclass(frozen=True, kw_only=True)
class Release:
    """One family of published checkpoints."""

    name: str
    marker: str  # a tensor only this family has
    configure: Callable[[Tensors], ModelConfig]
    renames: list[Rename]  # the first pattern found at a name's start rewrites it
    unused: list[str]  # patterns of tensors that ours deliberately does without


def load_released(source: str | Path | Mapping) -> nn.Module:
    """Our network with the weights of a released checkpoint, in evaluation mode; its configuration is `model.config`.

    `source` is a file written by the authors' training code, or the dictionary inside it. LAVT comes in two forms, both
    read: image and language network apart (`model`, `bert_model`), or together (`text_encoder.*` inside `model`).
    Raises ValueError where a tensor is missing, left over, of another shape or not finite.
    """
    label = "the given state dict" if isinstance(source, Mapping) else str(source)
    tensors = _tensors(source if isinstance(source, Mapping) else _read(Path(source).expanduser()))
    release = _recognise(tensors, label)
    try:
        config = release.configure(tensors)
    except KeyError as error:
        raise ValueError(f"{label}: a {release.name} checkpoint without the tensor {error}; is it complete?") from error
    model = build_model(config)
    _fill(model, tensors, release, label)
    return model.eval()


def _read(path: Path) -> Mapping:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint; give the path of a released .pth file")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # LAVT keeps its command line beside the weights
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: refused, it holds more than tensors and plain values: {error}") from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a readable checkpoint, perhaps cut short; fetch it again ({error})") from error


def _tensors(contents: Mapping) -> dict[str, Tensor]:
    """All weights under the names of the one-module form."""
    model, text = contents.get("model", contents), contents.get("bert_model", {})
    named = {**model, **{f"text_encoder.{name}": tensor for name, tensor in text.items()}}
    return {name: tensor for name, tensor in named.items() if isinstance(tensor, Tensor)}


def _recognise(tensors: Tensors, label: str) -> Release:
    for release in RELEASES:
        if release.marker in tensors:
            return release
    known = ", ".join(f"{release.name} (has {release.marker})" for release in RELEASES)
    reason = next((why for start, why in _OTHER_KINDS.items() if any(n.startswith(start) for n in tensors)), "")
    raise ValueError(f"{label}: no known release: {known}. It holds {sorted(tensors)[:5]}... {reason}".rstrip())


_OTHER_KINDS = {
    "vision.body.": "This is a checkpoint of this package: use magnet.load.",
    "layers.0.": "This looks like a bare vision backbone: name it in vision.pretrained.",
    "embeddings.": "This looks like a bare language encoder: name its folder in language.pretrained.",
    "bert.": "This looks like a bare language encoder: name its folder in language.pretrained.",
}


def _fill(model: nn.Module, tensors: Tensors, release: Release, label: str) -> None:
    own = model.state_dict()
    used = {name: t for name, t in tensors.items() if not any(re.search(p, name) for p in release.unused)}
    named = {_rename(name, release.renames): tensor for name, tensor in used.items()}
    named = {name: _without_kernel(tensor, own.get(name)) for name, tensor in named.items()}
    problems = differences(own, named)
    if problems:
        raise ValueError(
            f"{label}: not a whole {release.name} checkpoint, or one of another version; {len(problems)} tensors "
            f"differ from the {model.config.vision.options} it seems to be: {'; '.join(problems[:5])}"
        )
    model.load_state_dict(named)


def _rename(name: str, renames: list[Rename]) -> str:
    for pattern, replacement in renames:
        renamed, found = re.subn(f"^{pattern}", replacement, name)
        if found:
            return renamed
    return name


def _without_kernel(tensor: Tensor, own: Tensor | None) -> Tensor:
    """A kernel-1 convolution (out,in,1) is a linear layer (out,in) here."""
    return tensor.squeeze(-1) if own is not None and tensor.ndim == own.ndim + 1 and tensor.shape[-1] == 1 else tensor


def _swin_config(tensors: Tensors, prefix: str) -> VisionConfig:
    """Sizes of a Swin whose tensors start with `prefix`."""
    num_stages = _count(tensors, rf"{prefix}layers\.(\d+)\.")
    stages = range(num_stages)
    tables = [tensors[f"{prefix}layers.{i}.blocks.0.attn.relative_position_bias_table"] for i in stages]
    patch = tensors[f"{prefix}patch_embed.proj.weight"]
    options = {
        "embed_dim": patch.shape[0],
        "patch_size": patch.shape[-1],
        "depths": [_count(tensors, rf"{prefix}layers\.{i}\.blocks\.(\d+)\.") for i in stages],
        "num_heads": [table.shape[1] for table in tables],
        "window_size": round(tables[0].shape[0] ** 0.5 + 1) // 2,  # the table has (2w-1)² rows
    }
    return VisionConfig(name="swin_base_patch4_window12_384", options=options)


def _bert_config(tensors: Tensors, prefix: str) -> LanguageConfig:
    """Sizes of a BERT whose tensors start with `prefix`."""
    vocab_size, width = tensors[f"{prefix}embeddings.word_embeddings.weight"].shape
    options = {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "num_hidden_layers": _count(tensors, rf"{prefix}encoder\.layer\.(\d+)\."),
        "num_attention_heads": width // 64,  # the weights do not tell; every published BERT has heads of 64
        "intermediate_size": tensors[f"{prefix}encoder.layer.0.intermediate.dense.weight"].shape[0],
        "max_position_embeddings": tensors[f"{prefix}embeddings.position_embeddings.weight"].shape[0],
    }
    return LanguageConfig(options=options)


def _count(tensors: Tensors, pattern: str) -> int:
    """One more than the largest number the pattern's group matches at the start of a name."""
    return 1 + max((int(m[1]) for m in (re.match(pattern, name) for name in tensors) if m), default=-1)


def _next_stage(match: re.Match) -> str:
    return f"vision.body.layers_{int(match[1]) + 1}.downsample"  # timm merges patches where the next stage starts


def _decoder_layer(match: re.Match) -> str:
    convolution = 3 * (int(match[2]) - 1)  # [conv, norm, relu] twice
    return f"decoder.fuse.{4 - int(match[3])}.{convolution + (match[1] == 'bn')}"


_BLOCK = r"backbone\.layers\.(\d+)\."
LAVT = Release(
    name="LAVT",
    marker="backbone.layers.0.fusion.vis_project.0.weight",
    configure=lambda tensors: ModelConfig(
        method="lavt", vision=_swin_config(tensors, "backbone."), language=_bert_config(tensors, "text_encoder.")
    ),
    renames=[
        (r"backbone\.patch_embed", "vision.body.patch_embed"),
        (_BLOCK + r"blocks", r"vision.body.layers_\1.blocks"),
        (_BLOCK + r"downsample", _next_stage),
        (_BLOCK + r"fusion\.vis_project\.0", r"fusions.\1.pixel"),
        (_BLOCK + r"fusion\.image_lang_att\.f_(query|key|value)\.0", r"fusions.\1.\2"),
        (_BLOCK + r"fusion\.image_lang_att\.W\.0", r"fusions.\1.out"),
        (_BLOCK + r"fusion\.project_mm\.0", r"fusions.\1.mix"),
        (_BLOCK + r"res_gate\.0", r"gates.\1.inner"),
        (_BLOCK + r"res_gate\.2", r"gates.\1.outer"),
        (r"backbone\.norm(\d)", r"norms.\1"),
        (r"classifier\.(conv|bn)([12])_([234])", _decoder_layer),
        (r"classifier\.conv1_1", "decoder.classifier"),
        (r"text_encoder\.", "language.encoder."),
    ],
    unused=[
        r"\.relative_position_index$",  # follows from the window size
        r"^backbone\.layers\.3\.res_gate\.",  # gates what enters a stage 5 that does not exist
        r"^text_encoder\.pooler\.",
        r"^text_encoder\.embeddings\.position_ids$",
    ],
)
RELEASES = [LAVT]
