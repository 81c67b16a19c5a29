"""Every setting of a run, as frozen keyword-only dataclasses; `recipes.py` fills them in.

What is trained is hashed into the run folder's name; fields marked `UNHASHED`, which say where files lie, what is
logged and how work is split, are not. Numbers may depend on the last all the same: BatchNorm sees how a batch is split.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

UNHASHED = {"unhashed": True}  # field metadata: paths, logging, how work is split: free to change between calls


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """A staged vision backbone from timm."""

    name: str = "swin_base_patch4_window12_384"  # any timm model with stages
    pretrained: str | None = None  # a hub name, a local file or folder, "refshapes", or None: random weights
    pretraining_steps: int = 600  # with "refshapes": so long `fit` first lets it learn to name RefShapes' objects
    options: dict[str, Any] = field(default_factory=dict)  # timm.create_model's own: embed_dim, depths, window_size...
    drop_path: float = 0.3  # stochastic depth, rising from 0 over the blocks


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """A language backbone from transformers, with the vocabulary it reads."""

    name: str = "bert"  # transformers' model type: bert, roberta, distilbert...
    vocabulary: str = "bert-base-uncased"  # "refshapes" (shipped), a file, a folder, or a hub name
    pretrained: str | None = None  # a hub name or a local folder, or None: random weights
    options: dict[str, Any] = field(default_factory=dict)  # transformers' config: hidden_size, num_hidden_layers...


@dataclass(frozen=True, kw_only=True)
class CoupAlignConfig:
    """What CoupAlign has beside LAVT's parts; the paper names the ideas, sizes are our choice."""

    # who reads whom in the encoders: words and pixels each other at every stage; only pixels words; only the pixels of
    # the last stage words; nobody, so that the sentence does nothing but weigh proposals
    word_pixel: Literal["both", "pixels", "last", "none"] = "both"
    num_word_heads: int = 12  # of words that read pixels
    num_proposals: int = 100  # learned queries, each of which draws a mask
    width: int = 256  # of queries and pixel embedding
    num_layers: int = 6  # of the mask generator
    num_heads: int = 8
    feedforward: int = 2048
    # of proposals; "sum": sigmoid, added up to one map; "none": all weigh 1
    weighting: Literal["sigmoid", "softmax", "sum", "none"] = "sigmoid"
    soft_proposals: bool = False  # each a mask from 0 to 1 before it is weighed: then N are more than one filter


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One referring segmentation network."""

    method: Literal["lavt", "magnet", "coupalign"] = "lavt"
    vision: VisionConfig = VisionConfig()
    language: LanguageConfig = LanguageConfig()
    coupalign: CoupAlignConfig = CoupAlignConfig()
    decoder_norm: Literal["batch", "group"] = "batch"  # LAVT's decoder; "group" does not depend on the batch
    decoder_width: int | None = None  # None: as published, half the last stage's channels in LAVT, 256 in MagNet
    gate_init: Literal["normal", "zero"] = "normal"  # the image side's gates: normal(0.02) is what LAVT's code does
    fusion: Literal["pwam", "pwam_matched", "cam"] = "pwam"  # MagNet; "pwam_matched" has as many parameters as "cam"
    pixel_positions: bool = False  # add sine positions to the pixels where they meet words; not in the papers
    text_side: Literal["live", "released"] = "live"  # CAM: words read pixels, or what the released network computes
    pyramid: tuple[int, ...] = (1, 2, 3, 6)  # CAM: rows and columns of the pooled maps
    pixel_decoder_layers: int = 4  # MagNet, as its decoders' other sizes below
    pixel_decoder_feedforward: int = 1024
    num_points: int = 4  # positions that a head of the pixel decoder reads at each scale
    decoder_layers: int = 9
    decoder_feedforward: int = 2048
    num_heads: int = 8  # of both decoders
    mask_detail: int = 0  # MagNet: channels of features that make masks twice as fine; 0: as published
    pad_then_roll: bool = True  # Swin as released; False: timm's own order
    no_target: Literal["none", "area", "head"] = "none"  # how a network says that nothing is meant, see no_target.py
    gradient_checkpointing: bool = False  # stages and MagNet's pixel decoder layers are computed twice to save memory


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which expressions are read, and how they become a batch."""

    root: str | None = field(default=None, metadata=UNHASHED)  # None: $MAGNET_DATA or data/
    name: str = "refshapes"
    split_by: str = "v1"
    train_split: str = "train"
    val_split: str = "val"
    image_size: int = 480  # pixels; pictures are squashed to a square
    num_tokens: int = 20  # specials included
    sentences: Literal["one", "all"] = "one"  # "one": a random sentence per object per epoch; "all": every expression
    words: Literal["sentence", "bag", "none"] = "sentence"  # "bag": sorted word pieces; "none": blind to the text
    polygon_overlap: Literal["hole", "union"] = "hole"  # "hole" is what the REFER tool does
    fresh: bool = False  # RefShapes only: draw new training scenes without end instead of reading the train split
    sentences_per_image: int = 1  # fresh scenes: so many of a scene's sentences come together
    easy_first: int = 0  # fresh scenes: over so many items the easy kinds of sentences fall from all to their own share
    easy_kinds: tuple[str, ...] = ("attribute",)  # RefShapes' own names
    no_target_share: float = 0.0  # fresh scenes: so many are spoken of by sentences that mean nothing in them
    multi_target_share: float = 0.0  # fresh scenes: so many by sentences that mean several objects
    num_workers: int = field(default=1, metadata=UNHASHED)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, its schedule and what a step is made of."""

    lr: float = 5e-5
    rates: dict[str, float] = field(default_factory=dict)  # pattern -> times lr; the longest that matches counts
    weight_decay: float = 1e-2  # none for norms, biases, embeddings of position
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["polynomial", "cosine"] = "polynomial"
    warmup_steps: int = 0
    batch_size: int = 32  # images per optimiser step, over all processes and accumulation
    micro_batch: int | None = field(
        default=None, metadata=UNHASHED
    )  # images per forward pass; None: all. BatchNorm sees it
    num_processes: int = field(default=1, metadata=UNHASHED)  # on a CPU: so many share each step; BatchNorm sees it
    num_epochs: float = 40.0
    num_steps: int | None = None  # overrides num_epochs
    clip_norm: float | None = None
    frozen: tuple[str, ...] = ()  # regular expressions of parameter names that are not optimised
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # "auto": bfloat16 where the hardware has it
    compile: bool = False  # torch.compile the step: minutes at first; where it fails training goes on without
    val_every: int | None = None  # steps between validations; None: num_epochs times, evenly spread
    val_expressions: int | None = None  # validate on this many, evenly spread; None: all


@dataclass(frozen=True, kw_only=True)
class GroundingConfig:
    """Mask Grounding, training only: predict hidden words from the sentence's rest, the image and the true mask."""

    weight: float = 1.0
    ratio: float = 0.15  # chance of a token to be hidden
    at_least_one: bool = False  # hide one of a sentence where chance would hide none
    whole_words: bool = False  # all pieces of a word together
    replacement: Literal["mask90", "bert"] = "mask90"  # 0.9 [MASK], rest kept; "bert": 0.8 [MASK], 0.1 random, 0.1 kept
    passes: Literal[1, 2] = 2  # 2: the mask is predicted from the clean sentence; 1: cheaper, from the hidden one
    mask_encoder: Literal["centre", "box", "pooled"] = "centre"  # "box": centre, size and area; "pooled": mean pixel
    context: Literal["text", "image", "mask"] = "mask"  # what is seen beside the words: nothing, image, image and mask
    shuffled_masks: bool = False  # a control: the predictor gets the true mask of the batch's previous sentence
    pixel_positions: bool = True  # tell the predictor where a pixel is, in the coordinates of the mask's centre
    num_layers: int = 2  # of the predictor: with two, the mask can find its pixels before the words read it
    num_heads: int = 8
    dropout: float = 0.0  # the language encoder has its own


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """Alignment losses, training only: contrast the object's pixels with the others and with the sentence."""

    pixel_pixel: float = 0.1  # weight; 0 leaves the term out
    pixel_text: float = 0.1
    pixel_temperature: float = 0.1
    text_temperature: float = 0.1
    num_samples: int = 256  # at most so many pixels of the object, and as many others, of each image
    sentence: Literal["mean", "first"] = "mean"  # the sentence's feature: mean of its tokens, or the first, [CLS]


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run."""

    recipe: str
    seed: int = 0
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    loss_size: Literal["masks", "logits"] = "masks"  # where losses compare them: "logits" is coarser and cheaper
    losses: dict[str, float] = field(default_factory=lambda: {"cross_entropy": 1.0})  # term -> weight; see losses/
    loss_arguments: dict[str, dict[str, Any]] = field(default_factory=dict)  # {"pixel_contrast": {"temperature": 0.2}}
    grounding: GroundingConfig | None = None
    alignment: AlignmentConfig | None = None
    log_every: int = field(default=10, metadata=UNHASHED)
    checkpoint_every: int = field(default=200, metadata=UNHASHED)  # steps between resumable checkpoints
    tensorboard: bool = field(default=False, metadata=UNHASHED)
