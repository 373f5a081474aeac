"""How much memory a pass takes beside weights and their state: what it keeps for its backward pass, and what passes.

What is kept is known to the byte (`FusedStep.kept_bytes`) or asked of autograd (`saved.growth`); what is made and freed
again within a layer, or by the head, is added up here by shapes. A test holds it to what torch's allocator counts.
Letters: N tokens, M predicting ones, D hidden, I inside the MLP, A all queries' width, K all keys', V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning.amounts import supervised_count
from toolkit.tuning.steps.loss import HEAD_ROWS
from toolkit.tuning.steps.packing import Scores, packed_size, scores_of
from toolkit.tuning.steps.saved import Growth

INDEX_BYTES, WIDE_BYTES = 8, 4

HOLES_OF_PASSING = 0.5
HOLES_OF_KEPT, HOLES_OF_KEPT_BY_DORA = 0.18, 0.47
HOLES_OF_LAYER, HOLES_OF_LAYER_BY_DORA = 1.1, 2.2
"""Of a CPU's heap, in which what passes leaves holes that nothing fits into: measured with glibc, SmolLM2-135M, passes
of 1,024 and 4,096 tokens. What autograd keeps lies elsewhere, but its nodes do not, and they part the holes. By what a
whole pass keeps, and by what one layer does that is run again."""

DORA_COPIES = 6
"""Of a weight in fp32, alive at once while DoRA measures it: counted with torch's profiler."""


class PassMemory(NamedTuple):
    """Bytes of one pass: kept from its forward to its backward pass, the most that passes beside, and a CPU's holes."""

    kept: int
    passing: int
    holes: int


@dataclass(frozen=True)
class PassSize:
    """What of a pass decides how much passes.

    Attributes:
        tokens: N, padding included.
        predicting: M.
        scores: of its attention.
    """

    tokens: int
    predicting: int
    scores: Scores


class StockPass(NamedTuple):
    """A pass through the stock model: its size, the tokens of its rows, and of how many there are logits at once.

    `logits` is 0 where the head is frozen and plain, and computes a chunk of rows at a time.
    """

    size: PassSize
    rows: Sequence[int]
    logits: int


@dataclass(frozen=True)
class Widths:
    """What of a model decides it.

    Attributes:
        item: bytes of a number of its states, in the model's dtype where nobody says otherwise.
        hidden, inner, queries, keys, words: D, I, A, K, V.
        heads: key-value heads, and query heads on each.
        layers: how many there are.
    """

    item: int
    hidden: int
    inner: int
    queries: int
    keys: int
    words: int
    heads: tuple[int, int]
    layers: int


