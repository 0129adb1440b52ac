"""ViViT: what each factorisation may see, its start from an image ViT and from VideoMAE, parity with another code."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

import videomae.core.torchvision_compat  # timm and transformers import torchvision
from finetune.models import vivit
from finetune.models.interface import HALF
from finetune.models.vivit import VivitConfig
from finetune.models.vivit_initialisation import inflate
from videomae.data.transforms.augment import IMAGENET_MEAN
from videomae.models.encoder import EncoderConfig, VideoEncoder
from videomae.models.weights import WeightsError, save_encoder

assert videomae
TINY = {"frames": 6, "size": 32, "patch": 8, "dim": 32, "depth": 2, "heads": 4}
MODELS = ["vivit_1", "vivit_2", "vivit_3", "vivit_4"]


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Every parameter at random, so that no zero hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.2, generator=generator)


def model(name: str, **settings: object) -> vivit.Vivit:
    config = VivitConfig(**{"name": name, **TINY, **settings})
    return vivit.build(config, 3).eval()


def video(batch: int = 1, frames: int = 6) -> torch.Tensor:
    return torch.randn(batch, 3, frames, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def image_vit(tmp_path: Path) -> tuple[nn.Module, str]:
    """timm's own ViT without a class token, pooling by the mean, and the file of its weights."""
    from timm.models.vision_transformer import VisionTransformer

    network = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=0, class_token=False,
        global_pool="avg", fc_norm=False,
    ).eval()  # fmt: skip
    randomise(network)
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    return network, str(tmp_path / "vit.pth")


@pytest.fixture
def class_vit(tmp_path: Path) -> tuple[nn.Module, str]:
    from timm.models.vision_transformer import VisionTransformer

    network = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=0).eval()
    randomise(network, 1)
    torch.save(network.state_dict(), tmp_path / "class_vit.pth")
    return network, str(tmp_path / "class_vit.pth")


@torch.no_grad()
def test_slices_of_the_factorised_encoder_see_only_their_own_tubelet():
    network = model("vivit_2")
    randomise(network)
    assert isinstance(network, vivit.FactorisedEncoder)
    video_BCTHW = video()
    before = network.spatial_features(video_BCTHW)
    video_BCTHW[:, :, 3] += 1  # frame 3 lies in slice 1
    moved = (network.spatial_features(video_BCTHW) - before).abs().amax((0, 2)) > 1e-5
    assert moved.tolist() == [False, True, False]


@pytest.mark.parametrize("depth", [1, 2])
@torch.no_grad()
def test_factorised_attention_reaches_a_place_off_both_axes_only_after_two_blocks(depth: int):
    for name in ("vivit_3", "vivit_4"):
        network = model(name, depth=depth).double()
        randomise(network)
        assert isinstance(network, vivit.FactorisedVivit)
        video_BCTHW = video().double()
        before = network.tokens(video_BCTHW)
        video_BCTHW[:, :, 2, :8, :8] += 1  # slice 1, position 0
        moved = (network.tokens(video_BCTHW) - before).abs().amax((0, 3)) > 1e-10
        expected = torch.ones_like(moved)
        if depth == 1 and name == "vivit_4":  # at once over space and time: only the row and the column
            expected[:, 1:] = False
            expected[1] = True
        assert torch.equal(moved, expected), name


@torch.no_grad()
def test_split_attention_equals_one_head_and_token_at_a_time():
    layer = vivit.SplitAttention(8, 4)
    randomise(layer)
    tokens_BSPD = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(1))
    query, key, value = (part.unflatten(-1, (4, 2)) for part in layer.project(tokens_BSPD))
    mixed = torch.empty_like(query)
    for b, s, p, h in itertools.product(range(2), range(3), range(5), range(4)):
        others = (b, s, slice(None), h) if h < 2 else (b, slice(None), p, h)  # over space, over time
        weights_N = torch.softmax(key[others] @ query[b, s, p, h] / 2**0.5, dim=0)
        mixed[b, s, p, h] = weights_N @ value[others]
    torch.testing.assert_close(layer(tokens_BSPD), layer.proj(mixed.flatten(3)))


