"""Architectures in plain torch that the public checkpoints of ``ALIGNLAB_DATA`` fit.

Each builder is a model SPEC, such as ``tests/models/real_checkpoints.py:lenet``. What a file does
not say (activation, pooling, heads) is what reproduces the accuracy that its owner states.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LeNet(nn.Module):
    """lenet_captum.pt: CIFAR-10, inputs scaled by mean .5 and sd .5."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2).flatten(1)
        logits: Tensor = self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))
        return logits


class BasicBlock(nn.Module):
    def __init__(self, maps_in: int, maps: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(maps_in, maps, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(maps)
        self.conv2 = nn.Conv2d(maps, maps, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(maps)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(maps_in, maps, 1, stride, bias=False), nn.BatchNorm2d(maps)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(inner + self.shortcut(x))


class ResNet20(nn.Module):
    """resnet20_chen_epoch1.t7 below ``net`` and ``module.``: CIFAR-10, channel means and sds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(BasicBlock(16, 16, 1) for _ in range(3)))
        self.layer2 = nn.Sequential(
            BasicBlock(16, 32, 2), BasicBlock(32, 32, 1), BasicBlock(32, 32, 1)
        )
        self.layer3 = nn.Sequential(
            BasicBlock(32, 64, 2), BasicBlock(64, 64, 1), BasicBlock(64, 64, 1)
        )
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.avg_pool2d(self.layer3(self.layer2(self.layer1(x))), 8).flatten(1)
        logits: Tensor = self.linear(x)
        return logits


class Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(49, 32)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, kernel_size=7, stride=7).transpose(1, 2)
        embedded: Tensor = self.proj(patches)
        return embedded


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(32, 64)
        self.fc2 = nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return hidden


class PostNormBlock(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(32, heads, batch_first=True)
        self.ffn = FeedForward()
        self.norm1 = nn.LayerNorm(32)
        self.norm2 = nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attn(x, x, x, need_weights=False)[0])
        normed: Tensor = self.norm2(x + self.ffn(x))
        return normed


class ViT(nn.Module):
    """vit_agentzz.pth: MNIST scaled by mean .1307 and sd .3081."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 16, 32))
        self.patch_embed = Patches()
        self.encoder = nn.ModuleList([PostNormBlock(heads)])
        self.norm = nn.LayerNorm(32)
        self.classifier = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x) + self.pos_embed
        for block in self.encoder:
            x = block(x)
        logits: Tensor = self.classifier(self.norm(x).mean(dim=1))
        return logits


class RadianceField(nn.Module):
    """nerf_dfa_chair.ckpt below ``model_coarse_state_dict``: 63 numbers of place, 27 of view."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Linear(63, 128)
        self.layers_xyz = nn.ModuleList([nn.Linear(128, 128) for _ in range(3)])
        self.fc_alpha = nn.Linear(128, 1)
        self.fc_feat = nn.Linear(128, 128)
        self.layers_dir = nn.ModuleList([nn.Linear(128 + 27, 64)])
        self.fc_rgb = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        place, view = x[..., :63], x[..., 63:]
        hidden = F.relu(self.layer1(place))
        for layer in self.layers_xyz:
            hidden = F.relu(layer(hidden))
        opacity = self.fc_alpha(hidden)
        coloured = torch.cat([F.relu(self.fc_feat(hidden)), view], dim=-1)
        colour = self.fc_rgb(F.relu(self.layers_dir[0](coloured)))
        return torch.cat([colour, opacity], dim=-1)


class RotaryAttention(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.wq = nn.Linear(32, 32, bias=False)
        self.wk = nn.Linear(32, 32, bias=False)
        self.wv = nn.Linear(32, 32, bias=False)
        self.wo = nn.Linear(32, 32, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.wq, self.wk, self.wv)
        )
        mixed = F.scaled_dot_product_attention(rotated(query), rotated(key), value, is_causal=True)
        joined: Tensor = self.wo(mixed.transpose(1, 2).flatten(2))
        return joined


def rotated(x: Tensor) -> Tensor:
    """Turn pairs of neighbouring numbers by angles that grow with the position."""
    positions, width = x.shape[-2:]
    speeds = 10_000.0 ** (-torch.arange(0, width, 2, device=x.device) / width)
    angles = torch.arange(positions, device=x.device)[:, None] * speeds
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = [even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos()]
    return torch.stack(turned, dim=-1).flatten(-2)


class GatedFeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Linear(32, 256, bias=False)
        self.w2 = nn.Linear(256, 32, bias=False)
        self.w3 = nn.Linear(32, 256, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return hidden


class LlamaBlock(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.attention = RotaryAttention(heads)
        self.feed_forward = GatedFeedForward()
        self.attention_norm = nn.RMSNorm(32, eps=1e-5)
        self.ffn_norm = nn.RMSNorm(32, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class Llama(nn.Module):
    """llama_tiny_random.pt: tokens (N, T) to the logits of the token that follows, (N, 500)."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(500, 32)
        self.layers = nn.ModuleList([LlamaBlock(heads) for _ in range(2)])
        self.norm = nn.RMSNorm(32, eps=1e-5)
        self.output = nn.Linear(32, 500, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tok_embeddings(tokens)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.output(self.norm(x[:, -1]))
        return logits


def lenet() -> nn.Module:
    return LeNet()


def resnet20() -> nn.Module:
    return ResNet20()


def lightning_mlp(dropout: float = 0.1) -> nn.Module:
    """lightning_won_v0.ckpt below ``state_dict`` and ``model.``: MNIST, mean .1307, sd .3081."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 64),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(64, 10),
    )


def vit(heads: int = 1) -> nn.Module:
    return ViT(heads)


def nerf() -> nn.Module:
    return RadianceField()


def llama(heads: int = 4) -> nn.Module:
    return Llama(heads)
