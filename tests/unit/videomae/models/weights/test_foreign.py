"""Official and Hugging Face checkpoints against transformers itself, on random weights."""

import copy
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import videomae.core.torchvision_compat  # transformers imports torchvision
from finetune.export import ClassifierDescription, load_classifier, save_classifier
from finetune.models import build
from finetune.models.time_fusion import SingleFrameConfig
from finetune.models.videomae import VideomaeClassifier, VideomaeConfig
from launch.cli import main
from pretrain.autoencoder import DecoderConfig, MaskedAutoencoder
from pretrain.masking import MaskConfig, draw_mask
from pretrain.objective import hidden_targets, reconstruction_loss
from videomae.data.transforms.augment import IMAGENET_MEAN, IMAGENET_STD, normalize, uniform_crops
from videomae.models.encoder import EncoderConfig, VideoEncoder, patchify, sincos_table, take_tokens
from videomae.models.weights import WeightsError, load_encoder, save_encoder
from videomae.models.weights.convert import export_to_huggingface, import_encoder, read_official
from videomae.models.weights.files import load_strictly
from videomae.models.weights.huggingface import from_huggingface, to_huggingface
from videomae.models.weights.official import encoder_config, take_apart

assert videomae

ENCODER = EncoderConfig(frames=4, size=32, patch=8, dim=32, depth=2, heads=4)
DECODER = DecoderConfig(dim=16, depth=2, heads=2)


def their_config(**settings: object) -> Any:
    from transformers import VideoMAEConfig

    config: Any = VideoMAEConfig
    return config(
        image_size=32, patch_size=8, num_frames=4, tubelet_size=2, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=128, decoder_hidden_size=16, decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2, decoder_intermediate_size=64, layer_norm_eps=1e-6, num_labels=3, **settings,
    )  # fmt: skip


def randomise(module: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.2, generator=generator)


def official_eps(module: nn.Module) -> None:
    """The official decoder's and head's norms have 1e-6 as all others; transformers leaves torch's 1e-5 there."""
    for layer in module.modules():
        if isinstance(layer, nn.LayerNorm):
            layer.eps = 1e-6


@pytest.fixture
def their_autoencoder() -> nn.Module:
    from transformers import VideoMAEForPreTraining

    model = VideoMAEForPreTraining(their_config(use_mean_pooling=False)).eval()
    randomise(model)
    official_eps(model)
    return model


@pytest.fixture
def their_classifier() -> nn.Module:
    from transformers import VideoMAEForVideoClassification

    model = VideoMAEForVideoClassification(their_config(use_mean_pooling=True)).eval()
    randomise(model, 1)
    official_eps(model)
    return model


