"""Vision backbones stepped stage by stage: any timm network that is a chain of them (Swin, ConvNeXt, ResNet...).

Maps are NCHW outside, whatever layout the network prefers inside. Swin runs as its authors released it, padding before
rolling; timm rolls before it pads, which is another function wherever a map is no multiple of the window.
"""

import sys
from pathlib import Path

import timm
import torch
from huggingface_hub import hf_hub_download
from timm.models import FeatureListNet, load_state_dict, model_entrypoint
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F

from magnet.config import VisionConfig
from magnet.models.weights import differences
from magnet.models.window_attention import PadThenRollBlock

_ANY_IMAGE_SIZE = {  # module of timm -> what lets its networks take images of any size
    "timm.models.swin_transformer": {"strict_img_size": False, "always_partition": True},
    "timm.models.swin_transformer_v2": {"strict_img_size": False},
}
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


class VisionBackbone(nn.Module):
    """A staged backbone whose maps can be changed between stages.

    `pad_then_roll` only matters to Swin. `channels` and `strides` list C_i and the stride of every stage; a stage's map
    has size/stride rows and columns, rounded up by Swin, down by convolutional networks.
    """

    def __init__(self, config: VisionConfig, *, pad_then_roll: bool = True):
        super().__init__()
        self.body = _create(config, staged=True)
        if not isinstance(self.body, FeatureListNet):
            raise ValueError(f"vision.name={config.name!r} has no chain of stages; take a staged network such as Swin")
        if config.pretrained not in (None, "refshapes"):  # the last is learnt when a training starts
            _load_pretrained(self.body, config)
        for block in self.body.modules():
            if pad_then_roll and type(block) is SwinTransformerBlock:
                block.__class__ = PadThenRollBlock  # same weights and settings, another order of steps
        self.channels: list[int] = self.body.feature_info.channels()
        self.strides: list[int] = self.body.feature_info.reduction()
        self.num_stages = len(self.channels)
        self._channels_last = self.body.output_fmt == "NHWC"
        self._steps = _split_into_steps(self.body)

    def stem(self, images: Tensor) -> Tensor:
        """Images (B,3,H,W), zero-padded at the bottom and right to whole patches -> map (B,C,H',W') for stage 0."""
        (height, width), patch = images.shape[-2:], self.strides[0]
        return self._run(0, _pad(images, (0, -width % patch, 0, -height % patch)))

    def stage(self, index: int, x: Tensor) -> Tensor:
        """Map (B,C,H,W) that left stage `index - 1` (or the stem) -> map (B,C_i,H_i,W_i) of stage `index`, from 0."""
        return self._run(index + 1, x)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B,3,H,W) -> the maps (B,C_i,H_i,W_i) of all stages."""
        x, maps = self.stem(images), []
        for index in range(self.num_stages):
            x = self.stage(index, x)
            maps.append(x)
        return maps

    def _run(self, step: int, x: Tensor) -> Tensor:
        if self._channels_last and step:  # an image is NCHW for every network
            x = x.permute(0, 2, 3, 1)
        for name in self._steps[step]:
            x = self.body[name](x)
        return x.permute(0, 3, 1, 2) if self._channels_last else x


def _create(config: VisionConfig, *, staged: bool) -> nn.Module:
    """timm's network, as a chain of stages or whole, without a classifier."""
    options = {"drop_path_rate": config.drop_path, **_ANY_IMAGE_SIZE.get(_family(config), {}), **config.options}
    if not staged:
        options.pop("out_indices", None)  # which maps are stages: nothing a whole network knows
    try:
        return timm.create_model(config.name, **options, **({"features_only": True} if staged else {"num_classes": 0}))
    except TypeError as error:  # an option that this family does not have
        raise ValueError(
            f"vision.name={config.name!r} does not take vision.options={config.options}: {error}"
        ) from error