@torch.no_grad()
def test_without_temporal_attention_a_slice_of_model_3_sees_only_itself():
    network = model("vivit_3")
    assert isinstance(network, vivit.FactorisedVivit)
    video_BCTHW = video()
    before = network.tokens(video_BCTHW)
    video_BCTHW[:, :, 2] += 1
    moved = (network.tokens(video_BCTHW) - before).abs().amax((0, 2, 3)) > 0
    assert moved.tolist() == [False, True, False]


@pytest.mark.parametrize("embedding", ["uniform", "tubelet"])
@torch.no_grad()
def test_model_3_from_an_image_vit_is_that_vit_frame_by_frame(image_vit: tuple[nn.Module, str], embedding: str):
    network, path = image_vit
    ours = model("vivit_3", weights=path, embedding=embedding)
    assert isinstance(ours, vivit.FactorisedVivit)
    video_BCTHW = video()
    tokens_BSPD = ours.tokens(video_BCTHW)
    for index, frame in enumerate((1, 3, 5)):  # the middle of a tubelet of two is its second frame
        expected = network.forward_features(video_BCTHW[:, :, frame])
        torch.testing.assert_close(tokens_BSPD[:, index], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_slices_of_model_2_from_an_image_vit_are_its_class_tokens(class_vit: tuple[nn.Module, str]):
    network, path = class_vit
    ours = model("vivit_2", weights=path, embedding="uniform")
    assert isinstance(ours, vivit.FactorisedEncoder)
    expected = network(video()[:, :, 5])
    torch.testing.assert_close(ours.spatial_features(video())[:, 2], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_one_block_equals_timms(class_vit: tuple[nn.Module, str]):
    network, path = class_vit
    ours = model("vivit_1", weights=path, frames=2)
    tokens_BND = torch.randn(2, 17, 32)
    theirs = network.blocks[0]
    assert isinstance(ours, vivit.JointVivit)
    assert (ours.blocks[0](tokens_BND) - theirs(tokens_BND)).abs().max() < 1e-5


@torch.no_grad()
def test_average_inflation_keeps_a_still_video_and_central_takes_one_frame(class_vit: tuple[nn.Module, str]):
    network, path = class_vit
    still = video()[:, :, :1].expand(-1, -1, 6, -1, -1)
    patches = network.patch_embed(still[:, :, 0])
    for how in ("average", "central"):
        tokens_BSPD = model("vivit_1", weights=path, inflation=how).patch_embed(still)
        torch.testing.assert_close(tokens_BSPD, patches[:, None].expand(-1, 3, -1, -1), atol=1e-5, rtol=1e-5)
    kernel = inflate(torch.ones(1, 1, 2, 2), 3, how="central")
    assert kernel.sum((0, 1, 3, 4)).tolist() == [0, 4, 0]


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_positions_are_repeated_over_time_and_interpolated_to_another_grid(class_vit: tuple[nn.Module, str], name: str):
    _, path = class_vit
    positions = model(name, weights=path).pos_embed[0]
    grid = positions[-48:] if name != "vivit_2" else positions[-16:]
    for part in grid.split(16):
        torch.testing.assert_close(part, grid[:16])
    assert model(name, weights=path, size=48).pos_embed.shape[1] == {"vivit_1": 109, "vivit_2": 37}.get(name, 108)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_every_model_starts_from_our_encoder(tmp_path: Path, name: str):
    settings = EncoderConfig(**TINY)
    encoder = VideoEncoder(settings).eval()
    randomise(encoder)
    save_encoder(encoder.state_dict(), settings, tmp_path / "export", {"run": "seven"})
    network = model(name, weights=str(tmp_path / "export"))
    assert network.config.pretrained == "VideoMAE (seven)"
    assert network.input.mean == IMAGENET_MEAN
    own = network.state_dict()
    assert all(torch.equal(own[key], value) for key, value in encoder.state_dict().items())
    if name == "vivit_1":
        assert torch.equal(own["pos_embed"][0, 1:], encoder.positions_ND)
    with pytest.raises(WeightsError, match="embedding=tubelet"):
        model(name, weights=str(tmp_path / "export"), embedding="uniform")
    with pytest.raises(WeightsError, match="tubelet, patch, dim, depth"):
        model(name, weights=str(tmp_path / "export"), depth=3)


def test_an_image_vit_without_a_class_token_is_refused_where_one_is_needed(image_vit: tuple[nn.Module, str]):
    for name in ("vivit_1", "vivit_2"):
        with pytest.raises(WeightsError, match="no class token"):
            model(name, weights=image_vit[1])
    with pytest.raises(WeightsError, match=r"missing keys: blocks\.2\."):
        model("vivit_3", weights=image_vit[1], depth=3)


def test_published_image_weights_come_from_timm_and_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    import timm

    settings = {"frames": 2, "size": 32, "patch": 16, "dim": 192, "depth": 12, "heads": 3, "weights": "imagenet"}
    theirs = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: theirs)
    ours = model("vivit_1", **settings)
    assert torch.equal(ours.state_dict()["blocks.11.mlp.fc2.weight"], theirs.state_dict()["blocks.11.mlp.fc2.weight"])
    assert ours.config.pretrained == "ImageNet ViT"

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(WeightsError, match=r"vit_tiny_patch16_224.*no network.*model\.weights=PATH"):
        model("vivit_1", **settings)
    with pytest.raises(WeightsError, match="no image ViT of dim 32"):
        model("vivit_1", weights="imagenet")


def test_sizes_that_do_not_divide_are_refused_at_once():
    for wrong in ({"frames": 7}, {"size": 30}, {"heads": 5}, {"name": "vivit_4", "heads": 1}):
        with pytest.raises(ValueError, match=r"must be a multiple|must be even"):
            VivitConfig(**{**TINY, **wrong})
    assert VivitConfig().input.mean == HALF


@torch.no_grad()
def test_model_1_equals_transformers_vivit():
    from transformers import VivitConfig as TheirConfig
    from transformers import VivitForVideoClassification

    theirs = VivitForVideoClassification(
        TheirConfig(
            image_size=32, num_frames=6, tubelet_size=[2, 8, 8], hidden_size=32, num_hidden_layers=2,
            num_attention_heads=4, intermediate_size=128, hidden_act="gelu", hidden_dropout_prob=0.0, num_labels=3,
        )
    ).eval()  # fmt: skip
    randomise(theirs)
    ours = model("vivit_1")
    names = {
        "patch_embed.proj": "vivit.embeddings.patch_embeddings.projection",
        "norm": "vivit.layernorm",
        "head": "classifier",
    }
    their_state = theirs.state_dict()
    state = {
        "cls_token": their_state["vivit.embeddings.cls_token"],
        "pos_embed": their_state["vivit.embeddings.position_embeddings"],
    }
    for index in range(2):
        layer, block = f"vivit.layers.{index}", f"blocks.{index}"
        parts = [their_state[f"{layer}.attention.{part}_proj.weight"] for part in "qkv"]
        state[f"{block}.attn.qkv.weight"] = torch.cat(parts)
        state[f"{block}.attn.q_bias"] = their_state[f"{layer}.attention.q_proj.bias"]
        state[f"{block}.attn.v_bias"] = their_state[f"{layer}.attention.v_proj.bias"]
        names |= {
            f"{block}.attn.proj": f"{layer}.attention.o_proj",
            f"{block}.norm1": f"{layer}.layernorm_before",
            f"{block}.norm2": f"{layer}.layernorm_after",
            f"{block}.mlp.fc1": f"{layer}.mlp.fc1",
            f"{block}.mlp.fc2": f"{layer}.mlp.fc2",
        }
    for mine, their in names.items():
        state |= {f"{mine}.{part}": their_state[f"{their}.{part}"] for part in ("weight", "bias")}
    ours.load_state_dict(state)
    video_BCTHW = video(2)
    expected = theirs(pixel_values=video_BCTHW.transpose(1, 2)).logits
    assert expected.abs().max() > 0.1
    assert (ours(video_BCTHW) - expected).abs().max() < 1e-5
