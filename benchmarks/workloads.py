"""What the benchmarks work on: banking77 and XQuAD as texts, the same for both sides.

Texts only: each side makes its own token ids where that is part of what is timed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from measure import ROOT

DESCRIPTION = "Predict the intent of the utterance.\n\n"
SHOTS = 8

Asked = dict[str, Any]
"""A choice to score: `context`, `choices` (each with its leading space), `gold`."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """A JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def card_labels(count: int) -> list[str]:
    """The first labels of the recipe that keeps twenty of banking77's."""
    from ruamel.yaml import YAML

    recipe = YAML(typ="safe").load(ROOT / "recipes" / "own_data" / "banking77.yaml")
    return [str(label) for label in recipe["task"]["keep"]["category"][:count]]


def banking_splits(
    data: Path, labels: Sequence[str], messages: int, shots: int = SHOTS
) -> tuple[list[Asked], list[Asked]]:
    """The fixed demonstrations and a fixed draw of test messages, as rows {text, choices, label} of lm-eval's task."""
    written = [label.replace("_", " ") for label in labels]

    def kept(split: str) -> list[Asked]:
        rows = read_rows(data / "banking77" / f"{split}.jsonl")
        return [
            {"text": row["text"], "choices": written, "label": labels.index(row["category"])}
            for row in rows
            if row["category"] in labels
        ]

    asked = kept("test")
    random.Random(0).shuffle(asked)
    return kept("train")[:shots], asked[:messages]


def banking_choices(data: Path, labels: Sequence[str], messages: int, shots: int = SHOTS) -> list[Asked]:
    """Few-shot prompts over `banking_splits`."""
    return few_shot_choices(*banking_splits(data, labels, messages, shots))


def few_shot_choices(shown: Sequence[Asked], asked: Sequence[Asked]) -> list[Asked]:
    """Few-shot prompts, as lm-eval writes them for its task in `choice_process.py`: no chat template, no stop token."""
    said = "".join(f"Utterance: {row['text']}\nIntent: {row['choices'][row['label']]}\n\n" for row in shown)
    return [
        {
            "context": f"{DESCRIPTION}{said}Utterance: {row['text']}\nIntent:",
            "choices": [f" {choice}" for choice in row["choices"]],
            "gold": row["label"],
        }
        for row in asked
    ]


def reading_pairs(data: Path) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Questions in a fixed order, each with its own paragraph and one of another article; which is first is drawn."""
    folder = data / "xquad_en"
    documents = {row["id"]: row for row in read_rows(folder / "documents.jsonl")}
    draw = random.Random(0)
    questions = read_rows(folder / "questions.jsonl")
    draw.shuffle(questions)
    names = sorted(documents)
    for question in questions:
        other = documents[draw.choice(names)]
        while other["article"] == question["article"]:
            other = documents[draw.choice(names)]
        passages = [documents[question["document"]]["text"], other["text"]]
        draw.shuffle(passages)
        yield question, passages[0], passages[1]


def reading_choices(data: Path, count: int, choices: int = 8) -> list[Asked]:
    """Two passages and a question nobody else shares; the choices are its answer and answers to other questions."""
    pairs = list(reading_pairs(data))
    answers = sorted({question["answers"][0] for question, _, _ in pairs})
    draw = random.Random(1)
    asked = []
    for question, first, second in pairs[:count]:
        gold = question["answers"][0]
        offered = [gold, *draw.sample([answer for answer in answers if answer != gold], choices - 1)]
        draw.shuffle(offered)
        asked.append(
            {
                "context": f"Passage: {first}\n\nPassage: {second}\n\nQuestion: {question['question']}\nAnswer:",
                "choices": [f" {answer}" for answer in offered],
                "gold": offered.index(gold),
            }
        )
    return asked


def reading_chats(data: Path) -> Iterator[list[dict[str, str]]]:
    """Two passages and a question as a conversation."""
    for question, first, second in reading_pairs(data):
        said = f"Passage 1: {first}\n\nPassage 2: {second}\n\nQuestion: {question['question']}"
        yield [{"role": "system", "content": READING}, {"role": "user", "content": said}]


READING = "Answer the question from the passages, in a few words."
SHARED = "Answer the question in a few words."


def shared_chats(data: Path, count: int) -> list[list[dict[str, str]]]:
    """Eight demonstrations all share, paragraph, question and answer each, then a short question."""
    folder = data / "xquad_en"
    documents = {row["id"]: row["text"] for row in read_rows(folder / "documents.jsonl")}
    questions = read_rows(folder / "questions.jsonl")
    shown = [{"role": "system", "content": SHARED}]
    taken: set[int] = set()
    for row in questions:
        paragraph = documents[row["document"]]
        if len(taken) == SHOTS or row["article"] in taken or not 450 <= len(paragraph) <= 700:
            continue
        taken.add(row["article"])
        shown.append({"role": "user", "content": f"{paragraph}\n\nQuestion: {row['question']}"})
        shown.append({"role": "assistant", "content": row["answers"][0]})
    asked = [row["question"] for row in questions if row["article"] not in taken and len(row["question"]) <= 60]
    return [[*shown, {"role": "user", "content": f"Question: {question}"}] for question in asked[:count]]


def training_reading(data: Path, count: int) -> list[dict[str, str]]:
    """A passage, a question and its answer of a few tokens, as {prompt, completion}."""
    folder = data / "xquad_en"
    documents = {row["id"]: row["text"] for row in read_rows(folder / "documents.jsonl")}
    questions = read_rows(folder / "questions.jsonl")
    random.Random(0).shuffle(questions)
    return [
        {
            "prompt": f"Passage: {documents[row['document']]}\n\nQuestion: {row['question']}\nAnswer:",
            "completion": f" {row['answers'][0]}",
        }
        for row in questions[:count]
    ]


def training_short(data: Path, count: int) -> list[dict[str, str]]:
    """A message and its label, any of the 77, as {prompt, completion}."""
    messages = read_rows(data / "banking77" / "train.jsonl")
    random.Random(0).shuffle(messages)
    return [
        {"prompt": f"Utterance: {row['text']}\nIntent:", "completion": f" {row['category'].replace('_', ' ')}"}
        for row in messages[:count]
    ]


def training_chats(data: Path, count: int) -> list[list[dict[str, str]]]:
    """Three turns each: a message that is sorted, then two questions answered with a whole paragraph.

    The paragraphs are the assistant's, so that most tokens are supervised.
    """
    folder = data / "xquad_en"
    documents = {row["id"]: row["text"] for row in read_rows(folder / "documents.jsonl")}
    questions = [row for row in read_rows(folder / "questions.jsonl") if len(documents[row["document"]]) <= 900]
    random.Random(0).shuffle(questions)
    chats = []
    for number, short in enumerate(training_short(data, count)):
        asked, label = short["prompt"].removesuffix("\nIntent:"), short["completion"].strip()
        turns = [(f"What is this about? {asked}", f"This is about: {label}.")]
        turns += [(row["question"], documents[row["document"]]) for row in questions[2 * number : 2 * number + 2]]
        said = [(("user", question), ("assistant", answer)) for question, answer in turns]
        chats.append([{"role": role, "content": text} for turn in said for role, text in turn])
    return chats
