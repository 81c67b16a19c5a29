"""Language backbones: groups of layers give what the Hugging Face model gives in one go."""

from dataclasses import replace

import huggingface_hub
import pytest
import torch
from conftest import tiny_config
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

import magnet
from magnet import runs
from magnet.config import LanguageConfig
from magnet.models.language import LanguageBackbone

OPTIONS = {"hidden_size": 16, "num_hidden_layers": 6, "num_attention_heads": 4, "max_position_embeddings": 40}
FAMILIES = {
    "bert": LanguageConfig(name="bert", options={**OPTIONS, "intermediate_size": 32}),
    "roberta": LanguageConfig(name="roberta", options={**OPTIONS, "intermediate_size": 32}),
    "distilbert": LanguageConfig(name="distilbert", options={**OPTIONS, "hidden_dim": 32}),
}


def build(config: LanguageConfig, vocab_size: int = 50) -> LanguageBackbone:
    torch.manual_seed(0)
    return LanguageBackbone(config, vocab_size).eval()


def sentences(pad: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Three sentences of 9, 6 and 3 tokens."""
    token_ids = torch.randint(5, 50, (3, 9), generator=torch.Generator().manual_seed(1))
    token_mask = (torch.arange(9) < torch.tensor([9, 6, 3])[:, None]).long()
    return token_ids.where(token_mask.bool(), torch.tensor(pad)), token_mask


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_groups_equal_the_model_itself(name):
    backbone = build(FAMILIES[name])
    token_ids, token_mask = sentences(pad=backbone.encoder.config.pad_token_id)
    expected = backbone.encoder(token_ids, attention_mask=token_mask).last_hidden_state
    torch.testing.assert_close(backbone(token_ids, token_mask), expected)
    words = backbone.embed(token_ids)
    for index in range(4):
        words = backbone.group(index, words, token_mask)
    torch.testing.assert_close(words, expected)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_padding_does_not_reach_the_words(name):
    """Neither its length nor its id: everything here pads with 0, which is RoBERTa's sentence start."""
    backbone = build(FAMILIES[name])
    token_ids, token_mask = sentences(pad=0)
    padded = backbone(token_ids, token_mask)
    for row, length in enumerate((9, 6, 3)):
        alone = backbone(token_ids[row : row + 1, :length], token_mask[row : row + 1, :length])
        torch.testing.assert_close(padded[row, :length], alone[0])


@torch.no_grad()
def test_changed_words_enter_the_next_group():
    backbone = build(FAMILIES["bert"])
    token_ids, token_mask = sentences()
    words = backbone.group(0, backbone.embed(token_ids), token_mask)
    plain, changed = (backbone.group(1, w, token_mask) for w in (words, words + torch.randn_like(words)))
    assert (plain - changed).abs().max() > 0.1


@pytest.mark.parametrize("num_layers, sizes", [(12, [3, 3, 3, 3]), (6, [2, 2, 1, 1]), (2, [1, 1, 0, 0])])
def test_group_sizes(num_layers, sizes):
    config = replace(FAMILIES["bert"], options={**FAMILIES["bert"].options, "num_hidden_layers": num_layers})
    assert build(config).group_sizes == sizes


def test_every_weight_is_used():
    """No pooler and nothing else idle, so that training on several processes finds a gradient everywhere."""
    for config in FAMILIES.values():
        backbone = build(config)
        backbone(*sentences()).square().sum().backward()
        assert all(p.grad is not None for p in backbone.parameters())


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_local_folder_is_loaded(name, tmp_path):
    original = build(FAMILIES[name])
    AutoModel.from_config(original.encoder.config).save_pretrained(tmp_path)  # with a pooler, as published
    loaded = build(LanguageConfig(name=name, pretrained=str(tmp_path)))
    stored = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, stored[key]) for key, tensor in loaded.encoder.state_dict().items())
    assert loaded.width == 16


def test_problems_name_the_remedy(tmp_path, monkeypatch):
    bert = FAMILIES["bert"]
    build(bert).encoder.save_pretrained(tmp_path)
    pretrained = replace(bert, pretrained=str(tmp_path), options={})
    with pytest.raises(ValueError, match=r"knows 50 word pieces, but .* has 51"):
        build(pretrained, vocab_size=51)
    with pytest.raises(ValueError, match=r"holds a 'bert', but .*'roberta'"):
        build(replace(pretrained, name="roberta"))
    state = load_file(tmp_path / "model.safetensors")
    lost = state.pop("encoder.layer.0.output.dense.weight")
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"encoder\.layer\.0\.output\.dense\.weight"):
        build(pretrained)
    state["encoder.layer.0.output.dense.weight"] = lost[:1]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"encoder\.layer\.0\.output\.dense\.weight"):
        build(pretrained)
    (tmp_path / "model.safetensors").write_bytes(b"\x10")
    with pytest.raises(ValueError, match="cannot be read"):
        build(pretrained)
    with pytest.raises(FileNotFoundError, match=r"language\.pretrained=/path/to/folder"):
        build(replace(bert, pretrained="/nowhere"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="'bert-none-such'"):
        build(replace(bert, pretrained="bert-none-such"))


def test_a_run_needs_its_pretrained_encoder_no_more(tmp_path, monkeypatch):
    """Its sizes are kept beside the weights."""
    monkeypatch.setattr(runs, "ROOT", tmp_path / "runs")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    AutoModel.from_config(AutoConfig.for_model("bert", vocab_size=400, **sizes)).save_pretrained(tmp_path / "bert")
    config = tiny_config(num_steps=1, val_every=1)
    language = replace(config.model.language, pretrained=str(tmp_path / "bert"), options={})
    run = magnet.fit(replace(config, model=replace(config.model, language=language)), progress=False)
    (tmp_path / "bert").rename(tmp_path / "elsewhere")
    assert run.load_model().language.width == 16
    run.weights.unlink()
    with pytest.raises(FileNotFoundError, match="does not exist yet; train it with: magnet train lavt_tiny"):
        magnet.fit(tiny_config(num_steps=2), init=run, progress=False)


def test_misspelt_settings_are_refused():
    with pytest.raises(ValueError, match=r"\['num_layers'\] are no settings of 'bert'.*num_hidden_layers"):
        build(LanguageConfig(options={"num_layers": 2}))
    with pytest.raises(ValueError, match="'brt' is no model type"):
        build(LanguageConfig(name="brt"))
