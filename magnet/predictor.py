"""One picture, any number of sentences.

predictor = magnet.load("refshapes-tiny")               # shipped weights, or a run by folder, name or recipe
predictor.set_image("picture.png")
mask, score = predictor.predict("the red star left of the ring")
"""

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from magnet import runs
from magnet.config import DataConfig, ModelConfig
from magnet.data import encode, load_tokenizer, normalize, report, squash_image
from magnet.data.dataset import to_rgb
from magnet.evaluate import asker, best_device, evaluation_mode, resize_logits
from magnet.models.checkpoints import data_of, is_checkpoint
from magnet.models.released import load_released

ORIENTATION = 0x0112  # the EXIF tag


def load(name: str | Path) -> "Predictor":
    """A predictor with shipped weights, with those of a run (its folder, its name or its recipe's newest), or with
    released ones: a .pth file or its name on the hub.

    Raises FileNotFoundError listing what there is.
    """
    if is_checkpoint(name):
        return Predictor(load_released(name).to(best_device()), data_of(name), ModelConfig().language.vocabulary)
    run = runs.find(name)
    return Predictor(run.load_model().to(best_device()), run.config.data, run.config.model.language.vocabulary)


class Predictor:
    """A model with the way it wants pictures and words prepared.

    model: any network of this package. data: its image size and token rule. vocabulary: as `load_tokenizer` takes it.
    """

    def __init__(self, model: torch.nn.Module, data: DataConfig, vocabulary: str):
        self.model, self.data, self.tokenizer = model, data, load_tokenizer(vocabulary)
        self.device = next(model.parameters(), torch.empty(0)).device
        self.image: torch.Tensor | None = None  # (1, 3, S, S): words enter early, so no later feature can be kept
        self.size = (0, 0)  # height, width of the picture

    def set_image(self, image: Image.Image | np.ndarray | str | Path) -> None:
        """Prepare a picture, anything that `read_picture` takes; its own size is that of the upright picture.

        Raises FileNotFoundError, or ValueError for what is no picture.
        """
        self.image = None  # whatever happens, the picture before is not answered about again
        picture = read_picture(image)
        self.size = (picture.height, picture.width)
        self.image = normalize(squash_image(picture, self.data.image_size))[None].to(self.device)

    @torch.no_grad()
    def predict(self, text: str, return_logits: bool = False) -> tuple[np.ndarray, float]:
        """The mask of what the text names, bool (H,W) at the picture's own size, and a score from 0 to 1.

        The score is the mean foreground probability inside the mask, 0 for an empty mask (our choice): how sure the
        pixels are, not whether this is the right object. return_logits: logits float32 (H,W) in place of the mask.
        Warns where the text is cut or holds only unknown words. Raises ValueError for a text without a token,
        RuntimeError before `set_image`, FloatingPointError where logits are not finite.
        """
        if self.image is None:
            raise RuntimeError("no picture yet; call set_image first")
        self._check_text(text)
        logits = resize_logits(self.ask([text]), self.size)[0]  # (H, W)
        mask = logits > 0
        score = logits[mask].sigmoid().mean().item() if mask.any() else 0.0
        return (logits if return_logits else mask).cpu().numpy(), score

    @torch.no_grad()
    def ask(self, texts: Sequence[str]) -> torch.Tensor:
        """Mask logits (B,h,w) of B texts about the picture, read together, as small as the network gives them.

        Texts are taken as they are, an empty one too. Raises RuntimeError and FloatingPointError as `predict` does.
        """
        if self.image is None:
            raise RuntimeError("no picture yet; call set_image first")
        tokens = encode(self.tokenizer, texts, self.data.num_tokens, self.data.words)
        with evaluation_mode(self.model):
            only = torch.zeros(len(texts), dtype=torch.long, device=self.device)  # all are about the one picture
            logits = asker(self.model, self.image)(only, *(part.to(self.device) for part in tokens))
        for text, one in zip(texts, logits):
            if not one.isfinite().all():
                raise FloatingPointError(f"logits are NaN or infinite for {text!r}: the weights are damaged")
        return logits

    def _check_text(self, text: str) -> None:
        if not isinstance(text, str):
            raise ValueError(f"{text!r} is no text; give one phrase, a string")
        said = repr(textwrap.shorten(text, 80, placeholder=" …"))
        found = {what: rows["count"] for what, rows in report(self.tokenizer, [text], self.data.num_tokens).items()}
        if found["empty"]:
            raise ValueError(f"{said} holds no word; say what to look for")
        if found["only_unknown"]:
            warnings.warn(f"{said} holds only words this model has never seen: the mask is a guess", stacklevel=3)
        if found["cut"]:
            warnings.warn(f"{said} is cut: this model reads {self.data.num_tokens} tokens", stacklevel=3)


def read_picture(image: Image.Image | np.ndarray | str | Path) -> Image.Image:
    """An RGB picture from a PIL image, a uint8 array (H,W), (H,W,3) or (H,W,4), or a file.

    It is turned upright where a camera noted how it was held (EXIF); see `to_rgb` for other kinds than RGB.
    Raises FileNotFoundError, or ValueError naming what is no picture.
    """
    try:
        picture = _open(image)
        return to_rgb(ImageOps.exif_transpose(picture) if picture.getexif().get(ORIENTATION, 1) != 1 else picture)
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, TypeError, ValueError, AttributeError, Image.DecompressionBombError) as error:
        what = f"{_name(image)} is no picture ({error}); give an RGB file, a PIL image or a uint8 array"
        raise ValueError(what) from error


def _open(image: Image.Image | np.ndarray | str | Path) -> Image.Image:
    if isinstance(image, Image.Image):
        image.load()
        return image
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not image.size:
            raise TypeError("its values are no bytes, or it has none")
        return Image.fromarray(image)
    with Image.open(image) as picture:
        picture.load()
        return picture


def _name(image: object) -> str:
    if isinstance(image, np.ndarray):
        return f"an array {image.dtype} {image.shape}"
    file = image if isinstance(image, str | Path) else getattr(image, "filename", "")
    return str(file) or f"a {type(image).__name__}"