def widths_of(module: Any) -> Widths:
    """By its configuration and its largest weight in a layer, which is that of the MLP."""
    config = module.config.get_text_config()
    count = getattr(config, "num_attention_heads", None) or 1  # recurrent models have none
    kinds = getattr(config, "num_key_value_heads", None) or count
    size = getattr(config, "head_dim", None) or config.hidden_size // count
    words = module.get_input_embeddings().weight
    outside = {id(words), *(id(one) for one in module.get_output_embeddings().parameters())}
    sides = [max(one.shape) for one in module.parameters() if one.dim() == 2 and id(one) not in outside]
    return Widths(
        item=words.dtype.itemsize,
        hidden=config.hidden_size,
        inner=getattr(config, "intermediate_size", None) or max(sides),
        queries=count * size,
        keys=kinds * size,
        words=words.shape[0],
        heads=(kinds, count // kinds),
        layers=config.num_hidden_layers,
    )


def packed_pass(sequences: Sequence[TrainingSequence], share: bool) -> PassSize:
    """Of a pass without padding."""
    predicting = sum(map(supervised_count, sequences))
    return PassSize(packed_size(sequences, share), predicting, scores_of(sequences, share))


def padded_pass(sequences: Sequence[TrainingSequence], scores: bool) -> PassSize:
    """Of a pass over padded rows.

    Args:
        scores: whether all scores of a layer are made at once.
    """
    rows, width = len(sequences), max(len(sequence.token_ids) for sequence in sequences)
    tokens, once = rows * width, rows * width**2 if scores else 0
    return PassSize(tokens, sum(map(supervised_count, sequences)), Scores(tokens, tokens, once, width**2))


class StockWeights(NamedTuple):
    """What of a model's weights decides what autograd passes: bytes as large as they are, and the holes' shares."""

    passing: int
    holes: float
    holes_of_layer: float


def stock_weights(module: Any) -> StockWeights:
    """Asked once, as it walks the whole model.

    Gradients of what is trained, until they are collected, and two on their way. DoRA makes each layer's weight anew to
    measure it, in fp32, and its gradient.
    """
    trained = [one for one in module.parameters() if one.requires_grad]
    passing = sum(one.numel() * one.dtype.itemsize for one in trained if one.dtype.itemsize < WIDE_BYTES)
    passing += 2 * max(one.numel() * one.dtype.itemsize for one in trained)
    if not any("lora_magnitude" in name for name, _ in module.named_parameters()):
        return StockWeights(passing, HOLES_OF_KEPT, HOLES_OF_LAYER)
    weights = [part.base_layer.weight for part in module.modules() if hasattr(part, "base_layer")]
    passing += DORA_COPIES * WIDE_BYTES * max(one.numel() for one in weights)
    return StockWeights(passing, HOLES_OF_KEPT_BY_DORA, HOLES_OF_LAYER_BY_DORA)


def stock_memory(weights: StockWeights, widths: Widths, growth: Growth, made: StockPass, recompute: bool) -> PassMemory:
    """Of a pass through autograd, which passes what the step by hand does, as far as layers are alike."""
    size = made.size
    kept, passing = growth.bytes(made.rows, size.predicting), passing_bytes(widths, size, head_bytes(widths, size))
    passing += weights.passing
    passing += made.logits * widths.words * (2 * widths.item + 2 * WIDE_BYTES)
    if not recompute:
        return PassMemory(kept, passing, int(HOLES_OF_PASSING * passing + weights.holes * kept))
    entering = widths.layers * size.tokens * widths.hidden * widths.item
    outside = growth.bytes([], size.predicting)
    layer = (kept - outside) // widths.layers
    passing += entering // widths.layers  # what comes back into a layer is held until it is through
    holes = HOLES_OF_PASSING * passing + weights.holes_of_layer * layer
    return PassMemory(entering + outside + layer, passing, int(holes))


def packed_memory(kept: int, widths: Widths, size: PassSize) -> PassMemory:
    """Of a pass by hand, which knows what it keeps, a chunk of logits included."""
    passing = passing_bytes(widths, size, states_bytes(widths, size))
    return PassMemory(kept, passing, int(HOLES_OF_PASSING * passing))


def passing_bytes(widths: Widths, size: PassSize, head: int) -> int:
    """The most that is alive at once beside what is kept: in the head, in an MLP or in attention, backwards."""
    return _throughout(widths, size) + max(head, _mlp(widths, size), _attention(widths, size))


def states_bytes(widths: Widths, size: PassSize) -> int:
    """What a frozen head reads, and its gradient."""
    return 2 * widths.item * size.predicting * widths.hidden


def head_bytes(widths: Widths, size: PassSize) -> int:
    """Of a frozen head and a chunk of its logits: as the product gives them and, where that is narrower, in fp32."""
    item = widths.item + (WIDE_BYTES if widths.item < WIDE_BYTES else 0)
    return states_bytes(widths, size) + item * min(size.predicting, HEAD_ROWS) * widths.words


def _throughout(widths: Widths, size: PassSize) -> int:
    """The first layer's input, rotary positions, the indices of the bands and their masks."""
    head = widths.keys // widths.heads[0]
    indices = 2 * widths.heads[0] * widths.heads[1] + 4 * widths.heads[0] + 2
    numbers = size.tokens * (widths.hidden + 2 * head) + size.scores.all
    return widths.item * numbers + INDEX_BYTES * size.tokens * indices


def _mlp(widths: Widths, size: PassSize) -> int:
    """The gradients of the gated product and its factors; then the norm's, in fp32."""
    product = widths.item * (widths.hidden + 4 * widths.inner)
    norm = 3 * widths.item * (widths.inner + widths.hidden) + 3 * WIDE_BYTES * widths.hidden
    return size.tokens * max(product, norm)


def _attention(widths: Widths, size: PassSize) -> int:
    """A band's queries, keys and scores with their gradients; then the norm's."""
    scores, count = size.scores, widths.heads[0] * widths.heads[1]
    band = 2 * widths.queries * scores.queries + 2 * widths.keys * scores.keys + 3 * count * scores.largest
    within = size.tokens * (widths.hidden + 2 * widths.queries + 2 * widths.keys) + band
    after = 3 * size.tokens * (widths.hidden + widths.queries + widths.keys)
    norm = 3 * WIDE_BYTES * size.tokens * widths.hidden
    return max(widths.item * within, widths.item * after + norm)
