"""Renderer: the only place where messages become token ids. Training and inference use the same object."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from toolkit.errors import DataError
from toolkit.rendering.chat import Chat
from toolkit.rendering.draft import Draft
from toolkit.rendering.prompt import Prompt, TrainingSequence
from toolkit.rendering.raw_text import text_windows
from toolkit.tasks.contract import AnswerContract, Reading
from toolkit.tasks.messages import Message

KEPT_PROMPTS, KEPT_CHOICES = 256, 8192
"""Token ids of the last ones. A prompt's are asked for when it is fitted to the context, sent, and counted by origin,
a chunk of examples at a time; a choice's by every example."""


class Renderer:
    """Messages to token ids and back.

    Args:
        tokenizer: a transformers tokeniser, or None for a hosted model that takes messages as they are.
        ends: further tokens that end an answer: a model's generation configuration may list some.
    """

    def __init__(self, tokenizer: Any | None, ends: Collection[int] = ()) -> None:
        self.tokenizer = tokenizer
        self._ends = frozenset(ends)
        self.chat = None if tokenizer is None else Chat(tokenizer)
        self.stop: tuple[int, ...] = () if self.chat is None else self.chat.stop_ids()
        self._opening = lru_cache(KEPT_PROMPTS)(self._opening_ids)
        self._choice = lru_cache(KEPT_CHOICES)(self._choice_ids)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Every token that ends an answer: the turn's end, EOS, and the model's further ones."""
        eos = getattr(self.tokenizer, "eos_token_id", None)
        return frozenset(self.stop) | self._ends | (frozenset() if eos is None else {int(eos)})

    def control_ids(self, texts: Sequence[str]) -> frozenset[int]:
        """The ids of those of some texts that are a control token's spelling, which no decoded text has in it."""
        tokenizer: Any = self.tokenizer
        control = getattr(tokenizer, "all_special_tokens", ())
        return frozenset(int(tokenizer.convert_tokens_to_ids(text)) for text in texts if text in control)

    @property
    def bos(self) -> int | None:
        """The token that opens a text, where the tokeniser has one."""
        bos = getattr(self.tokenizer, "bos_token_id", None)
        return None if bos is None else int(bos)

    def prompt(self, draft: Draft) -> Prompt:
        """What is sent for a draft, with its tokens by origin."""
        return self._sent(draft.messages(), lambda tokens: self._origins(draft, tokens))

    def chat_prompt(self, messages: Sequence[Message]) -> Prompt:
        """What is sent for messages as they stand, without a task or a template.

        Raises:
            DataError: there is nothing that an answer could follow.
        """
        if not messages or messages[-1].role == "assistant":
            raise DataError("a prompt ends with a message that is not the assistant's")
        return self._sent(tuple(messages), lambda tokens: {"question": tokens})

    def length(self, draft: Draft) -> int:
        """Tokens of the draft's prompt; 0 for a hosted model."""
        return 0 if self.chat is None else len(self._opening(draft.messages()))

    def training_sequence(self, draft: Draft, answer: str) -> TrainingSequence:
        """Prompt ids + ids of the answer's text + stop, concatenated, never re-rendered."""
        opening = self._opening(draft.messages())
        return _taught(opening, [*self._local.encode(answer), *self.stop])

    def training_sequences(self, conversations: Sequence[Sequence[Message]]) -> list[TrainingSequence]:
        """What is learnt from conversations: the assistant messages marked `supervise`, each with its stop.

        A conversation gives one sequence; where the chat template rewrites earlier turns, one a supervised turn:
        `sequences_by_conversation` says which.

        Raises:
            DataError: a conversation supervises no message, or one that is not the assistant's.
        """
        return [sequence for found in self.sequences_by_conversation(conversations) for sequence in found]

    def sequences_by_conversation(
        self, conversations: Sequence[Sequence[Message]]
    ) -> list[tuple[TrainingSequence, ...]]:
        """The training sequences of each conversation, so that those it was split into can be counted.

        An answer's opening is exactly what is sent when it is asked for. Some chat templates write earlier turns
        differently later on (thinking is left out, white space trimmed): no single sequence then holds every opening,
        and each supervised turn becomes a sequence of its own, in which only that turn is learnt.

        Raises:
            DataError: as `training_sequences`.
        """
        return [self._conversation(list(messages), number) for number, messages in enumerate(conversations, start=1)]

    def text_sequences(self, texts: Sequence[str], length_tokens: int) -> list[TrainingSequence]:
        """Raw texts, documents say, to go on pretraining with: every token is learnt once, from what stands before it.

        A text's ids are those of its plain text, BOS before them where the tokeniser opens texts with one, EOS behind
        them. They are cut into as few windows of at most `length_tokens` as possible, all as long as each other to one
        token; no window holds two texts. Each begins with the last token of the one before, unlearnt: it is what the
        first learnt token is predicted from, as BOS or else the text's own first token is in a first window.

        Args:
            length_tokens: of a window, at least 16; the model's context at most.

        Raises:
            DataError: there are no texts; a text holds nothing to learn; windows are shorter than 16 tokens.
        """
        return list(self.text_windows(texts, length_tokens))

    def text_windows(self, texts: Iterable[str], length_tokens: int) -> Iterator[TrainingSequence]:
        """`text_sequences` one by one, for more of them than memory holds.

        Raises:
            DataError: as `text_sequences`; what texts hold nothing to learn is told at the end.
        """
        return text_windows(self._local, texts, length_tokens)

    def continuations(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Ids of each choice's text with the stop token, so that a choice is never a prefix of another."""
        return [self._choice(text) for text in texts]

    def count(self, text: str) -> int:
        """Tokens of a plain text."""
        return len(self._local.encode(text))

    def text(self, token_ids: Sequence[int], stop: Sequence[str] = ()) -> str:
        """The text of generated ids, control tokens left out, up to the first of the stop texts."""
        said = self.decode(token_ids)
        ends = [place for place in map(said.find, stop) if place >= 0]
        return said[: min(ends)].strip() if ends else said.strip()

    def decode(self, token_ids: Sequence[int]) -> str:
        """Generated ids as they stand, white space included, control tokens left out."""
        if self.tokenizer is None:
            raise DataError("a hosted model answers with text: there are no token ids to decode")
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def parse(self, text: str, contract: AnswerContract) -> Reading:
        """The answer a text gives, ABSTAIN or UNPARSABLE."""
        return contract.read(text)

    @property
    def _local(self) -> Chat:
        if self.chat is None:
            raise DataError("a hosted model has no token ids: it can neither be trained here nor score choices")
        return self.chat

    def _sent(self, messages: tuple[Message, ...], origins: Callable[[int], dict[str, int]]) -> Prompt:
        if self.chat is None:
            said = json.dumps([[message.role, message.content] for message in messages], ensure_ascii=False)
            return Prompt(messages, None, {}, hashlib.sha256(said.encode()).hexdigest())
        ids = self._opening(messages)
        return Prompt(messages, ids, origins(len(ids)), ids_digest(ids))

    def _opening_ids(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        return tuple(self._local.token_ids(messages, opens_answer=True))

    def _choice_ids(self, text: str) -> tuple[int, ...]:
        return (*self._local.encode(text), *self.stop)

    def _origins(self, draft: Draft, total: int) -> dict[str, int]:
        asked = replace(draft, turns=())
        whole = self.length(asked) if draft.turns else total
        bare = asked.without_passages()
        shown = self.length(bare) if draft.passages else whole
        question = self.length(bare.without_demonstrations()) if draft.demonstrations else shown
        origins = {"question": question, "demonstrations": shown - question, "passages": whole - shown}
        return {**origins, "turns": total - whole} if draft.turns else origins

    def _conversation(self, messages: list[Message], number: int) -> tuple[TrainingSequence, ...]:
        turns = []
        for position, message in enumerate(messages):
            if not message.supervise:
                continue
            if message.role != "assistant":
                raise DataError(f"conversation {number}: only assistant messages can be supervised")
            opening = self._local.token_ids(messages[:position], opens_answer=True)
            turns.append(_taught(opening, [*self._local.encode(message.content), *self.stop]))
        if not turns:
            raise DataError(f"conversation {number}: no message has `supervise=True`, so nothing would be learnt")
        whole = turns[0]
        for turn in turns[1:]:
            said = len(whole.token_ids)
            if turn.token_ids[:said] != whole.token_ids:
                return tuple(turns)
            whole = TrainingSequence(turn.token_ids, whole.supervised + turn.supervised[said:])
        return (whole,)


def _taught(opening: Sequence[int], answer: Sequence[int]) -> TrainingSequence:
    """A prompt's ids and then the answer's, which alone are supervised."""
    return TrainingSequence((*opening, *answer), (False,) * len(opening) + (True,) * len(answer))


def ids_digest(token_ids: Sequence[int]) -> str:
    """sha256 over token ids."""
    return hashlib.sha256(",".join(map(str, token_ids)).encode()).hexdigest()
