"""Networks for the tests of this folder, each a model SPEC."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Self-attention of one head whose weights are all in Linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        mixed: Tensor = self.out_proj(scores.softmax(-1) @ value)
        return mixed


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(32, 64)
        self.fc2 = nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return hidden


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = Attention(32)
        self.ffn = FeedForward()
        self.norm1 = nn.LayerNorm(32)
        self.norm2 = nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attn(x))
        normed: Tensor = self.norm2(x + self.ffn(x))
        return normed


class Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(49, 32)

    def forward(self, x: Tensor) -> Tensor:
        embedded: Tensor = self.proj(F.unfold(x, kernel_size=7, stride=7).transpose(1, 2))
        return embedded


class ViT(nn.Module):
    """vit_agentzz.pth with its attention written out in Linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 16, 32))
        self.patch_embed = Patches()
        self.encoder = nn.ModuleList([Block()])
        self.norm = nn.LayerNorm(32)
        self.classifier = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x) + self.pos_embed
        for block in self.encoder:
            x = block(x)
        logits: Tensor = self.classifier(self.norm(x).mean(dim=1))
        return logits


def vit() -> nn.Module:
    return ViT()
