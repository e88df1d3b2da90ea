"""The network of the demo model: a plain Llama in a few lines, with the parameter names that transformers uses.

It exists to train fast on one processor core; `save` writes a folder that LlamaForCausalLM loads and computes alike.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_SIZE = 64


@dataclass(frozen=True)
class Shape:
    """The sizes of the network."""

    vocab: int = 768
    hidden: int = 256
    layers: int = 4
    inner: int = 640
    theta: float = 10_000.0
    eps: float = 1e-5
    positions: int = 4096

    @property
    def heads(self) -> int:
        return self.hidden // HEAD_SIZE


class RMSNorm(nn.Module):
    """Scale each vector to length one (root mean square), then by a learned weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(shape.hidden, shape.hidden, bias=False))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rows, length, hidden = x.shape
        q, k, v = (
            layer(x).view(rows, length, self.heads, HEAD_SIZE).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(rows, length, hidden))


class MLP(nn.Module):
    """The gated feed-forward block."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.inner, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.inner, bias=False)
        self.down_proj = nn.Linear(shape.inner, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden, shape.eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden, shape.eps)
        self.mlp = MLP(shape)


class Network(nn.Module):
    """The decoder. `forward` gives the logits of the chosen positions only."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.hidden, shape.eps)
        cos, sin = rotary(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.reset()

    def reset(self) -> None:
        """Random weights, with first-layer heads that already look one, two and three tokens back.

        Copying needs such heads; growing them from noise is what costs most of a short training.
        """
        shape = self.shape
        nn.init.normal_(self.embed_tokens.weight, std=0.05)
        with torch.no_grad():
            self.embed_tokens.weight[:, 0] = 0.2
            for layer in self.layers:
                for name, weight in layer.named_parameters():
                    if weight.dim() == 2:
                        nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
                    if name.endswith(("o_proj.weight", "down_proj.weight")):
                        weight.mul_(0.3)
            attention = self.layers[0].self_attn
            angles = frequencies(shape)[:16]
            for head in range(min(3, shape.heads - 1)):
                first = slice(head * HEAD_SIZE, head * HEAD_SIZE + 16)
                second = slice(head * HEAD_SIZE + 32, head * HEAD_SIZE + 48)
                back = (head + 1) * angles
                attention.k_proj.weight[first, 0] = 1.25
                attention.k_proj.weight[second, 0] = 0.0
                attention.q_proj.weight[first, 0] = 1.25 * back.cos()
                attention.q_proj.weight[second, 0] = -1.25 * back.sin()

    def forward(self, ids: Tensor, chosen: Tensor) -> Tensor:
        """Logits [n, vocab] of the positions where `chosen` [rows, length] is true."""
        length = ids.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = x + layer.self_attn(layer.input_layernorm(x), cos, sin)
            if layer is self.layers[-1]:
                x = x[chosen]
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return F.linear(self.norm(x), self.embed_tokens.weight)


def frequencies(shape: Shape) -> Tensor:
    """The rotation per token of each pair of channels."""
    return shape.theta ** (-torch.arange(0, HEAD_SIZE, 2, dtype=torch.float32) / HEAD_SIZE)


def rotary(shape: Shape) -> tuple[Tensor, Tensor]:
    """Cosine and sine tables [positions, head size]."""
    angles = torch.arange(shape.positions, dtype=torch.float32)[:, None] * frequencies(shape)[None, :]
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to [rows, heads, length, head size]."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonal updates (Muon) in 32 bits; torch.optim.Muon rounds to bfloat16, slow without AMX."""

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["buffer"] = torch.zeros_like(weight)
                buffer = state["buffer"].lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonal(weight.grad.lerp(buffer, group["momentum"]))
                weight.mul_(1 - group["lr"] * group["decay"])
                weight.add_(update, alpha=-group["lr"] * max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5)


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest matrix with singular values near one (Newton-Schulz iteration)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = torch.addmm(a * x, torch.addmm(b * square, square, square, alpha=c), x)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def config(shape: Shape, bos: int, eos: int, pad: int) -> dict[str, object]:
    """config.json, with the keys that transformers 4.37 reads and those of 5.x."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "head_dim": HEAD_SIZE,
        "hidden_act": "silu",
        "max_position_embeddings": shape.positions,
        "initializer_range": 0.02,
        "rms_norm_eps": shape.eps,
        "rope_theta": shape.theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.theta},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": pad,
        "torch_dtype": "float32",
    }


def save_weights(network: Network, path: Path) -> None:
    """Write model.safetensors in bfloat16 under the names of LlamaForCausalLM."""
    tensors = {f"model.{name}": value.to(torch.bfloat16).contiguous() for name, value in network.state_dict().items()}
    write_tensors(tensors, path)


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors so that a reader never sees half of them."""
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"format": "pt"})
    temporary.chmod(0o644)
    temporary.replace(path)


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a reader never sees half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def schedule(done: float, warm: float = 0.02, flat: float = 0.3) -> float:
    """The learning rate's factor at the fraction `done` of a training: up, flat, then by cosine to zero."""
    if done < warm:
        return done / warm
    if done < flat:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - flat) / (1 - flat))))
