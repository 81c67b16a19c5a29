"""Released checkpoints in, our networks out: sizes are read off the tensors, and every tensor must find its place.

A family of checkpoints is one `Release`: how to know it, how to configure our network for it, and what its tensors are
called here. `load_released` does the rest.
"""

import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mode

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from magnet import runs
from magnet.config import Config, LanguageConfig, ModelConfig, VisionConfig
from magnet.data import load_tokenizer
from magnet.models import build_model
from magnet.models.checkpoints import data_of, find_checkpoint, origin_of, read_checkpoint
from magnet.models.weights import Tensors, WithoutStart, fill

_logger = logging.getLogger(__name__)
Rename = tuple[str, str | Callable[[re.Match], str]]


@dataclass(frozen=True, kw_only=True)
class Release:
    """One family of published checkpoints."""

    name: str
    marker: str  # a tensor only this family has
    configure: Callable[[Tensors], ModelConfig]
    renames: list[Rename]  # the first pattern found at a name's start rewrites it
    unused: list[str]  # patterns of tensors that ours deliberately does without; each is found in every such file
    optional: list[str] = field(default_factory=list)  # the same, of tensors that some files have
    layers: dict[str, int]  # pattern that counts layers -> how many every published network has


def load_released(source: str | Path | Mapping) -> nn.Module:
    """Our network with the weights of a released checkpoint, in evaluation mode; its configuration is `model.config`.

    `source` is a file written by the authors of LAVT or MagNet, its name on the hub (see checkpoints.py), or the
    dictionary inside it. LAVT comes in two forms, both read: image and language network apart (`model`, `bert_model`),
    or together (`text_encoder.*` in `model`); `state_dict` may stand for `model`. A file's tensors are used where they
    lie, and read when they are needed; of another precision than float32 they are converted, which a warning says.
    Raises ValueError where a tensor is missing, left over, of another shape or kind or not finite, where there are
    fewer layers than every published network of the kind has, or where a published file's checksum is another.
    """
    label = "the given state dict" if isinstance(source, Mapping) else str(source)
    contents = source if isinstance(source, Mapping) else read_checkpoint(find_checkpoint(source))
    release, tensors = _opened(contents, label)
    model = _build(release, tensors, label)
    own, named, theirs = model.state_dict(), {}, {}
    for name, tensor in tensors.items():
        if not any(re.search(pattern, name) for pattern in release.unused + release.optional):
            ours = _rename(name, release.renames)
            named[ours], theirs[ours] = _without_kernel(tensor, own.get(ours)), name
    _logger.info("%s: %d of %d tensors have no effect and are left out", label, len(tensors) - len(named), len(tensors))
    described = f"{label}, a {release.name} with {model.config.vision.options} by its tensors,"
    _say_precision(named, label)
    fill(model, named, described, assign=not isinstance(source, Mapping), names=theirs)  # given: stays the caller's own
    sides = getattr(model, "text_sides", ())
    if sides and all(side.gate.is_closed() for side in sides):
        _logger.warning("%s: words never read pixels, all gates of the text side are zero; it is skipped", label)
    return model.eval()


def released_config(source: str | Path) -> Config:
    """What `load_released` would build of a file, and the data it was trained on, as a whole configuration."""
    path = find_checkpoint(source)
    release, tensors = _opened(read_checkpoint(path), str(path))
    with _naming(release, str(path)):
        return _whole_config(release.configure(tensors), path)


