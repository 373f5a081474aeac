"""Templates: what they may name and do, and what is refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import DataError
from toolkit.rendering import Passage, Template
from toolkit.rendering.template import check_inputs

VALUES: dict[str, Any] = {"inputs": {"question": "Why?", "items": ["a", "b"]}, "labels": ("yes", "no")}


def with_user(user: str) -> Template:
    return Template("t", "{{ instruction }}", "", user)


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__ }}",
        "{{ inputs.__class__.__mro__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ inputs.items.__func__ }}",
        "{{ inputs['question'].__init__.__globals__ }}",
        "{{ ('%s' | attr('__class__')) }}",
        "{{ '{0.__class__}'.format(inputs) }}",
        "{{ inputs.update({'question': 'other'}) }}",
        "{{ inputs['items'].append('c') }}",
        "{{ self.__init__ }}",
    ],
)
def test_a_template_cannot_reach_python_nor_change_the_data(text: str) -> None:
    inputs = {"question": "Why?", "items": ["a", "b"]}
    with pytest.raises(DataError, match="template 't', user"):
        with_user(text).render("user", {"inputs": inputs, "labels": ()})
    assert inputs == {"question": "Why?", "items": ["a", "b"]}


@pytest.mark.parametrize(
    "text", ["{{ 1 / 0 }}", "{{ inputs.question + 1 }}", "{{ inputs.question | round }}", "{% include 'x' %}"]
)
def test_a_text_that_fails_while_rendering_names_template_and_part(text: str) -> None:
    with pytest.raises(DataError, match="template 't', user"):
        with_user(text).render("user", VALUES)


@pytest.mark.parametrize("text", ["{{ inputs.answer }}", "{{ inputs['answer'] }}", "{{ inputs.question.nothing }}"])
def test_a_value_that_is_not_there_is_an_error_not_an_empty_text(text: str) -> None:
    with pytest.raises(DataError, match="template 't', user"):
        with_user(text).render("user", VALUES)


def test_missing_inputs_are_found_before_any_model_call() -> None:
    check_inputs(with_user("{{ inputs.question }}"), {"question": "why"})
    with pytest.raises(DataError, match="title"):
        check_inputs(with_user("{{ inputs.title }}"), {"question": "why"})


@pytest.mark.parametrize("part", ["system", "user"])
@pytest.mark.parametrize(
    "text", ["{{ passages }}", "{% if passages %}x{% endif %}", "{% for p in passages %}{% endfor %}"]
)
def test_passages_may_be_named_in_their_own_slot_only(part: str, text: str) -> None:
    texts = {"system": "s", "passages": "", "user": "u", part: text}
    with pytest.raises(DataError, match=f"{part}: 'passages' is not available here; allowed: "):
        Template("t", **texts)


@pytest.mark.parametrize(
    ("part", "text", "hint"),
    [
        ("user", "{{ input.question }}", "did you mean 'inputs'"),
        ("user", "{{ target }}", "'target' is not available here; allowed: inputs, labels"),
        ("system", "{{ inputs.question }}", "'inputs' is not available here; allowed: instruction, labels"),
        ("user", "{{ lipsum() }}", "'lipsum' is not available here"),
    ],
)
def test_names_a_text_may_not_see_are_refused_when_it_is_read(part: str, text: str, hint: str) -> None:
    with pytest.raises(DataError) as caught:
        Template("t", **{"system": "s", "passages": "", "user": "u", part: text})
    assert hint in str(caught.value)


def test_nothing_random_is_available() -> None:
    with pytest.raises(DataError, match="random"):
        with_user("{{ labels | random }}")


@pytest.mark.parametrize(
    "text", ["{{ inputs.question ", "{% for x in inputs %}", "{{ inputs.question | nosuchfilter }}"]
)
def test_broken_texts_are_refused_when_they_are_read_with_their_line(text: str) -> None:
    with pytest.raises(DataError, match="template 't', user, line 2"):
        with_user(f"first line\n{text}")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{% for x in inputs['items'] %}{{ loop.index }}{{ x }} {% endfor %}", "1a 2b "),
        ("{{ inputs.question | upper }}", "WHY?"),
        ("{{ labels | join(', ') }}", "yes, no"),
        ("{% for name, value in inputs.items() %}{{ name | capitalize }};{% endfor %}", "Question;Items;"),
        ("{% set n = labels | length %}{{ n }}", "2"),
        ("{% if inputs.title is defined %}x{% else %}none{% endif %}", "none"),
        ("{{ inputs.title | default('untitled') }}", "untitled"),
        ("{{ inputs['items'] | tojson }}", '["a", "b"]'),
        ("{{ inputs.question[:2] }}", "Wh"),
        ("{% for i in range(3) %}{{ i }}{% endfor %}", "012"),
    ],
)
def test_ordinary_templates_work(text: str, wanted: str) -> None:
    assert with_user(text).render("user", VALUES) == wanted


def test_data_is_never_taken_for_a_template() -> None:
    text = with_user("{{ inputs.question }}").render(
        "user", {"inputs": {"question": "{{ 7 * 7 }}{% x %}"}, "labels": ()}
    )
    assert text == "{{ 7 * 7 }}{% x %}"


def test_the_passages_slot_sees_passages_and_inputs() -> None:
    template = Template(
        "t", "s", "{% for p in passages %}{{ p.rank }}:{{ p.text }}/{{ inputs.question }} {% endfor %}", "u"
    )
    passages = [Passage("d", 0, 1, "a"), Passage("d", 1, 2, "b", rank=2)]
    assert template.render("passages", {"passages": passages, "inputs": VALUES["inputs"]}) == "1:a/Why? 2:b/Why? "


def test_a_template_file_is_read_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nsystem: s\npassages: ''\nuser: '{{ inputs.q }}'\n", encoding="utf-8")
    assert Template.load(str(path)) == Template("mine", "s", "", "{{ inputs.q }}")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: x\nsystem: s\npassages: ''\nuser: u\nusr: u\n", "usr"),
        ("name: x\nsystem: s\nuser: u\n", "passages"),
        ("name: [x\n", "not valid YAML"),
        ("", "allowed keys"),
        ("name: x\nsystem: !!python/object:os.system {}\npassages: ''\nuser: u\n", "not valid YAML"),
    ],
)
def test_a_wrong_template_file_is_refused_with_its_path(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=reason) as caught:
        Template.load(str(path))
    assert "mine.yaml" in str(caught.value)


def test_the_digest_follows_the_texts_not_the_name() -> None:
    assert Template("a", "s", "", "u").digest == Template("b", "s", "", "u").digest
    assert Template("a", "s", "", "u").digest != Template("a", "s", "u", "").digest


def test_a_template_that_walks_an_input_is_tried_with_a_row_of_the_data() -> None:
    inputs = {"turns": [{"role": "user", "text": "hello"}], "price": 2.5}
    walking = (
        "{% for turn in inputs.turns %}{{ turn.role }}: {{ turn.text }}{% endfor %}{{ '%.1f' | format(inputs.price) }}"
    )
    check_inputs(with_user(walking + "{{ labels[0] }}"), inputs, ("yes", "no"))
    with pytest.raises(DataError, match="text"):
        check_inputs(with_user(walking), {**inputs, "turns": [{"role": "user"}]}, ())
