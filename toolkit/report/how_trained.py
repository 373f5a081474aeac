"""How was it trained: what each training of tuned strategies was, its losses, and what stands out in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from toolkit.report import figures
from toolkit.report.blocks import Block, Bullets, Cell, Chart, Column, Paragraph, Row, Section, Subheading, Table
from toolkit.report.loss_curves import MOST_POINTS, epoch_ends, in_characters, loss_curves, seed_words
from toolkit.report.read import RunFiles
from toolkit.report.training_remarks import ENGINES, engine, remarks
from toolkit.report.trainings import Training, trainings, unrecorded

METHODS = {
    "lora": "LoRA",
    "rslora": "rsLoRA",
    "dora": "DoRA",
    "eva": "EVA",
    "pissa": "PiSSA",
    "olora": "OLoRA",
    "full": "all weights",
}
CAPTION = (
    "Loss: of the first and of the last step, each of one batch, in nats a supervised token; of preferences, a pair. "
    "Supervised: of the tokens seen, those learnt from; padding is in neither. Time: of all steps, without looks at "
    "validation; where this run did not train them itself, of the whole fit as first measured. Peak: that of the "
    "process or the device up to the last step, what ran before included. Fast step: forwards and backwards without "
    "autograd and without padding."
)


def how_trained(run: RunFiles) -> Section | None:
    """The section; None where no strategy left a record of its training."""
    found = trainings(run)
    if not found:
        return None
    metric = str(run.comparison["metric"])
    blocks: list[Block] = [_table(run, found)]
    blocks += [
        Paragraph(f"No record of the training of {name} is in the run folder.") for name in unrecorded(run, found)
    ]
    if lines := _said(found, lambda training: remarks(training, metric)):
        blocks += [Subheading("What stands out"), Bullets(tuple(lines))]
    if lines := _said(found, lambda training: training.notices):
        blocks += [Subheading("Notices"), Bullets(tuple(lines))]
    names = dict.fromkeys(training.strategy for training in found)
    blocks += [
        _chart([training for training in found if training.strategy == name], metric, f"loss-{number}")
        for number, name in enumerate(names, start=1)
    ]
    return Section("training", "How was it trained?", tuple(blocks))


def _table(run: RunFiles, found: Sequence[Training]) -> Table:
    columns = (
        *(Column(title, False) for title in ("Strategy", "Method", "Learns")),
        *(Column(title) for title in ("Trained parameters", "Steps", "Supervised", "Learning rate", "Loss")),
        *(Column(title, False) for title in ("Kept", "Computed by")),
        Column("Time"),
    )
    return Table(columns, tuple(Row(tuple(_cells(run, training))) for training in found), CAPTION)


def _cells(run: RunFiles, training: Training) -> list[Cell]:
    settings = training.settings
    method, schedule = str(settings.get("method", "lora")), str(settings.get("schedule", ""))
    examples = run.manifest.get("task", {}).get("sizes", {}).get("train")
    of_train = training.learn in ("answers", "preferences") and examples is not None
    all_of = f"of {figures.large(training.total_parameters)}" if training.total_parameters else ""
    first, last = (figures.loss(training.losses[place]) for place in (0, -1))
    rate = training.learning_rate
    name, _ = engine(training)
    several = figures.counted(training.processes, "process", "processes") if training.processes else ""
    return [
        Cell(training.strategy, seed_words(training.seed)),
        Cell(METHODS.get(method, method), "" if training.rank is None else f"rank {training.rank}"),
        Cell(training.learn, figures.counted(examples, "example") if of_train else ""),
        Cell(figures.large(training.trainable_parameters), all_of),
        Cell(f"{training.steps:,}", _epochs(training)),
        Cell(*_supervised(training)),
        Cell(figures.NOTHING if rate is None else f"{rate:.2g}", schedule),
        Cell(f"{first} → {last}"),
        Cell(*_kept(training, str(run.comparison["metric"]))),
        Cell(ENGINES.get(name, name) or figures.NOTHING, several),
        Cell(*_time(training)),
    ]


def _epochs(training: Training) -> str:
    if not training.steps_an_epoch:
        return ""
    epochs = training.steps / training.steps_an_epoch
    whole = training.steps % training.steps_an_epoch == 0
    shown = f"{epochs:,.0f}" if whole else f"{epochs:,.1f}" if epochs >= 0.1 else "<0.1"
    return f"{shown} epoch{'' if epochs == 1 else 's'}"


def _supervised(training: Training) -> tuple[str, str]:
    some, every = training.supervised_tokens, training.seen_tokens
    if some is None or not every:
        return figures.NOTHING, ""
    return figures.percent(some / every), f"of {every:,}\ntokens"


def _kept(training: Training, metric: str) -> tuple[str, str]:
    if not training.looks or training.kept_step is None:
        return "last step", "no look at validation" if not training.looks else ""
    value = dict(training.looks).get(training.kept_step)
    looks = figures.counted(len(training.looks), "look")
    return f"step {training.kept_step:,}", f"{figures.plain(metric)} {figures.amount(value, metric)}, {looks}"


def _time(training: Training) -> tuple[str, str]:
    notes = [] if training.peak_bytes is None else [f"peak ≤ {figures.size(training.peak_bytes)}"]
    expected = [
        show(float(value)) for name, show in _FORECAST if isinstance(value := training.forecast.get(name), (int, float))
    ]
    notes += [f"forecast\n{', '.join(expected)}"] if expected else []
    if training.seconds is not None:
        return figures.seconds(training.seconds), ",\n".join(notes)
    whole = ["whole fit"] if training.fit_seconds is not None else []
    return figures.seconds(training.fit_seconds), ",\n".join([*whole, *notes])


_FORECAST: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("seconds", figures.seconds),
    ("memory_bytes", figures.size),
)


def _said(found: Sequence[Training], say: Callable[[Training], Iterable[str]]) -> list[str]:
    """What is said of trainings, each text once with the names of all it is said of."""
    of: dict[str, list[Training]] = {}
    for training in found:
        for text in say(training):
            of.setdefault(text, []).append(training)
    places = {id(training): place for place, training in enumerate(found)}
    strategies = [training.strategy for training in found]
    ordered = sorted(
        of.items(), key=lambda said: (strategies.index(said[1][0].strategy), -len(said[1]), places[id(said[1][0])])
    )
    return [f"{_named(some, found)}: {text}" for text, some in ordered]


def _named(some: Sequence[Training], found: Sequence[Training]) -> str:
    """`lora` for all of its trainings, else `lora (seed 1)`."""
    names = []
    for name in dict.fromkeys(training.strategy for training in some):
        seeds = [training.seed for training in some if training.strategy == name]
        every = sum(training.strategy == name for training in found)
        which = figures.listed([str(seed) for seed in seeds])
        words = "" if len(seeds) == every else f" (seed{'' if len(seeds) == 1 else 's'} {which})"
        names.append(name + words)
    return figures.listed(names)


def _chart(some: Sequence[Training], metric: str, salt: str) -> Chart:
    title = f"Loss by step: {some[0].strategy}"
    every = all(training.steps <= MOST_POINTS for training in some)
    points = "single steps" if every else "the lowest and the highest of each stretch of steps"
    caption = f"Points: {points}. Line: the mean of the steps around."
    if epoch_ends(some):
        caption += " Dotted upright: the end of an epoch."
    if any(training.looks for training in some):
        caption += " Below: looks at validation; filled, the state that was kept and answers."
    svg, drawn = loss_curves(some, metric, title, salt), in_characters(some, metric)
    words = "Smoothed, from the lowest to the highest of all its seeds; the figures are of single steps."
    return Chart(title, svg, drawn, caption, words)
