"""The Python that a model card shows: it loads what was handed over and asks it with the very prompt of the run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from toolkit.models.base import Base
from toolkit.models.four_bit import NF4, asked_dtype


def loading_code(base: Base, merged: bool, asked: Mapping[str, Any] | None) -> str:
    """A whole script, to be run in the folder of the card.

    Args:
        asked: as in `prompt.json`; None, or without a `text`, only loads.
    """
    lines = list(_merged() if merged else _adapter(base))
    if asked is not None and asked["text"] is not None:
        lines += ["", *_asking(asked)]
    return "\n".join(lines)


def _merged() -> Iterator[str]:
    yield "from transformers import AutoModelForCausalLM, AutoTokenizer"
    yield ""
    yield 'folder = "."  # where this card lies'
    yield "tokenizer = AutoTokenizer.from_pretrained(folder)"
    yield 'model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()'


def _adapter(base: Base) -> Iterator[str]:
    at = ", revision=revision" if base.revision else ""
    yield "from peft import PeftModel"
    more = ", BitsAndBytesConfig" if asked_dtype(base.dtype) == NF4 else ""
    yield f"from transformers import AutoModelForCausalLM, AutoTokenizer{more}"
    if base.shipped and not base.revision:
        yield "from toolkit.models import fetch_weights, resolve"
    yield ""
    yield 'folder = "."  # where this card lies'
    if base.revision:
        yield f"base, revision = {_text(base.published or '')}, {_text(base.revision)}"
    elif base.shipped:
        yield f'base = fetch_weights(resolve({_text(base.name)}, "model")).folder  # the very weights that were tuned'
    else:
        yield f"base = {_text(base.name)}  # the folder of the base's weights"
    yield f"tokenizer = AutoTokenizer.from_pretrained(base{at})"
    dtype, quantised = _text(base.dtype.partition(",")[0]), asked_dtype(base.dtype) == NF4
    if quantised:
        kind = f'load_in_4bit=True, bnb_4bit_quant_type="{NF4}", bnb_4bit_use_double_quant=True'
        yield f"in_4_bits = BitsAndBytesConfig({kind}, bnb_4bit_compute_dtype={dtype})"
    how = f"dtype={dtype}" + (", quantization_config=in_4_bits" if quantised else "")
    yield f"model = AutoModelForCausalLM.from_pretrained(base{at}, {how})"
    yield "model = PeftModel.from_pretrained(model, folder).eval()"


def _asking(asked: Mapping[str, Any]) -> Iterator[str]:
    stops = list(asked["stop_ids"])
    yield "prompt = ("
    yield from (f"    {_text(line)}" for line in str(asked["text"]).splitlines(keepends=True))
    yield ")"
    for name in asked["inputs"]:
        yield f"prompt = prompt.replace({_text('{' + name + '}')}, {_text('your ' + name)})"
    yield 'ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")'
    how = f"do_sample=False, max_new_tokens={asked['max_new_tokens']}, eos_token_id={stops}"
    yield f"said = model.generate(**ids, {how}, pad_token_id={stops[0]})"
    yield 'print(tokenizer.decode(said[0, ids["input_ids"].shape[1]:], skip_special_tokens=True).strip())'


def _text(value: str) -> str:
    """As a Python literal, in double quotes."""
    return json.dumps(value, ensure_ascii=False)
