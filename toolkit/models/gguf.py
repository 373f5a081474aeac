"""Converts a GGUF file once into the folder every library reads: safetensors, configuration, tokenizer.

Reads Llama-architecture files with a byte-pair tokenizer, which is what the starter model is. Anything the conversion
does not know is refused, since a guess would give a model that works and is wrong. The result holds no library
versions, so the same file gives the same bytes on every machine. Tensor names, the order of rotary rows and the
`smollm` way of splitting digits are those of llama.cpp's converter.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import ModelError, nearest

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader
    from numpy.typing import NDArray

CONVERSION = "1"  # part of the cache key: raise it whenever the result changes

_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
# llama.cpp splits off every digit first; transformers' own GGUF reader leaves that out, and then "a\n\n1." differs.
_PRE_TOKENIZERS: dict[str, dict[str, object]] = {
    "gpt-2": _BYTE_LEVEL,
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
    },
}
_CONTROL = 3  # gguf's TokenType.CONTROL
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def convert(file: Path, folder: Path) -> None:
    """Writes weights (float32), configuration, tokenizer and chat template into a new folder.

    Float32 since no smaller dtype holds the dequantised values exactly.

    Raises:
        ModelError: the file is no GGUF, or its architecture, tensors or tokenizer are not those handled here.
    """
    from gguf import GGUFReader
    from safetensors.numpy import save_file

    try:
        reader = GGUFReader(file)
    except (ValueError, OSError, IndexError, KeyError) as error:
        raise ModelError(f"{file.name} is not a readable GGUF file: {error}") from error
    metadata = _Metadata(reader, file.name)
    config = _config(metadata)
    tokenizer, tokenizer_config = _tokenizer(metadata)
    tensors = _tensors(reader, metadata)
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    config["vocab_size"] = len(tensors["model.embed_tokens.weight"])
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    generation = {key: value for key, value in config.items() if key.endswith("_token_id")}
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", generation)
    _write_json(folder / "tokenizer.json", tokenizer)
    _write_json(folder / "tokenizer_config.json", tokenizer_config)
    template = metadata.text("tokenizer.chat_template", "")
    if template:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


class _Metadata:
    """The key-value part of a GGUF file, with types."""

    def __init__(self, reader: GGUFReader, file: str) -> None:
        self._fields = reader.fields
        self.file = file

    def __contains__(self, key: str) -> bool:
        return key in self._fields

    def text(self, key: str, default: str | None = None) -> str:
        return str(self._value(key, default))

    def integer(self, key: str, default: int | None = None) -> int:
        return int(str(self._value(key, default)))

    def number(self, key: str, default: float | None = None) -> float:
        return float(str(self._value(key, default)))

    def texts(self, key: str) -> list[str]:
        return [str(value) for value in self._list(key)]

    def integers(self, key: str) -> list[int]:
        return [int(str(value)) for value in self._list(key)]

    def _list(self, key: str) -> list[object]:
        value = self._value(key, None)
        if not isinstance(value, list):
            raise ModelError(f"{self.file}: '{key}' should be a list")
        return value

    def _value(self, key: str, default: object) -> object:
        if key in self._fields:
            value: object = self._fields[key].contents()
            return value
        if default is None:
            raise ModelError(f"{self.file} lacks '{key}'")
        return default


def _config(metadata: _Metadata) -> dict[str, object]:
    architecture = metadata.text("general.architecture")
    if architecture != "llama":
        raise ModelError(f"{metadata.file}: architecture '{architecture}' is not handled; only 'llama' is")
    if metadata.text("llama.rope.scaling.type", "none") != "none" or "llama.expert_count" in metadata:
        raise ModelError(f"{metadata.file}: scaled rotary positions and experts are not handled")
    heads = metadata.integer("llama.attention.head_count")
    hidden = metadata.integer("llama.embedding_length")
    if metadata.integer("llama.rope.dimension_count", hidden // heads) != hidden // heads:
        raise ModelError(f"{metadata.file}: rotary positions on a part of each head are not handled")
    config: dict[str, object] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": metadata.integer("llama.feed_forward_length"),
        "num_hidden_layers": metadata.integer("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.integer("llama.attention.head_count_kv", heads),
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rms_norm_eps": metadata.number("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": metadata.number("llama.rope.freq_base", 10000.0),
        "max_position_embeddings": metadata.integer("llama.context_length"),
        "dtype": "float32",
    }
    for token, key in _SPECIAL.items():
        if f"tokenizer.ggml.{key}_token_id" in metadata and token != "unk_token":
            config[f"{token}_id"] = metadata.integer(f"tokenizer.ggml.{key}_token_id")
    return config


def _tensors(reader: GGUFReader, metadata: _Metadata) -> dict[str, NDArray[np.float32]]:
    """Every tensor by its transformers name, dequantised, the rotary rows of queries and keys back in their order."""
    import numpy as np
    from gguf.quants import dequantize

    heads = {
        "attn_q": metadata.integer("llama.attention.head_count"),
        "attn_k": metadata.integer("llama.attention.head_count_kv", metadata.integer("llama.attention.head_count")),
    }
    tensors: dict[str, NDArray[np.float32]] = {}
    for tensor in reader.tensors:
        name, part = _tensor_name(tensor.name, metadata.file)
        try:
            values = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        except NotImplementedError as error:
            raise ModelError(f"{metadata.file}: {tensor.name} is {tensor.tensor_type.name}, not handled") from error
        if part in heads:
            values = values.reshape(heads[part], -1, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        tensors[name] = np.ascontiguousarray(values)
    if "model.embed_tokens.weight" not in tensors:
        raise ModelError(f"{metadata.file} holds no token embeddings")
    return dict(sorted(tensors.items()))


def _tensor_name(name: str, file: str) -> tuple[str, str]:
    """The transformers name of a GGUF tensor, and which part of its layer it is."""
    matched = re.fullmatch(r"(?:blk\.(?P<layer>\d+)\.)?(?P<part>\w+)\.weight", name)
    layer, part = (matched["layer"], matched["part"]) if matched else (None, "")
    known = _OUTER if layer is None else _INNER
    if part not in known:
        raise ModelError(f"{file}: tensor '{name}' is not part of the Llama architecture")
    prefix = "" if layer is None else f"model.layers.{layer}."
    return f"{prefix}{known[part]}.weight", part


def _tokenizer(metadata: _Metadata) -> tuple[dict[str, object], dict[str, object]]:
    """The contents of `tokenizer.json` and `tokenizer_config.json`."""
    kind, split = metadata.text("tokenizer.ggml.model"), metadata.text("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or split not in _PRE_TOKENIZERS:
        raise ModelError(
            f"{metadata.file}: tokenizer '{kind}' with splitting '{split}' is not handled"
            f"{nearest(split, _PRE_TOKENIZERS)}; handled: gpt2 with {', '.join(_PRE_TOKENIZERS)}"
        )
    tokens = metadata.texts("tokenizer.ggml.tokens")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [
        {"id": index, "content": tokens[index], **flags}
        for index, token_type in enumerate(metadata.integers("tokenizer.ggml.token_type"))
        if token_type == _CONTROL
    ]
    if metadata.text("tokenizer.ggml.add_bos_token", "False") == "True":
        raise ModelError(f"{metadata.file}: a tokenizer that adds a start token by itself is not handled")
    merges = [merge.split(" ", 1) for merge in metadata.texts("tokenizer.ggml.merges")]
    model = {"type": "BPE", "byte_fallback": False, "ignore_merges": False, "fuse_unk": False}
    tokenizer: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": _PRE_TOKENIZERS[split],
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": model | {"vocab": {token: index for index, token in enumerate(tokens)}, "merges": merges},
    }
    config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": metadata.integer("llama.context_length"),
        "clean_up_tokenization_spaces": False,
    }
    for token, key in _SPECIAL.items():
        if f"tokenizer.ggml.{key}_token_id" in metadata:
            config[token] = tokens[metadata.integer(f"tokenizer.ggml.{key}_token_id")]
    return tokenizer, config


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
