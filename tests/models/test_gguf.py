from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from toolkit.errors import ModelError
from toolkit.models.gguf import convert
from toolkit.models.weights import weights_digest


@pytest.mark.parametrize("tied", [True, False])
def test_every_tensor_is_bitwise_what_transformers_reads_from_the_same_file(
    gguf_file: Callable[..., Path], tmp_path: Path, tied: bool
) -> None:
    file = gguf_file(tied=tied)
    convert(file, tmp_path / "out")
    ours, found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    expected, actual = theirs.state_dict(), ours.state_dict()
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    assert (ours.lm_head.weight.data_ptr() == ours.model.embed_tokens.weight.data_ptr()) == tied
    ids = torch.tensor([[5, 9, 30, 7]])
    assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_a_model_saved_again_from_the_folder_reloads_equal(gguf_file: Callable[..., Path], tmp_path: Path) -> None:
    convert(gguf_file(), tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_numbered_lists_are_split_before_each_digit_as_llama_cpp_does(
    gguf_file: Callable[..., Path], tmp_path: Path
) -> None:
    convert(gguf_file("smollm"), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.tokenize("a\n\n1.") == ["a", "ĊĊ", "1", "."]
    assert tokenizer.tokenize("12 the") == ["1", "2", "Ġthe"]


def test_without_the_smollm_splitting_digits_stay_together(gguf_file: Callable[..., Path], tmp_path: Path) -> None:
    convert(gguf_file("gpt-2"), tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").tokenize("12") == ["12"]


def test_the_tokenizer_carries_template_and_special_tokens(gguf_file: Callable[..., Path], tmp_path: Path) -> None:
    convert(gguf_file(), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)
    assert tokenizer.model_max_length == 128
    text = tokenizer.apply_chat_template([{"role": "user", "content": "é1"}], tokenize=False)
    assert text == "<|im_start|>user\né1<|im_end|>\n"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == 1
    assert ids.count(2) == 1
    assert tokenizer.decode(ids) == text


def test_the_same_file_gives_the_same_bytes(gguf_file: Callable[..., Path], tmp_path: Path) -> None:
    file = gguf_file()
    convert(file, tmp_path / "a")
    convert(file, tmp_path / "b")
    assert weights_digest(tmp_path / "a") == weights_digest(tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pre": "smolm"}, "did you mean 'smollm'"),
        ({"architecture": "gemma"}, "architecture 'gemma' is not handled"),
        ({"extra_tensor": "blk.0.attn_q.bias"}, "'blk.0.attn_q.bias' is not part of"),
        ({"extra_tensor": "rope_freqs.weight"}, "'rope_freqs.weight' is not part of"),
    ],
)
def test_what_is_not_known_is_refused(
    gguf_file: Callable[..., Path], tmp_path: Path, change: dict[str, str], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        convert(gguf_file(**change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_gguf_is_named(tmp_path: Path) -> None:
    file = tmp_path / "no.gguf"
    file.write_bytes(b"0" * 64)
    with pytest.raises(ModelError, match=r"no\.gguf is not a readable GGUF"):
        convert(file, tmp_path / "out")