def in_v4(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As version 4 wrote it."""
    names = {"query.bias": "q_bias", "value.bias": "v_bias"}
    return {re.sub(r"(query|value)\.bias$", lambda match: names[match[0]], key): value for key, value in state.items()}


@torch.no_grad()
def test_pretraining_logits_and_loss_equal_transformers(their_autoencoder: nn.Module):
    ours = MaskedAutoencoder(ENCODER, DECODER).eval()
    load_strictly(ours, from_huggingface(their_autoencoder.state_dict(), source="theirs"), source="theirs")
    mean, std = (torch.tensor(three)[:, None, None, None] for three in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels_BCTHW = torch.rand(2, 3, 4, 32, 32)
    masks = [draw_mask(MaskConfig(ratio=0.75), ENCODER, np.random.default_rng(seed)) for seed in (0, 1)]
    visible_BV = torch.from_numpy(np.stack([mask.visible_V for mask in masks]))
    hidden_BH = torch.from_numpy(np.stack([mask.hidden_H for mask in masks]))
    video_BCTHW = (pixels_BCTHW - mean) / std
    flags_BN = torch.zeros(2, ENCODER.num_patches, dtype=torch.bool).scatter_(1, hidden_BH, True)
    expected = their_autoencoder(video_BCTHW.transpose(1, 2), bool_masked_pos=flags_BN)
    patches_BVP = take_tokens(patchify(video_BCTHW, ENCODER), visible_BV)
    predictions = ours(patches_BVP, visible_BV, hidden_BH)
    assert (predictions - expected.logits).abs().max() < 1e-5
    targets, _ = hidden_targets(pixels_BCTHW, hidden_BH, encoder=ENCODER, normalize=True)
    assert abs(reconstruction_loss(predictions, targets) - expected.loss) < 1e-5


@pytest.mark.parametrize("form", ["v4", "v5"])
@torch.no_grad()
def test_classification_equals_transformers_in_both_key_forms(their_classifier: nn.Module, form: str):
    state = their_classifier.state_dict()
    parts = take_apart(from_huggingface(in_v4(state) if form == "v4" else state, source="theirs"), source="theirs")
    ours = VideomaeClassifier(VideomaeConfig(encoder=ENCODER), 3).eval()
    load_strictly(ours, {f"encoder.{k}": v for k, v in parts.encoder.items()} | parts.rest, source="theirs")
    video_BCTHW = torch.randn(2, 3, 4, 32, 32)
    expected = their_classifier(video_BCTHW.transpose(1, 2)).logits
    assert expected.abs().max() > 0.1
    assert (ours(video_BCTHW) - expected).abs().max() < 1e-5


def random_export(folder: Path) -> VideoEncoder:
    ours = VideoEncoder(ENCODER).eval()
    randomise(ours)
    save_encoder(ours.state_dict(), ENCODER, folder, {})
    return ours


def loaded(auto: Any, folder: Path) -> nn.Module:
    """The model of transformers, which finds its class itself, with every key used and present."""
    model, report = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


@pytest.mark.parametrize("form", ["v4", "v5"])
@torch.no_grad()
def test_our_encoder_is_loaded_by_transformers_with_its_preprocessing(tmp_path: Path, form: str):
    from transformers import AutoImageProcessor, AutoModel, AutoVideoProcessor

    ours = random_export(tmp_path / "export")
    assert main(["weights", "export", str(tmp_path / "export"), str(tmp_path / "theirs"), "--form", form]) == 0
    frames_THWC = np.random.default_rng(0).integers(0, 256, (4, 32, 40, 3), dtype=np.uint8)
    (crop_TCHW,) = uniform_crops(frames_THWC, 32)
    video_BCTHW = normalize(crop_TCHW.movedim(1, 0)[None], IMAGENET_MEAN, IMAGENET_STD)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "theirs")
    pixels_BTCHW = processor(list(frames_THWC), return_tensors="pt")["pixel_values"]
    assert (pixels_BTCHW.transpose(1, 2) - video_BCTHW).abs().max() < 1e-5
    assert AutoVideoProcessor.from_pretrained(tmp_path / "theirs").size["shortest_edge"] == 32
    tokens_BND = loaded(AutoModel, tmp_path / "theirs")(pixels_BTCHW).last_hidden_state
    assert (tokens_BND - ours(video_BCTHW)).abs().max() < 1e-5


@pytest.mark.parametrize("form", ["v4", "v5"])
@torch.no_grad()
def test_our_classifier_is_loaded_by_transformers_with_its_classes(tmp_path: Path, form: str):
    from transformers import AutoConfig, AutoModelForVideoClassification

    ours = VideomaeClassifier(VideomaeConfig(encoder=ENCODER), 3).eval()
    randomise(ours)
    classes = ("calm", "fight", "run")
    description = ClassifierDescription(model=VideomaeConfig(encoder=ENCODER), classes=classes)
    save_classifier(ours.state_dict(), description, tmp_path)
    assert main(["weights", "export", str(tmp_path), str(tmp_path / "theirs"), "--form", form]) == 0
    theirs = loaded(AutoModelForVideoClassification, tmp_path / "theirs")
    official_eps(theirs)
    video_BCTHW = torch.randn(2, 3, 4, 32, 32)
    expected_BK = ours(video_BCTHW)
    assert expected_BK.abs().max() > 0.1
    assert (theirs(video_BCTHW.transpose(1, 2)).logits - expected_BK).abs().max() < 1e-5
    described = AutoConfig.from_pretrained(tmp_path / "theirs").to_dict()
    assert list(described["id2label"].values()) == list(classes)
    words = ["import-classifier", str(tmp_path / "theirs"), str(tmp_path / "back"), "--classes=a,b,c"]
    assert main(["weights", *words]) == 0
    again = load_classifier(tmp_path / "back").module.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in ours.state_dict().items())


def test_only_a_videomae_classifier_has_a_counterpart(tmp_path: Path):
    config = SingleFrameConfig(weights=None)
    state = build(config, 2).state_dict()
    save_classifier(state, ClassifierDescription(model=config, classes=("a", "b")), tmp_path)
    assert main(["weights", "export", str(tmp_path), str(tmp_path / "theirs")]) == 2
    assert not (tmp_path / "theirs").exists()


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("wrapper", ["", "model.", "backbone.", "module._orig_mod."])
@torch.no_grad()
def test_a_bare_encoder_of_transformers_is_imported(tmp_path: Path, norm: bool, wrapper: str):
    """VideoMAEModel has no prefix and, with mean pooling, no final norm; old and new names of the biases."""
    from transformers import VideoMAEModel

    theirs = VideoMAEModel(their_config(use_mean_pooling=not norm)).eval()
    randomise(theirs)
    for number, state in enumerate((theirs.state_dict(), in_v4(theirs.state_dict()))):
        torch.save({"state_dict": {wrapper + key: value for key, value in state.items()}}, tmp_path / "bare.ckpt")
        report = import_encoder(tmp_path / "bare.ckpt", tmp_path / f"{number}", frames=4, size=32, heads=4)
        assert report.config == dataclasses.replace(ENCODER, final_norm=norm)
        ours = VideoEncoder(report.config).eval()
        load_strictly(ours, load_encoder(tmp_path / f"{number}").state, source="ours")
        video_BCTHW = torch.randn(1, 3, 4, 32, 32)
        tokens_BND = theirs(video_BCTHW.transpose(1, 2)).last_hidden_state
        assert (ours(video_BCTHW) - tokens_BND).abs().max() < 1e-5 * tokens_BND.abs().max()


def test_sharded_folders_of_transformers_are_imported(tmp_path: Path, their_autoencoder: Any):
    their_autoencoder.save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    whole = from_huggingface(their_autoencoder.state_dict(), source="theirs")
    report = import_encoder(tmp_path / "theirs", tmp_path / "out")
    assert report.config == ENCODER
    state = load_encoder(tmp_path / "out").state
    assert all(torch.equal(value, whole[f"encoder.{key}"]) for key, value in state.items())
    next((tmp_path / "theirs").glob("*1-of-*.safetensors")).unlink()
    with pytest.raises(WeightsError, match=r"no weights at .*1-of-.*safetensors"):
        import_encoder(tmp_path / "theirs", tmp_path / "out2")


@pytest.mark.parametrize("wrapper", ["", "backbone."])
def test_files_of_mmaction2_are_imported(tmp_path: Path, wrapper: str):
    model = VideomaeClassifier(VideomaeConfig(encoder=ENCODER), 3)
    randomise(model)
    names = {"encoder.": "", "patch_embed.proj.": "patch_embed.projection.", "fc1.": "layers.0.0.", "fc2.": "layers.1."}
    state: dict[str, torch.Tensor] = {}
    for key, value in model.state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        state["cls_head.fc_cls." + key.removeprefix("head.") if key.startswith("head.") else wrapper + key] = value
    state[f"{wrapper}pos_embed"] = sincos_table(ENCODER.num_patches, ENCODER.dim)[None]
    torch.save({"meta": {"version": "1"}, "state_dict": state}, tmp_path / "mmaction2.pth")
    words = ["import-classifier", str(tmp_path / "mmaction2.pth"), str(tmp_path / "out"), "--classes=a,b,c"]
    assert main(["weights", *words, "--frames=4", "--size=32", "--heads=4"]) == 0
    again = load_classifier(tmp_path / "out").module.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in model.state_dict().items())
    state[f"{wrapper}pos_embed"] += 0.1
    torch.save(state, tmp_path / "trained.pth")
    with pytest.raises(WeightsError, match="position embeddings were trained"):
        import_encoder(tmp_path / "trained.pth", tmp_path / "out2", frames=4, size=32, heads=4)


def test_renaming_there_and_back_is_exact(their_autoencoder: nn.Module, their_classifier: nn.Module):
    for model in (their_autoencoder, their_classifier):
        state = model.state_dict()
        forms: Any = (("v5", state), ("v4", in_v4(state)))
        for form, expected in forms:
            again = to_huggingface(from_huggingface(expected, source="theirs"), form=form)
            assert again.keys() == expected.keys()
            assert all(torch.equal(again[key], value) for key, value in expected.items())


@pytest.mark.parametrize("wrapper", ["model", "module"])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module."])
def test_official_files_give_the_encoder(tmp_path: Path, wrapper: str, prefix: str):
    model = MaskedAutoencoder(ENCODER, DECODER)
    randomise(model)
    file = tmp_path / "checkpoint.pth"
    torch.save({wrapper: {prefix + key: value for key, value in model.state_dict().items()}, "epoch": 799}, file)
    assert main(["weights", "import", str(file), str(tmp_path / "out"), "--frames=4", "--size=32", "--heads=4"]) == 0
    export = load_encoder(tmp_path / "out")
    assert export.config == ENCODER
    expected = model.encoder.state_dict()
    assert export.state.keys() == expected.keys()
    assert all(torch.equal(export.state[key], value) for key, value in expected.items())


def test_a_fine_tuned_file_gives_its_encoder_and_says_what_it_skipped(tmp_path: Path):
    model: Any = VideomaeClassifier(VideomaeConfig(encoder=ENCODER), 3)
    state = {key.removeprefix("encoder."): value for key, value in model.state_dict().items()}
    torch.save({"module": state}, tmp_path / "tuned.pth")
    report = import_encoder(tmp_path / "tuned.pth", tmp_path / "out", frames=4, size=32, heads=4)
    assert report.skipped == ("fc_norm", "head")
    assert not report.config.final_norm
    again: Any = VideomaeClassifier(VideomaeConfig(weights=str(tmp_path / "out")), 3)
    assert torch.equal(again.encoder.blocks[1].mlp.fc2.weight, model.encoder.blocks[1].mlp.fc2.weight)


def test_a_folder_of_transformers_brings_its_settings(tmp_path: Path, their_autoencoder: Any):
    their_autoencoder.save_pretrained(tmp_path / "theirs")
    report = import_encoder(tmp_path / "theirs", tmp_path / "out")
    assert report.config == ENCODER
    assert report.skipped == ("decoder", "encoder_to_decoder", "mask_token")


@pytest.mark.parametrize("missing", ["encoder.blocks.1.attn.q_bias", "encoder.norm.weight"])
def test_unused_and_missing_keys_of_a_checkpoint_are_errors_that_list_them(tmp_path: Path, missing: str):
    state = MaskedAutoencoder(ENCODER, DECODER).state_dict()
    file = tmp_path / "checkpoint.pth"
    torch.save({"model": state | {"encoder.blocks.0.attn.k_bias": torch.zeros(32)}}, file)
    with pytest.raises(WeightsError, match=r"unused keys: encoder\.blocks\.0\.attn\.k_bias"):
        import_encoder(file, tmp_path / "out", heads=4)
    for key in (missing, missing.replace("norm.weight", "norm.bias")):
        state.pop(key, None)
    torch.save({"model": state}, file)
    with pytest.raises(WeightsError, match="missing keys: " + re.escape(missing.removeprefix("encoder."))):
        import_encoder(file, tmp_path / "out", frames=4, size=32, heads=4)
    assert not (tmp_path / "out").exists()


def test_huggingface_keys_that_do_not_belong_are_refused(their_classifier: nn.Module):
    state = dict(their_classifier.state_dict())
    key_bias = "videomae.encoder.layer.0.attention.attention.key.bias"
    kept = from_huggingface(state | {key_bias: torch.zeros(32)}, source="theirs")
    assert "blocks.0.attn.q_bias" in kept
    with pytest.raises(WeightsError, match="is not zero"):
        from_huggingface(state | {key_bias: torch.ones(32)}, source="theirs")
    with pytest.raises(WeightsError, match=r"unused keys: videomae\.pooler\.weight"):
        from_huggingface(state | {"videomae.pooler.weight": torch.ones(1)}, source="theirs")
    without_key = {
        name: value for name, value in state.items() if not name.endswith("layer.1.attention.attention.key.weight")
    }
    with pytest.raises(WeightsError, match=r"missing keys: key of encoder\.blocks\.1\.attn"):
        from_huggingface(without_key, source="theirs")
    without_bias = {
        name: value for name, value in state.items() if not name.endswith("layer.1.attention.attention.query.bias")
    }
    parts = take_apart(from_huggingface(without_bias, source="theirs"), source="theirs")
    ours = VideomaeClassifier(VideomaeConfig(encoder=ENCODER), 3)
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(WeightsError, match=r"missing keys: encoder\.blocks\.1\.attn\.q_bias"):
        load_strictly(ours, {f"encoder.{k}": v for k, v in parts.encoder.items()} | parts.rest, source="theirs")
    assert all(torch.equal(before[key], value) for key, value in ours.state_dict().items())


def test_settings_that_tensors_do_not_show_must_be_known(tmp_path: Path):
    state = VideoEncoder(ENCODER).state_dict()
    with pytest.raises(WeightsError, match="number of heads"):
        encoder_config(state, frames=4, size=32, heads=None)
    base = VideoEncoder(EncoderConfig(frames=4, size=32, dim=192, depth=1, heads=3)).state_dict()
    assert encoder_config(base, frames=4, size=32, heads=None).heads == 3
    with pytest.raises(WeightsError, match="holds none of"):
        read_official(tmp_path)
    (tmp_path / "encoder.json").write_text(json.dumps({}))
    with pytest.raises(WeightsError, match=r"encoder\.json"):
        export_to_huggingface(tmp_path, tmp_path / "out", mean=IMAGENET_MEAN, std=IMAGENET_STD)


def test_positions_that_transformers_lacks_are_refused(tmp_path: Path):
    config = dataclasses.replace(ENCODER, positions="sincos_3d")
    save_encoder(VideoEncoder(config).state_dict(), config, tmp_path / "ours", {})
    with pytest.raises(WeightsError, match="sincos_1d positions, the encoder has sincos_3d"):
        export_to_huggingface(tmp_path / "ours", tmp_path / "out", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    assert not (tmp_path / "out").exists()
