"""Every kind of problem, with its file, line, key and nearest match."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from toolkit.recipe.schema import RecipeFile

Problems = Callable[..., list[str]]
START = "task: t\nmodel: m\n"
GOOD = START + "strategies: {s: [retrieve], base: []}\n"  # three lines
KEYS = ", ".join(RecipeFile.model_fields)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("seads: [1]", f"seads: unknown key (did you mean 'seeds'?); allowed: {KEYS}"),
        ("xyz: 1", f"xyz: unknown key; allowed: {KEYS}"),
        (
            "decoding: {max_tokens: 3}",
            "decoding.max_tokens: unknown key (did you mean 'max_new_tokens'?); "
            "allowed: max_new_tokens, temperature, top_p, samples, stop",
        ),
        ("limit: three", "limit: must be a whole number, found 'three'"),
        ("limit: '3'", "limit: must be a whole number, found '3'"),
        ("limit: 2.5", "limit: must be a whole number, found 2.5"),
        ("limit: true", "limit: must be a whole number, found true"),
        ("limit: 0", "limit: must be at least 1, found 0"),
        ("margin: wide", "margin: must be a number, found 'wide'"),
        ("margin: 0", "margin: must be more than 0, found 0"),
        ("margin: .inf", "margin: must be a finite number, found inf"),
        ("alpha: 1", "alpha: must be less than 0.5, found 1"),
        ("alpha: .nan", "alpha: must be a finite number, found nan"),
        ("batch_tokens: 255", "batch_tokens: must be at least 256, found 255"),
        ("chunk_examples: 0", "chunk_examples: must be at least 1, found 0"),
        ("timing: {examples: -1}", "timing.examples: must be at least 0, found -1"),
        ("timing: 8", "timing: must be a mapping of keys to values, found 8"),
        ("decoding: {max_new_tokens: 5000}", "decoding.max_new_tokens: must be at most 4096, found 5000"),
        (
            "dtype: flaot32",
            "dtype: must be 'auto', 'float32', 'bfloat16', 'float16' or 'nf4', found 'flaot32' "
            "(did you mean 'float32'?)",
        ),
        (
            "answer_by: liklihood",
            "answer_by: must be 'likelihood' or 'generation', found 'liklihood' (did you mean 'likelihood'?)",
        ),
        (
            "over_length: stopp",
            "over_length: must be 'stop' or 'score_as_error', found 'stopp' (did you mean 'stop'?)",
        ),
        ("template: 3", "template: must be text, found 3"),
        ("embedder: ''", "embedder: must have at least 1 character(s), found ''"),
        ("seeds: []", "seeds: must hold at least 1 item(s), found an empty list"),
        ("seeds: 0", "seeds: must be a list, found 0"),
        ("seeds: [1, 0, 1]", "seeds: must be distinct, found 1 more than once"),
        ("metrics: [f1, f1]", "metrics: must be distinct, found f1 more than once"),
        ("models: {a b: m}", "models.a b: the name 'a b' may hold letters, digits, '_' and '-' only"),
        ("name: a/b", "name: 'a/b' names a folder: it may hold letters, digits, '_', '-' and '.' only"),
        ("baseline: bse", "baseline: there is no strategy 'bse' (did you mean 'base'?); strategies: s, base"),
        ("model: n", "model: this key was given before, in line 2"),
        ("margin: !!python/name:x y", "margin: tags are not allowed, found !!python/name:x"),
        ("margin: !mine {a: 1}", "margin: tags are not allowed, found !mine"),
    ],
)
def test_a_wrong_line_is_told_with_its_number(problems: Problems, line: str, expected: str) -> None:
    assert problems(f"{GOOD}{line}\n") == [f"mine.yaml:4: {expected}"]


SETTINGS = "a strategy may also set model, template, answer_by, decoding"
INSTALLED = "installed: cascade, oracle, prompt, retrieve, tune"


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ("[retreive]", f".0.retreive: unknown adapter 'retreive' (did you mean 'retrieve'?); {INSTALLED}; {SETTINGS}"),
        (
            "[templte: x]",
            f".0.templte: unknown adapter 'templte'; {INSTALLED}; {SETTINGS} (did you mean 'template'?)",
        ),
        (
            "[retrieve: {topk: 3}]",
            ".0.retrieve.topk: unknown key (did you mean 'top_k'?); allowed: top_k, size_tokens",
        ),
        ("[tune, retrieve: {top_k: 0}]", ".1.retrieve.top_k: must be at least 1, found 0"),
        ("[retrieve: 3]", ".0.retrieve: must be a mapping of settings, found 3; settings: top_k, size_tokens"),
        ("[tune: {learning_rate: fast}]", ".0.tune.learning_rate: must be 'auto' or a number, found 'fast'"),
        (
            "[prompt: {select: randm}]",
            ".0.prompt.select: must be 'random', 'balanced' or 'nearest', found 'randm' (did you mean 'random'?)",
        ),
        ("[tune: {modules: [q, 3]}]", ".0.tune.modules.1: must be text, found 3"),
        (
            "[cascade: {first: base, rule: {treshold: 1}}]",
            ".0.cascade.rule.treshold: unknown key (did you mean 'threshold'?); allowed: threshold",
        ),
        ("[cascade]", ".0.cascade.first: is missing"),
        (
            "[cascade: {first: bas}]",
            ": uses the strategy 'bas', which is not there (did you mean 'base'?); strategies: base, s",
        ),
        (
            "[{retrieve: , tune: }]",
            ".0: must be one adapter, as `name` or `name: {settings}`, found a mapping with retrieve, tune",
        ),
        ("[3]", ".0: must be one adapter, as `name` or `name: {settings}`, found 3"),
        ("retrieve", ": must be a list, found 'retrieve'"),
        ("", ": must be a list, found nothing"),
        ("[model: lrge]", ".0.model: 'lrge' is no key of the recipe's `models` (did you mean 'large'?); keys: large"),
        ("[model: ]", ".0.model: must have a value, found nothing"),
        ("[template: a, template: b]", ".1.template: is set twice in this strategy"),
        ("[decoding: {}]", ".0.decoding: must set at least one of max_new_tokens, temperature, top_p, samples, stop"),
        ("[decoding: {max_new_tokens: 0}]", ".0.decoding.max_new_tokens: must be at least 1, found 0"),
        ("[answer_by: magic]", ".0.answer_by: must be 'likelihood' or 'generation', found 'magic'"),
    ],
)
def test_a_wrong_part_is_told_with_its_place(problems: Problems, entries: str, expected: str) -> None:
    text = f"{START}models: {{large: big}}\nstrategies:\n  base: []\n  s: {entries}\n"
    assert problems(text) == [f"mine.yaml:6: strategies.s{expected}"]


def test_a_setting_is_told_with_its_own_line(problems: Problems) -> None:
    text = START + "strategies:\n  s:\n  - retrieve:\n      size_tokens: 32\n      top_k: many\n"
    assert problems(text) == [
        "mine.yaml:7: strategies.s.0.retrieve.top_k: must be a whole number, found 'many'",
    ]


@pytest.mark.parametrize(
    ("contrasts", "expected"),
    [
        ("[{a: s, b: bas}]", ".0.b: there is no strategy 'bas' (did you mean 'base'?); strategies: s, base"),
        ("[{a: s}]", ".0.b: is missing"),
        ("[{a: s, b: s}]", ".0: compares 's' with itself"),
        ("[{a: s, b: base}, {a: base, b: s}]", ".1: the pair 'base', 's' was declared before, as entry 0"),
        (
            "[{a: s, b: base, vary: [model]}]",
            ".0.vary: unknown key (did you mean 'varies'?); allowed: a, b, varies, margin, metric",
        ),
        (
            "[{a: s, b: base, varies: [modle]}]",
            ".0.varies.0: must be 'model', 'dtype', 'decoding', 'answer_by' or 'template', "
            "found 'modle' (did you mean 'model'?)",
        ),
    ],
)
def test_a_wrong_contrast_is_told(problems: Problems, contrasts: str, expected: str) -> None:
    assert problems(f"{GOOD}contrasts: {contrasts}\n") == [f"mine.yaml:4: contrasts{expected}"]


def test_all_problems_are_told_at_once_in_the_order_of_lines(problems: Problems) -> None:
    text = """
        task: t
        modle: m
        seeds: [0, 0]
        strategies:
          base: []
          rag: [retrieve: {topk: 3}]
          lora: [tun]
        baseline: bas
        """
    assert [problem.split(": ")[:2] for problem in problems(text, "limit=x")] == [
        ["mine.yaml:2", "modle"],
        ["mine.yaml:3", "seeds"],
        ["mine.yaml:6", "strategies.rag.0.retrieve.topk"],
        ["mine.yaml:7", "strategies.lora.0.tun"],
        ["mine.yaml:8", "baseline"],
        ["override 'limit=x'", "limit"],
    ]


def test_missing_keys_are_told_where_they_should_stand(problems: Problems) -> None:
    assert problems("# nothing\nlimit: 3\n") == [
        "mine.yaml:2: task: is missing",
        "mine.yaml:2: model: is missing",
        "mine.yaml:2: strategies: is missing",
    ]


def test_no_strategies_are_refused(problems: Problems) -> None:
    assert problems(START + "strategies: {}\n") == [
        "mine.yaml:3: strategies: must hold at least 1 item(s), found an empty mapping"
    ]
    assert problems(START + "strategies: [s]\n") == [
        "mine.yaml:3: strategies: must be a mapping of keys to values, found a list of 1"
    ]


def test_a_bad_inline_task_is_told_by_its_own_keys(problems: Problems) -> None:
    text = """
        task:
          name: own
          kind: text
          data:
            files: rows.csv
            spilt: x
          columns: {inputs: {q: q}, target: a}
        model: m
        strategies: {s: []}
        """
    assert problems(text) == [
        "mine.yaml:6: task.data.spilt: unknown key (did you mean 'split'?); "
        "allowed: hub, revision, config, split, files"
    ]
    assert problems(START.replace("t\n", "[t]\n") + "strategies: {s: []}\n") == [
        "mine.yaml:1: task: must be text or a mapping of keys to values, found a list of 1"
    ]


def test_a_circle_of_uses_is_told(problems: Problems) -> None:
    text = START + "baseline: x\nstrategies:\n  x: [cascade: {first: y}]\n  y: [cascade: {first: x}]\n"
    assert problems(text) == ["mine.yaml:4: strategies: strategies use each other in a circle: x -> y -> x"]


def test_a_strategy_that_uses_a_broken_one_is_not_blamed(problems: Problems) -> None:
    text = START + "strategies:\n  base: []\n  x: [cascade: {first: y}]\n  y: [tun]\n"
    assert [problem.split(": ")[0] for problem in problems(text)] == ["mine.yaml:6"]


@pytest.mark.parametrize("entries", ["[retrieve]", "[model: large]"])
def test_without_an_empty_list_a_baseline_or_contrasts_must_be_named(problems: Problems, entries: str) -> None:
    text = f"{START}models: {{large: big}}\nstrategies: {{a: {entries}, b: [tune]}}\n"
    assert problems(text) == [
        "mine.yaml:1: baseline: is missing, and no single strategy has an empty list: "
        "name one of a, b, or declare `contrasts`"
    ]


def test_two_empty_lists_do_not_choose_a_baseline(problems: Problems) -> None:
    assert len(problems(START + "strategies: {a: [], b: []}\n")) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("task: t\nmodel: [m\n", "mine.yaml:3: this is not valid YAML: "),
        ("task: t\nmodel: 'm\n", "mine.yaml:3: this is not valid YAML: "),
        ("", "mine.yaml:1: must be a mapping of keys to values, found nothing; keys: name, "),
        ("\n- a\n", "mine.yaml:1: must be a mapping of keys to values, found a list of 1; keys: name, "),
        ("task: &a [*a]\n", "mine.yaml:1: task.0: an alias (*) stands inside what it refers to"),
        ("[a]: 3\n", "mine.yaml:1: a key must be a single word, found a list or a mapping"),
    ],
)
def test_what_is_no_recipe_at_all_is_told(problems: Problems, text: str, expected: str) -> None:
    assert any(problem.startswith(expected) for problem in problems(text)), problems(text)


def test_a_duplicate_key_deep_in_a_recipe_is_told(problems: Problems) -> None:
    text = START + "strategies:\n  s: [retrieve: {top_k: 3, top_k: 4}]\n  s: []\n"
    assert problems(text) == [
        "mine.yaml:4: strategies.s.0.retrieve.top_k: this key was given before, in line 4",
        "mine.yaml:5: strategies.s: this key was given before, in line 4",
    ]
