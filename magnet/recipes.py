"""Whole configurations, ready to run: `magnet.recipe("lavt_tiny", seed=1)`; `dataclasses.replace` makes a variant."""

import dataclasses

from magnet.config import (
    AlignmentConfig,
    Config,
    CoupAlignConfig,
    DataConfig,
    GroundingConfig,
    LanguageConfig,
    ModelConfig,
    OptimConfig,
    VisionConfig,
)


def recipe(name: str, seed: int = 0) -> Config:
    """The configuration of that name. Raises ValueError that lists the recipes."""
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    return dataclasses.replace(RECIPES[name](), seed=seed)


def lavt_tiny() -> Config:
    """LAVT for a laptop: 96 px RefShapes, scenes without end, plain attributes first.

    magnet train lavt_tiny
    """
    vision = VisionConfig(
        name="resnet10t",
        options={"layers": (1, 2, 2, 1), "channels": (32, 64, 128, 256), "stem_width": 16, "out_indices": (1, 2, 3, 4)},
        drop_path=0.0,
    )
    language = LanguageConfig(
        vocabulary="refshapes",
        options={
            "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512,
            "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        },
    )  # fmt: skip
    return Config(
        recipe="lavt_tiny",
        model=ModelConfig(method="lavt", vision=vision, language=language, decoder_width=32),
        data=DataConfig(image_size=96, fresh=True, easy_first=100_000, num_workers=0),  # LOG.md: 1 is slower
        optim=OptimConfig(
            lr=2e-3, betas=(0.9, 0.98), schedule="cosine", warmup_steps=50, batch_size=32, num_steps=3200,
            clip_norm=1.0, val_every=800, val_expressions=500,
        ),
        losses={"cross_entropy": 1.0, "dice": 2.0},
    )  # fmt: skip


def lavt_base() -> Config:
    """LAVT at full size, the public recipe: Swin-B, BERT-base, 480 px, 40 epochs of 32. Time and memory: not measured.

    magnet train lavt_base --data.root DATA --data.name refcoco --data.split-by unc

    On one GPU of 24 GB: --optim.micro-batch 8 --model.gradient-checkpointing (not measured). First --dry-run.
    """
    return Config(
        recipe="lavt_base",
        model=ModelConfig(
            vision=VisionConfig(pretrained="swin_base_patch4_window12_384.ms_in22k"),
            language=LanguageConfig(pretrained="bert-base-uncased"),
        ),
        data=DataConfig(name="refcoco", split_by="unc", num_workers=8),
        optim=OptimConfig(),
    )


def magnet_tiny() -> Config:
    """MagNet for a laptop: 96 px RefShapes, scenes without end, what needs one object alone first.

    Three stages, of 12, 6 and 6 rows: words meet no finer map, and masks get their outline from a detail branch.
    Decoders are narrow and the pyramid is small, as each part costs; the vision backbone has learnt to name objects
    before, as the paper's has learnt ImageNet. Every difference from magnet_base stands in docs/fidelity.md.

    magnet train magnet_tiny
    """
    config = lavt_tiny()
    maps = {"channels": (48, 96, 128, 128), "stem_width": 32, "out_indices": (2, 3, 4), "output_stride": 16}
    vision = dataclasses.replace(
        config.model.vision, pretrained="refshapes", options=config.model.vision.options | maps
    )
    language = dataclasses.replace(
        config.model.language, options=config.model.language.options | {"num_hidden_layers": 3}
    )
    model = dataclasses.replace(
        config.model, method="magnet", vision=vision, language=language, fusion="cam", pixel_positions=True,
        pyramid=(1, 3), decoder_width=32, num_heads=2, num_points=1, pixel_decoder_layers=1,
        pixel_decoder_feedforward=64, decoder_layers=3, decoder_feedforward=128, mask_detail=8,
    )  # fmt: skip
    # at the rate that the rest needs, the language encoder's layers would make all words alike; its embeddings bear it
    rates = {"embeddings": 1.0, "^language": 0.1, "^vision": 0.1}
    frozen = (r"^vision\.body\.(conv1|bn1|layer1)",)  # what comes before the first words is as good as it gets
    optim = dataclasses.replace(
        config.optim, rates=rates, frozen=frozen, batch_size=16, num_processes=2, num_steps=1150, val_every=230
    )
    data = dataclasses.replace(
        config.data, sentences_per_image=6, easy_first=60_000, easy_kinds=("attribute", "location")
    )
    return dataclasses.replace(
        config, recipe="magnet_tiny", model=model, optim=optim, data=data, loss_size="logits",
        losses={"mask_bce": 5.0, "mask_dice": 5.0},
    )  # fmt: skip


def refshapes_tiny() -> Config:
    """The shipped weights of that name: magnet_tiny, trained longer. About an hour and a half on two cores.

    magnet train refshapes_tiny
    """
    config = magnet_tiny()
    steps = 1_200_000 // (config.optim.batch_size * config.data.sentences_per_image)
    optim = dataclasses.replace(config.optim, num_steps=steps, val_every=steps // 10)
    return dataclasses.replace(config, recipe="refshapes_tiny", optim=optim)


def refshapes_tiny_lavt() -> Config:
    """Shipped for comparison: LAVT on refshapes_tiny's backbone, with its scenes, sentences, steps and rates.

    What belongs to the method differs: four stages, the finest of 24 rows, LAVT's decoder and losses. About an hour and
    a half on two cores.

    magnet train refshapes_tiny_lavt
    """
    config = refshapes_tiny()
    vision = dataclasses.replace(
        config.model.vision, options=config.model.vision.options | {"out_indices": (1, 2, 3, 4)}
    )
    lavt = lavt_tiny()
    model = dataclasses.replace(lavt.model, vision=vision, language=config.model.language, pixel_positions=True)
    return dataclasses.replace(
        config, recipe="refshapes_tiny_lavt", model=model, losses=lavt.losses, loss_size="masks"
    )  # fmt: skip


def coupalign_tiny() -> Config:
    """CoupAlign (details ours) for a laptop: refshapes_tiny_lavt's backbone, scenes, rates and losses, magnet_tiny's
    number of steps; few proposals and a narrow mask generator.

    magnet train coupalign_tiny
    """
    config = refshapes_tiny_lavt()
    own = CoupAlignConfig(
        num_word_heads=2, num_proposals=16, width=32, num_layers=2, num_heads=2, feedforward=128, soft_proposals=True
    )  # fmt: skip
    model = dataclasses.replace(config.model, method="coupalign", coupalign=own)
    return dataclasses.replace(
        config, recipe="coupalign_tiny", model=model, optim=magnet_tiny().optim,
        losses={**config.losses, "pixel_contrast": 0.1},
    )  # fmt: skip


def coupalign_base() -> Config:
    """CoupAlign (details ours) at full size with LAVT's public recipe: Swin-B, BERT-base, 480 px, 40 epochs of 32. Time
    and memory: not measured.

    magnet train coupalign_base --data.root DATA --data.name refcoco --data.split-by unc

    On one GPU of 24 GB: --optim.micro-batch 4 --model.gradient-checkpointing (not measured). First --dry-run.
    """
    config = lavt_base()
    model = dataclasses.replace(config.model, method="coupalign", coupalign=CoupAlignConfig(soft_proposals=True))
    return dataclasses.replace(
        config, recipe="coupalign_base", model=model, losses={"cross_entropy": 1.0, "pixel_contrast": 0.1}
    )


def magnet_base() -> Config:
    """MagNet at full size with LAVT's public recipe: Swin-B, BERT-base, 480 px, 40 epochs of 32, with Mask Grounding
    and the alignment losses. 17 images a second and 80 GB on one H100 with micro-batches of 16, so 28 hours for
    RefCOCO's 42,404 objects (the speed is measured on random pictures, results/tables/gpu.csv; the hours are not).

    magnet train magnet_base --data.root DATA --data.name refcoco --data.split-by unc --optim.micro-batch 16

    On one GPU of 24 GB: --optim.micro-batch 4 --model.gradient-checkpointing (27 GB at 8, 50 at 16; at 4 not measured).
    First --dry-run.
    """
    config = lavt_base()
    model = dataclasses.replace(config.model, method="magnet", fusion="cam")
    return dataclasses.replace(
        config, recipe="magnet_base", model=model, losses={"mask_bce": 5.0, "mask_dice": 5.0},
        grounding=GroundingConfig(), alignment=AlignmentConfig(),
    )  # fmt: skip


def magnet_base_union() -> Config:
    """magnet_base on the training sets of RefCOCO, RefCOCO+ and RefCOCOg together, without any picture that another of
    their splits shows; 448 px, as the paper's mixed model. Time and memory: not measured, magnet_base's are near.

    magnet train magnet_base_union --data.root DATA --optim.micro-batch 16

    On one GPU of 24 GB: --optim.micro-batch 4 --model.gradient-checkpointing (not measured). First --dry-run.
    """
    config = magnet_base()
    data = dataclasses.replace(config.data, name="union", split_by="umd", image_size=448)
    return dataclasses.replace(config, recipe="magnet_base_union", data=data)


RECIPES = {function.__name__: function for function in (
    lavt_tiny, lavt_base, magnet_tiny, magnet_base, magnet_base_union, coupalign_tiny, coupalign_base, refshapes_tiny,
    refshapes_tiny_lavt,
)}  # fmt: skip
