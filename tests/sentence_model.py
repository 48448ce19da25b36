"""A sentence model of one small layer, in the form in which sentence-transformers saves one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, normalize

from vqpipe.text.sentences import INDEX

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "object", "red", "da", "##rk", "bo", "##at"]
WIDTH, HEADS = 8, 2
PARTS = [
    ("", "Transformer"),
    ("1_Pooling", "Pooling"),
    ("2_Normalize", "Normalize"),
]


def weights() -> dict[str, Tensor]:
    """Of a BERT of one layer, by their official names."""
    shapes = {
        "embeddings.word_embeddings.weight": (len(PIECES), WIDTH),
        "embeddings.position_embeddings.weight": (16, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        **{
            f"encoder.layer.0.{name}.weight": shape
            for name, shape in {
                **{f"attention.self.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")},
                "attention.output.dense": (WIDTH, WIDTH), "intermediate.dense": (12, WIDTH),
                "output.dense": (WIDTH, 12),
            }.items()
        },
        "pooler.dense.weight": (WIDTH, WIDTH),
    }  # fmt: skip
    norms = [
        "embeddings.LayerNorm",
        "encoder.layer.0.attention.output.LayerNorm",
        "encoder.layer.0.output.LayerNorm",
    ]
    drawn = torch.Generator().manual_seed(0)
    found = {name: torch.randn(shape, generator=drawn) for name, shape in shapes.items()}
    biases = [name.replace("weight", "bias") for name in found if "dense" in name or "attention" in name]
    found |= {
        name: torch.randn(found[name.replace("bias", "weight")].shape[0], generator=drawn) for name in biases
    }
    found |= {f"{name}.weight": 1 + 0.1 * torch.randn(WIDTH, generator=drawn) for name in norms}
    return found | {f"{name}.bias": torch.randn(WIDTH, generator=drawn) for name in norms}


def expected(pieces: Sequence[str]) -> Tensor:
    """The model's vector of one text, written out: BERT (Devlin et al., 2019), mean of the tokens, unit length."""
    own = weights()

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, (WIDTH,), own[f"{name}.LayerNorm.weight"], own[f"{name}.LayerNorm.bias"], 1e-12)

    def dense(x: Tensor, name: str) -> Tensor:
        return x @ own[f"encoder.layer.0.{name}.weight"].T + own[f"encoder.layer.0.{name}.bias"]

    ids = torch.tensor([PIECES.index(piece) for piece in ("[CLS]", *pieces, "[SEP]")])
    x = own["embeddings.word_embeddings.weight"][ids] + own["embeddings.token_type_embeddings.weight"][0]
    x = norm(x + own["embeddings.position_embeddings.weight"][: len(ids)], "embeddings")
    q, k, v = (
        dense(x, f"attention.self.{part}").reshape(len(ids), HEADS, -1).transpose(0, 1)
        for part in ("query", "key", "value")
    )
    mixed = ((q @ k.mT) / (WIDTH / HEADS) ** 0.5).softmax(-1) @ v
    attended = dense(mixed.transpose(0, 1).reshape(len(ids), WIDTH), "attention.output.dense")
    x = norm(x + attended, "encoder.layer.0.attention.output")
    hidden = gelu(dense(x, "intermediate.dense"))
    x = norm(x + dense(hidden, "output.dense"), "encoder.layer.0.output")
    return normalize(x.mean(0), dim=0)


def write_sentence_model(folder: Path) -> Path:
    """Write the folder; its vocabulary has `PIECES` alone, all else is `[UNK]`."""
    (folder / "1_Pooling").mkdir(parents=True)
    configs: dict[str, Any] = {
        "config.json": {
            "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": WIDTH,
            "intermediate_size": 12, "layer_norm_eps": 1e-12, "max_position_embeddings": 16,
            "num_attention_heads": HEADS, "num_hidden_layers": 1, "pad_token_id": 0, "type_vocab_size": 2,
            "vocab_size": len(PIECES),
        },
        INDEX: [
            {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for at, (path, kind) in enumerate(PARTS)
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": WIDTH, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False,
        },
        "sentence_bert_config.json": {"max_seq_length": 16, "do_lower_case": False},
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": True},
    }  # fmt: skip
    for name, content in configs.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    save_file(weights(), folder / "model.safetensors", {"format": "pt"})
    return folder