def _family(config: VisionConfig) -> str:
    """timm's module that defines the network."""
    if not timm.is_model(config.name):
        near = timm.list_models(f"*{config.name.split('_')[0]}*")[:5]
        raise ValueError(f"vision.name={config.name!r} is no network of timm; near it: {', '.join(near) or 'none'}")
    return model_entrypoint(config.name.split(".")[0]).__module__


def _split_into_steps(body: FeatureListNet) -> list[list[str]]:
    """Names of the modules that make up the stem and each stage, in order."""
    names = list(body)
    ends = [names.index(name) + 1 for name in body.return_layers]
    starts = [ends[0] - 1, *ends[:-1]]  # what comes before the first stage's last module is the stem
    return [names[: starts[0]], *(names[start:end] for start, end in zip(starts, ends))]


def _pad(x: Tensor, amounts: tuple[int, ...]) -> Tensor:
    """With zeros, as `F.pad`, which copies where there is nothing to add, too."""
    return F.pad(x, amounts) if any(amounts) else x


def _load_pretrained(body: FeatureListNet, config: VisionConfig) -> None:
    """Fill every tensor of the stages; the file may hold a classifier and final norm besides, nothing else."""
    with torch.device("meta"):  # timm's translation needs the whole network, but only its shapes
        whole = _create(config, staged=False)
    own, given = body.state_dict(), _read_weights(config.pretrained)
    # other people's names are translated to timm's, tables of other windows resized
    translate = getattr(sys.modules[_family(config)], "checkpoint_filter_fn", lambda state, _: state)
    try:
        given = {_flat_name(name, own): tensor for name, tensor in translate(given, whole).items()}
        behind = {name for name in whole.state_dict() if _flat_name(name, own) not in own}  # final norm
        given = {name: t for name, t in given.items() if name not in behind and not _is_classifier(name, whole)}
        if problems := differences(own, given):
            raise ValueError("; ".join(problems[:5]))
    except (AttributeError, KeyError, RuntimeError, ValueError) as error:  # tensors of a network that is not ours
        raise ValueError(
            f"vision.pretrained={config.pretrained!r} does not fit vision.name={config.name!r} with {config.options}: "
            f"{error}. Name the network it was made for, or change vision.options"
        ) from error
    body.load_state_dict(given)


def _flat_name(name: str, own: dict) -> str:
    """timm's stepped network calls `layers.0.blocks` `layers_0.blocks`."""
    flat = name.replace(".", "_", 1)
    return flat if flat in own else name


def _is_classifier(name: str, whole: nn.Module) -> bool:
    heads = whole.pretrained_cfg.get("classifier") or ()
    heads = [heads] if isinstance(heads, str) else heads
    return any(name.startswith(f"{head}.") for head in (*heads, "head", "classifier"))


def _read_weights(source: str) -> dict[str, Tensor]:
    """Tensors of a local file, of a folder holding model.safetensors or pytorch_model.bin, or of a hub repository."""
    path = Path(source).expanduser()
    path = next((path / name for name in _WEIGHT_FILES if (path / name).is_file()), path)
    if not path.is_file():
        path = _download(source)
    try:
        return load_state_dict(str(path), use_ema=False)  # reads safetensors, or a pickle of nothing but tensors
    except Exception as error:  # a broken file raises what its format's library likes
        raise ValueError(f"vision.pretrained={source!r}: cannot read {path}: {error}") from error


def _download(name: str) -> Path:
    try:
        return Path(hf_hub_download(name if "/" in name else f"timm/{name}", _WEIGHT_FILES[0]))
    except Exception as error:  # the hub's client raises many kinds when there is no network or no such name
        raise FileNotFoundError(
            f"vision.pretrained={name!r}: no local file, no folder holding {' or '.join(_WEIGHT_FILES)}, and not to be "
            f"had from the Hugging Face hub ({type(error).__name__}). Without a network, copy its model.safetensors "
            f"here and set vision.pretrained=/path/to/model.safetensors"
        ) from error
