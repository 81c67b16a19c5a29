"""What a training step minimises: the network with its losses and its training-only parts, as one module.

One forward call holds all of it, so that several processes exchange gradients once per step. The network is
`objective.model`, as it was without the rest; only its weights leave the training.
"""

import torch
from torch import Tensor, nn

from magnet import losses
from magnet.config import Config
from magnet.data import load_tokenizer
from magnet.evaluate import evaluation_mode
from magnet.losses.alignment import Alignment
from magnet.losses.grounding import MaskGrounding
from magnet.models import build_model
from magnet.models.base import reads_what_it_looked_at
from magnet.models.decoders import resize


class Objective(nn.Module):
    """`weights` holds the weight of every term, by name, in the order of the terms that `forward` gives."""

    def __init__(self, config: Config):
        super().__init__()
        self.loss_size = config.loss_size
        self.losses, self.weights = config.losses, dict(config.losses)
        losses.check_arguments(config.losses, config.loss_arguments)
        self.loss_arguments = config.loss_arguments
        if (config.model.no_target == "head") != ("no_target" in config.losses):
            raise ValueError(
                f"model.no_target={config.model.no_target!r} with losses={config.losses}: the head and the loss "
                "`no_target` go together"
            )
        self.model = build_model(config.model)  # first: its random weights do not depend on the parts below
        self.model.to(memory_format=torch.channels_last)  # the layout convolutions are quickest in
        self.grounding = self.alignment = None
        if config.grounding:
            if config.data.words == "none":
                raise ValueError(
                    "data.words='none' leaves grounding no word to hide; set grounding=None, --no-grounding"
                )
            tokenizer = load_tokenizer(config.model.language.vocabulary)
            self.grounding = MaskGrounding(config.grounding, self.model, tokenizer)
            self.weights["grounding"] = config.grounding.weight
        if config.alignment:
            self.alignment = Alignment(config.alignment, self.model.language.width, _feature_width(self.model))
            terms = {name: getattr(config.alignment, name) for name in ("pixel_pixel", "pixel_text")}
            self.weights |= {name: weight for name, weight in terms.items() if weight}

    def forward(self, batch: dict) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """A batch of `magnet.data.collate` -> raw terms and statistics, scalars by name."""
        images, token_ids, token_mask = batch["images"], batch["token_ids"], batch["token_mask"]
        hidden, statistics = None, {}
        if self.grounding and self.grounding.config.passes == 1:
            hidden = self.grounding.hide_words(batch)
        outputs = self.model(images, token_ids if hidden is None else hidden[0], token_mask)
        truth = self._truth(batch, outputs["mask_logits"].shape[-2:])
        terms = losses.compute(self.losses, outputs, truth, self.loss_arguments)
        if self.grounding:
            features = None if hidden is None else outputs
            looked = outputs.get("seen") if reads_what_it_looked_at(self.model) else None
            terms["grounding"], statistics = self.grounding(self.model, batch, hidden, features, looked)
        if self.alignment:
            terms |= self.alignment(outputs, batch)
            statistics |= self.alignment.statistics(outputs, batch)
        return terms, statistics

    def _truth(self, batch: dict, size: tuple[int, int]) -> dict:
        """The batch with its masks where losses compare them; they shrink as logits elsewhere grow, corners aligned."""
        if self.loss_size == "masks":
            return batch
        return {**batch, "masks": resize(batch["masks"][:, None], size)[:, 0]}


@torch.no_grad()
def _feature_width(model: nn.Module) -> int:
    """Channels of mask_features, by asking the network: any method, no attribute to keep in step."""
    one_token = torch.ones(1, 1, dtype=torch.long)
    with evaluation_mode(model):
        return model(torch.zeros(1, 3, 64, 64), one_token, one_token)["mask_features"].shape[1]
