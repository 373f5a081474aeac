"""A tiny random Llama, a tiny byte-pair tokenizer, and a cache of its own for every test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENS = [*SPECIAL, *sorted(ByteLevel.alphabet()), "ĊĊ", "12", "Ġt", "Ġth", "Ġthe"]
MERGES = ["Ċ Ċ", "1 2", "Ġ t", "Ġt h", "Ġth e"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


def build_llama(tied: bool = True, **overrides: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": len(TOKENS)}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    config = LlamaConfig(**{**shape, **heads, **special, "tie_word_embeddings": tied, **overrides})
    return LlamaForCausalLM(config).eval()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("TOOLKIT_CACHE", str(folder))
    return folder


@pytest.fixture
def llama() -> LlamaForCausalLM:
    return build_llama()


@pytest.fixture
def model_folder(tmp_path: Path, llama: LlamaForCausalLM) -> Path:
    """A loadable folder: tiny weights and a tiny tokenizer."""
    folder = tmp_path / "tiny-model"
    llama.save_pretrained(folder)
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {token: i for i, token in enumerate(TOKENS)}, "merges": []},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def gguf_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a GGUF of the tiny Llama as llama.cpp's converter would: rotary rows permuted, layers quantised."""
    import gguf
    import numpy as np

    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    names |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
    names |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}

    def write(pre: str = "smollm", architecture: str = "llama", tied: bool = True, extra_tensor: str = "") -> Path:
        path = tmp_path / "tiny.gguf"
        model = build_llama(tied)
        writer = gguf.GGUFWriter(path, architecture)
        writer.add_block_count(2)
        writer.add_context_length(128)
        writer.add_embedding_length(32)
        writer.add_feed_forward_length(64)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_rope_freq_base(10000.0)
        writer.add_vocab_size(len(TOKENS))
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(TOKENS)
        writer.add_token_types([3 if token in SPECIAL else 1 for token in TOKENS])
        writer.add_token_merges(MERGES)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_pad_token_id(2)
        writer.add_add_bos_token(False)
        writer.add_chat_template(TEMPLATE)
        outer = {
            "model.embed_tokens.weight": "token_embd",
            "model.norm.weight": "output_norm",
            "lm_head.weight": "output",
        }
        for name, tensor in model.state_dict().items():
            values = tensor.numpy()
            if name in outer:
                if name != "lm_head.weight" or not tied:
                    writer.add_tensor(f"{outer[name]}.weight", values)
                continue
            _, _, layer, part = name.removesuffix(".weight").split(".", 3)
            if names[part] in ("attn_q", "attn_k"):
                heads = 4 if names[part] == "attn_q" else 2
                values = values.reshape(heads, 2, -1, 32).swapaxes(1, 2).reshape(values.shape)
            target = f"blk.{layer}.{names[part]}.weight"
            if values.ndim == 1:
                writer.add_tensor(target, values)
            else:
                kind = gguf.GGMLQuantizationType.Q4_1
                writer.add_tensor(target, gguf.quants.quantize(np.ascontiguousarray(values), kind), raw_dtype=kind)
        if extra_tensor:
            writer.add_tensor(extra_tensor, np.ones(4, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write
