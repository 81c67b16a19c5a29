"""How well proposals cover an object: hand-made masks, and a network's own."""

import pytest
import torch
from test_coupalign import SMALL, build
from test_lavt import TINY, make_inputs
from test_lavt import build as build_lavt

from magnet.workbench.proposals import proposal_coverage, proposal_iou


class Fixed(torch.nn.Module):
    """Gives the proposals that the images name."""

    def forward(self, images, token_ids, token_mask):
        return {"proposal_logits": images}


def hand_made() -> dict:
    """Three proposals on a grid of 4x4 for four sentences; the object is the upper left quarter, the last has none."""
    logits = torch.full((4, 3, 4, 4), -1.0)
    logits[0, 0, :2, :2] = 1.0  # the object itself
    logits[1, 1, :2, :] = 1.0  # twice as much: 1/2
    logits[2, 2, :, :] = 1.0  # everything: 1/4
    masks = torch.zeros(4, 4, 4)
    masks[:3, :2, :2] = 1.0
    return {"images": logits, "masks": masks, "token_ids": None, "token_mask": None}


def test_iou_of_every_proposal_by_hand():
    batch = hand_made()
    expected = [[1, 0, 0], [0, 0.5, 0], [0, 0, 0.25], [0, 0, 0]]
    assert proposal_iou(batch["images"], batch["masks"]).tolist() == expected


def test_coverage_counts_objects_only_and_over_all_batches():
    batch = hand_made()
    assert proposal_coverage(Fixed(), [batch]) == pytest.approx(
        {"best_iou": 1.75 / 3, "share_found": 2 / 3, "num_objects": 3}
    )
    parts = [{name: None if v is None else v[rows] for name, v in batch.items()} for rows in ([0, 3], [1], [3], [2])]
    assert proposal_coverage(Fixed(), parts) == pytest.approx(proposal_coverage(Fixed(), [batch]))
    assert proposal_coverage(Fixed(), [batch], at=0.2)["share_found"] == 1


def test_proposals_are_compared_at_the_masks_size():
    """An edge half way between two of the coarse grid's positions falls in the middle of the finer one."""
    logits = torch.tensor([1.0, 1.0, -1.0, -1.0]).expand(1, 1, 4, 4)
    masks = torch.zeros(1, 10, 10)
    masks[:, :, :5] = 1
    assert proposal_iou(logits, masks).item() == 1


def test_a_network_keeps_its_mode_and_reports_shares():
    model = build().train()
    images, token_ids, token_mask = make_inputs()
    batch = {"images": images, "token_ids": token_ids, "token_mask": token_mask, "masks": torch.ones(2, 75, 101)}
    found = proposal_coverage(model, [batch, batch])
    assert model.training and found["num_objects"] == 4 and 0 <= found["best_iou"] <= 1
    assert proposal_coverage(model, [batch]) == pytest.approx({**found, "num_objects": 2}), SMALL.coupalign


def test_nothing_to_cover_and_no_proposals_are_refused():
    batch = hand_made()
    for batches in ([], [{**batch, "masks": torch.zeros(4, 4, 4)}]):
        with pytest.raises(ValueError, match="none of the sentences means an object"):
            proposal_coverage(Fixed(), batches)
    images, token_ids, token_mask = make_inputs()
    batch = {"images": images, "token_ids": token_ids, "token_mask": token_mask, "masks": torch.ones(2, 75, 101)}
    with pytest.raises(ValueError, match="LAVT makes no proposals"):
        proposal_coverage(build_lavt(TINY), [batch])