def convert(source: str | Path, folder: str | Path, vocabulary: str | None = None) -> Path:
    """Write a released file as a run folder, which `magnet.load`, `magnet.evaluate` and the benchmarks read.

    It holds config.json, model.safetensors, released.json (which file it was made of) and, of a given vocabulary, a
    copy; so it can be moved, and used from anywhere.

    vocabulary: as `load_tokenizer` takes it; None: bert-base-uncased, from the hub when it is needed. Gives the folder.
    Raises ValueError where something lies in it already, or the vocabulary is of another size than the file's;
    FileNotFoundError where there is no such vocabulary; OSError where it could not be written, and then leaves none.
    """
    path, folder = find_checkpoint(source), Path(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder; name another one")
    model = load_released(path)
    run = runs.Run(folder, _whole_config(model.config, path))
    tokenizer = None if vocabulary is None else _fitting_tokenizer(vocabulary, model.config.language, path)
    apart = {name: t.clone(memory_format=torch.contiguous_format) for name, t in model.state_dict().items()}
    with _whole_or_gone(folder):
        if tokenizer:
            _save_words(tokenizer, run.vocabulary)
        runs.atomic_write(run.weights, lambda file: save_file(apart, file))  # which takes no tensors that share memory
        runs.write_json(run.origin, runs.config_to_dict(origin_of(path)))
        runs.write_json(folder / "config.json", {"version": runs.VERSION, **runs.config_to_dict(run.config)})
    return folder


def _fitting_tokenizer(vocabulary: str, language: LanguageConfig, path: Path):
    tokenizer, wanted = load_tokenizer(vocabulary), language.options["vocab_size"]
    if (found := len(tokenizer)) != wanted:
        raise ValueError(
            f"{vocabulary} holds {found:,} pieces, the word embeddings of {path} {wanted:,}; give the vocabulary it was"
            f" trained with, as a rule the vocab.txt of {language.vocabulary}"
        )
    return tokenizer


@contextmanager
def _whole_or_gone(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _save_words(tokenizer, folder: Path) -> None:
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # a full disk is a bare Exception there
        raise OSError(f"could not write {folder}: {error}") from error


def _whole_config(model: ModelConfig, path: Path) -> Config:
    return Config(recipe=path.stem, model=model, data=data_of(path))


def _opened(contents: Mapping, label: str) -> tuple[Release, dict[str, Tensor]]:
    tensors = _tensors(contents, label)
    release = _recognise(tensors, label)
    _check_complete(release, tensors, label)
    return release, tensors


def _tensors(contents: Mapping, label: str) -> dict[str, Tensor]:
    """All weights under the names of the one-module form."""
    text = {}
    if isinstance(contents, Mapping):
        text = contents.get("bert_model") or {}
        contents = contents.get("model", contents.get("state_dict", contents))
    for part in (contents, text):
        if not isinstance(part, Mapping):
            raise ValueError(f"{label}: a checkpoint is a dictionary of tensors, not a {type(part).__name__}")
    named = {**contents, **{f"text_encoder.{name}": tensor for name, tensor in text.items()}}
    tensors = {name: value for name, value in named.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{label}: there are no tensors in it, only {list(contents)[:5]}; give what holds the tensors")
    return tensors


def _recognise(tensors: Tensors, label: str) -> Release:
    for release in RELEASES:
        if release.marker in tensors:
            return release
    known = ", ".join(f"{release.name} (has {release.marker})" for release in RELEASES)
    reason = next((why for start, why in _OTHER_KINDS.items() if any(n.startswith(start) for n in tensors)), "")
    raise ValueError(f"{label}: no known release: {known}. It holds {sorted(tensors)[:5]}... {reason}".rstrip())


_OTHER_KINDS = {
    "module.": "Its names begin with 'module.', as data-parallel training saves them: take that off.",
    "vision.body.": "This is a checkpoint of this package: use magnet.load.",
    "layers.0.": "This looks like a bare vision backbone: name it in vision.pretrained.",
    ("embeddings.", "bert."): "This looks like a bare language encoder: name its folder in language.pretrained.",
}


def _check_complete(release: Release, tensors: Tensors, label: str) -> None:
    """Sizes are read off the tensors, so a file that lost its last layers would pass for a smaller network."""
    for pattern, number in release.layers.items():
        if (found := _count(tensors, pattern)) != number:
            what = f"{found} layers {pattern.replace(chr(92), '')}, every published {release.name} has {number}"
            raise ValueError(f"{label}: {what}; it was cut short, or is another network")
    for pattern in release.unused:
        if not any(re.search(pattern, name) for name in tensors):
            what = f"no tensor {pattern!r}, which every published {release.name} has"
            raise ValueError(f"{label}: {what}; it was cut short, or is another network")
    for name, tensor in tensors.items():
        if name.endswith(".relative_position_index") and not _is_window_index(tensor):
            raise ValueError(f"{label}: {name} is not what its window gives; the file was changed or damaged")


def _is_window_index(index: Tensor) -> bool:
    """Whether (w²,w²) integers say which row of a Swin's position table two places of a w×w window use."""
    window = round(index.shape[0] ** 0.5) if index.ndim else 0
    if index.layout != torch.strided or index.is_quantized or index.shape != (window**2, window**2):
        return False
    places = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    apart = places[:, None] - places + window - 1  # (w²,w²,2)
    return torch.equal(index.long(), apart[..., 0] * (2 * window - 1) + apart[..., 1])


def _build(release: Release, tensors: Tensors, label: str) -> nn.Module:
    with _naming(release, label), WithoutStart():
        return build_model(release.configure(tensors))


@contextmanager
def _naming(release: Release, label: str) -> Iterator[None]:
    """What goes wrong inside, as a ValueError that names the file."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{label}: a {release.name} checkpoint without the tensor {error}; is it complete?") from error
    except Exception as error:  # sizes that do not go together fail in whatever part meets them first
        raise ValueError(f"{label}: a {release.name} checkpoint of sizes no network has, damaged? ({error})") from error


def _say_precision(tensors: Tensors, label: str) -> None:
    kinds = {str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.is_floating_point()} - {"float32"}
    if kinds:
        _logger.warning("%s: tensors in %s, not float32; they are converted", label, ", ".join(sorted(kinds)))


def _rename(name: str, renames: list[Rename]) -> str:
    for pattern, replacement in renames:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name, count=1)
    return name


def _without_kernel(tensor: Tensor, own: Tensor | None) -> Tensor:
    """A kernel-1 convolution (out,in,1) or (out,in,1,1) is a linear layer (out,in) here."""
    is_linear = own is not None and own.ndim == 2 < tensor.ndim and set(tensor.shape[2:]) == {1}
    return tensor.flatten(1) if is_linear and tensor.layout == torch.strided else tensor


def _swin_config(tensors: Tensors, prefix: str) -> VisionConfig:
    """Sizes of a Swin whose tensors start with `prefix`."""
    stages = range(_count(tensors, rf"{prefix}layers\.(\d+)\."))
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


_ATTENTION = {  # parts of one pixel-word attention, theirs and ours
    "vis_project.0": "pixel", "image_lang_att.f_query.0": "query", "image_lang_att.f_query.1": "query_norm",
    "image_lang_att.f_key.0": "key", "image_lang_att.f_value.0": "value", "image_lang_att.W.0": "out",
    "image_lang_att.W.1": "out_norm", "project_mm.0": "mix",
}  # fmt: skip
_DEFORMABLE = {  # parts of one layer of the pixel decoder
    "self_attn.sampling_offsets": "attention.offsets", "self_attn.attention_weights": "attention.weights",
    "self_attn.value_proj": "attention.value", "self_attn.output_proj": "attention.out", "norm1": "attention_norm",
    "linear1": "feedforward.0", "linear2": "feedforward.2", "norm2": "feedforward_norm",
}  # fmt: skip
_GATE = {"0": "inner", "2": "outer"}
_CROSS = {"multihead_attn": "cross_attention", "norm": "cross_norm"}  # parts of one layer of the query decoder
_SELF = {"self_attn": "self_attention", "norm": "self_norm"}
_FEEDFORWARD = {"linear1": "feedforward.0", "linear2": "feedforward.2", "norm": "feedforward_norm"}
_QUERY_PARTS = {
    "decoder_norm": "norm", "query_feat.weight": "query", "query_embed.weight": "query_position",
    "level_embed.weight": "scale_embedding",
}  # fmt: skip


def _parts(theirs: str, ours: str, parts: dict[str, str]) -> list[Rename]:
    return [(theirs + re.escape(part), ours + own) for part, own in parts.items()]


def _swin(prefix: str) -> list[Rename]:
    return [
        (prefix + r"patch_embed", "vision.body.patch_embed"),
        (prefix + r"layers\.(\d+)\.blocks", r"vision.body.layers_\1.blocks"),
        # timm merges patches where the next stage starts
        (prefix + r"layers\.(\d+)\.downsample", lambda m: f"vision.body.layers_{int(m[1]) + 1}.downsample"),
    ]


LAVT = Release(
    name="LAVT",
    marker="backbone.layers.0.fusion.vis_project.0.weight",
    configure=lambda tensors: ModelConfig(
        method="lavt", vision=_swin_config(tensors, "backbone."), language=_bert_config(tensors, "text_encoder.")
    ),
    renames=[
        *_swin(r"backbone\."),
        *_parts(r"backbone\.layers\.(\d+)\.fusion\.", r"fusions.\1.", _ATTENTION),
        *_parts(r"backbone\.layers\.(\d+)\.res_gate\.", r"gates.\1.", _GATE),
        (r"backbone\.norm(\d)", r"norms.\1"),
        (r"classifier\.conv([12])_([234])", lambda m: f"decoder.fuse.{4 - int(m[2])}.{3 * int(m[1]) - 3}"),
        (r"classifier\.bn([12])_([234])", lambda m: f"decoder.fuse.{4 - int(m[2])}.{3 * int(m[1]) - 2}"),
        (r"classifier\.conv1_1", "decoder.classifier"),
        (r"text_encoder\.", "language.encoder."),
    ],
    unused=[
        r"\.relative_position_index$",  # follows from the window size
        r"^backbone\.layers\.3\.res_gate\.",  # gates what enters a stage 5 that does not exist
    ],
    optional=[r"^text_encoder\.pooler\.", r"^text_encoder\.embeddings\.position_ids$"],
    layers={r"text_encoder\.encoder\.layer\.(\d+)\.": 12, r"backbone\.layers\.(\d+)\.": 4},
)

_STAGE = r"image_model\.layers\.(\d+)\."
_WORDS = r"language_model\."
_PIXELS = r"classifier\.pixel_decoder\."
_PIXEL_LAYERS = _PIXELS + r"transformer\.encoder\.layers\.(\d+)\."
_QUERY = r"classifier\.predictor\."
_QUERY_LAYERS = _QUERY + r"transformer_%s_layers\.(\d+)\."


def _magnet_config(tensors: Tensors) -> ModelConfig:
    pixels, query = "classifier.pixel_decoder.", "classifier.predictor."
    return ModelConfig(
        method="magnet", fusion="cam", text_side="released",
        vision=_swin_config(tensors, "image_model."),
        language=_bert_config(tensors, "language_model."),
        decoder_width=_decoder_width(tensors),
        pixel_decoder_layers=_count(tensors, _PIXEL_LAYERS),
        pixel_decoder_feedforward=tensors[pixels + "transformer.encoder.layers.0.linear1.weight"].shape[0],
        decoder_layers=_count(tensors, _QUERY_LAYERS % "ffn"),
        decoder_feedforward=tensors[query + "transformer_ffn_layers.0.linear1.weight"].shape[0],
    )  # fmt: skip


def _decoder_width(tensors: Tensors) -> int:
    """What most tensors say: one may be damaged, and shall then be the one that does not fit."""
    by_row = "classifier.pixel_decoder.mask_features.weight", "classifier.predictor.decoder_norm.weight"
    by_column = "classifier.predictor.query_feat.weight", "classifier.predictor.level_embed.weight"
    return mode([tensors[name].shape[0] for name in by_row] + [tensors[name].shape[1] for name in by_column])


MAGNET = Release(
    name="MagNet",
    marker="image_model.layers.0.pyramids.0.1.weight",
    configure=_magnet_config,
    renames=[
        *_swin(r"image_model\."),
        *_parts(_STAGE + r"fusion\.", r"image_sides.\1.full.", _ATTENTION),
        *_parts(_STAGE + r"fusions\.(\d+)\.", r"image_sides.\1.pooled.\2.", _ATTENTION),
        (_STAGE + r"pyramids\.(\d+)\.(\d+)", lambda m: f"image_sides.{m[1]}.reduce.{m[2]}.{int(m[3]) - 1}"),
        (_STAGE + r"mixer", r"image_sides.\1.mixer"),
        *_parts(_STAGE + r"res_gate\.", r"gates.\1.", _GATE),
        (_WORDS + r"pwams\.(\d+)\.vis_project\.0", r"text_sides.\1.word"),
        *_parts(_WORDS + r"pwams\.(\d+)\.", r"text_sides.\1.", _ATTENTION),
        *_parts(_WORDS + r"res_gates\.(\d+)\.", r"text_sides.\1.gate.", _GATE),
        (_WORDS, "language.encoder."),
        *_parts(_PIXEL_LAYERS, r"pixel_decoder.layers.\1.", _DEFORMABLE),
        (_PIXELS + r"input_proj", "pixel_decoder.project"),
        (_PIXELS + r"transformer\.level_embed", "pixel_decoder.scale_embedding"),
        (_PIXELS, "pixel_decoder."),
        *_parts(_QUERY_LAYERS % "cross_attention", r"query_decoder.layers.\1.", _CROSS),
        *_parts(_QUERY_LAYERS % "self_attention", r"query_decoder.layers.\1.", _SELF),
        *_parts(_QUERY_LAYERS % "ffn", r"query_decoder.layers.\1.", _FEEDFORWARD),
        (_QUERY + r"mask_embed\.layers\.(\d)", lambda m: f"query_decoder.mask_embedding.{2 * int(m[1])}"),
        *_parts(_QUERY, "query_decoder.", _QUERY_PARTS),
    ],
    unused=[
        r"\.relative_position_index$",  # follows from the window size
        r"^image_model\.layers\.3\.res_gate\.",  # what an exchange after the last stage changes, nothing reads
        r"^language_model\.(pwams|res_gates)\.3\.",
        r"^image_model\.norm\d\.",  # norms and projections that the released network computes, or not, for nothing
        r"^language_model\.pwams\..*\.f_(key|value)\.0\.bias$",  # the norm that follows takes it out again
        r"^language_model\.norms\.",
        r"^lang_proj\.",
        r"^classifier\.predictor\.class_embed\.",
    ],
    layers={
        r"image_model\.layers\.(\d+)\.": 4,
        r"image_model\.layers\.0\.pyramids\.(\d+)\.": 4,
        _WORDS + r"encoder\.layer\.(\d+)\.": 12,
        _PIXEL_LAYERS: 4,
        **{_QUERY_LAYERS % kind: 9 for kind in ("cross_attention", "self_attention", "ffn")},
    },
)
RELEASES = [LAVT, MAGNET]
