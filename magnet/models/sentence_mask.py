"""CoupAlign's sentence-mask alignment: how well each proposal fits the whole sentence decides what it adds."""

import torch
from torch import Tensor, nn

WEIGHTINGS = ("sigmoid", "softmax", "sum", "none")


class SentenceMaskAlignment(nn.Module):
    """Proposals (B,N,h,w) with their embeddings (B,N,width) and a sentence (B,D) -> class logits (B,2,h,w), 1 is
    foreground, and weights (B,N) from 0 to 1.

    w_n = sigmoid(LN(q_n)·LN(g)/√width), g a linear map of the sentence; logits are a 1×1 convolution N -> 2 of the maps
    w_n·proposal_n. `weighting` "softmax": over the N, which shrinks the logits; "sum": w_n as before, but the maps are
    added up before the convolution, 1 -> 2; "none": w_n = 1, and the sentence is not read. `soft`: sigmoid(proposal_n)
    instead of proposal_n. The paper names the idea; the formula is our choice.
    """

    def __init__(self, width: int, word_width: int, num_proposals: int, weighting: str = "sigmoid", soft: bool = False):
        super().__init__()
        self.weighting, self.soft = weighting, soft
        if weighting != "none":
            self.sentence = nn.Linear(word_width, width)
            self.sentence_norm, self.proposal_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.classifier = nn.Conv2d(1 if weighting == "sum" else num_proposals, 2, kernel_size=1)

    def weights(self, embeddings: Tensor, sentence: Tensor) -> Tensor:
        """(B,N,width) and (B,D) -> (B,N)."""
        if self.weighting == "none":
            return embeddings.new_ones(embeddings.shape[:2])
        query = self.sentence_norm(self.sentence(sentence))
        fit = (self.proposal_norm(embeddings) @ query[:, :, None])[..., 0] / query.shape[-1] ** 0.5
        return fit.softmax(dim=1) if self.weighting == "softmax" else torch.sigmoid(fit)

    def forward(self, proposals: Tensor, embeddings: Tensor, sentence: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.weights(embeddings, sentence)
        weighted = weights[:, :, None, None] * (proposals.sigmoid() if self.soft else proposals)
        return self.classifier(weighted.sum(1, keepdim=True) if self.weighting == "sum" else weighted), weights
