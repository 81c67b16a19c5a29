"""How far our outputs are from those stored of the released networks, and how far they depend on batch and padding.

MAGNET_REFERENCE=FOLDER python benchmarks/released.py --output results/tables/released.csv      (about a minute)

Weights and pictures are rebuilt from the public recipe in tests/reference. All rows are the largest absolute difference
of a logit; the logits of MagNet reach 23.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch
from measured import parser, report

import magnet

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from reference.recipe import make_inputs, make_weights, read_shapes, reference_folder
from reference.test_lavt import make_checkpoint

SIZES = ((224, 224), (160, 192))


def stored(name: str, size: tuple[int, int], ending: str = "") -> dict:
    return np.load(reference_folder() / f"{name}_released_swin-tiny_{size[0]}x{size[1]}{ending}.npz")


def lavt_differences(model: torch.nn.Module) -> float:
    found = ((model(*make_inputs(2, *size))["class_logits"], stored("lavt", size)["logits"]) for size in SIZES)
    return max(np.abs(ours.numpy() - theirs).max() for ours, theirs in found)


def magnet_differences(model: torch.nn.Module) -> float:
    largest = 0.0
    for size in SIZES:
        outputs, theirs = model(*make_inputs(2, *size)), stored("magnet", size, "_salt11")
        pairs = ((outputs["mask_logits"], "pred_masks"), (outputs["aux_mask_logits"][0], "first_aux"))
        largest = max(largest, *(np.abs(ours.numpy() - theirs[name][:, 0]).max() for ours, name in pairs))
    return largest


def alone_differences(model: torch.nn.Module, unpadded: bool) -> float:
    """Of each picture alone, with or without the padding of its sentence, from the same in a batch."""
    images, token_ids, token_mask = make_inputs(2, 160, 192)
    together, largest = model(images, token_ids, token_mask)["mask_logits"], 0.0
    for row in (slice(0, 1), slice(1, 2)):
        length = int(token_mask[row].sum()) if unpadded else token_ids.shape[1]
        alone = model(images[row], token_ids[row, :length], token_mask[row, :length])["mask_logits"]
        largest = max(largest, (alone - together[row]).abs().max().item())
    return largest


@torch.no_grad()
def main() -> None:
    options = parser(__doc__).parse_args()
    lavt = magnet.load_released(make_checkpoint(read_shapes("lavt_released_swin-tiny")))
    released = magnet.load_released(make_weights(read_shapes("magnet_released_swin-tiny"), salt=11))
    live = magnet.build_model(dataclasses.replace(released.config, text_side="live")).eval()
    live.load_state_dict(released.state_dict())
    rows = [
        ("LAVT, both stored sizes", lavt_differences(lavt)),
        ("MagNet, both stored sizes, first and last prediction", magnet_differences(released)),
        ("MagNet, batch of one", alone_differences(released, unpadded=False)),
        ("LAVT, sentence without padding", alone_differences(lavt, unpadded=True)),
        ("MagNet with words that read pixels, sentence without padding", alone_differences(live, unpadded=True)),
    ]
    report([(what, value, "of a logit") for what, value in rows], options.output)


if __name__ == "__main__":
    main()
