"""What is different about a run with hosted models: keys, fallbacks, expiry, and what it tells of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from toolkit.errors import ModelError, RecipeError, listing
from toolkit.inference import FoundationModel, RemoteModel
from toolkit.meter import Meter
from toolkit.recipe import Recipe
from toolkit.recipe.recipe import ContrastSpec
from toolkit.strategies.strategy import Strategy

if TYPE_CHECKING:
    from toolkit.strategies.bench import Bench

HOUR_SECONDS = 3600.0


def check_keys(models: Iterable[FoundationModel]) -> None:
    """Raises ModelError where keys are missing: after hours of local training would be late."""
    missing = missing_keys(models)
    if missing:
        raise ModelError(listing(missing, "keys of served models"))


def missing_keys(models: Iterable[FoundationModel]) -> list[str]:
    """What is wrong with the keys, one line a model."""
    problems = []
    for model in _hosted(models):
        try:
            model.check_key()
        except ModelError as error:
            problems.append(str(error))
    return problems


def check_tunable(recipe: Recipe, benches: Mapping[str, Bench]) -> None:
    """Raises RecipeError where an adapter tunes a model whose weights are not here, or cannot work on its model."""
    problems = [
        f"{recipe.where('strategies', strategy.name)}: {adapter.kind}: {problem}"
        for strategy in recipe.strategies
        for adapter in strategy.adapters
        for problem in adapter.settings.check_model(benches[strategy.name].model)
    ]
    problems += [
        f"{recipe.where('strategies', strategy.name)}: {adapter.kind}: the model '{benches[strategy.name].model.name}' "
        "cannot be tuned, for its weights are not here; name a local model, for this strategy as "
        "`model: <a key of the recipe's models>`"
        for strategy in recipe.strategies
        for adapter in strategy.adapters
        if adapter.settings.tunes and not benches[strategy.name].model.can_be_tuned
    ]
    if problems:
        raise RecipeError(listing(problems, "the recipe does not suit its models"))


def falls_back(model: FoundationModel) -> str:
    """For a factor sheet: `, else b, else c`; empty for a model that answers alone."""
    others = model.endpoint.fallback if isinstance(model, RemoteModel) else ()
    return "".join(f", else {name}" for name in others)


def with_fallbacks(contrasts: Sequence[ContrastSpec], benches: Mapping[str, Bench]) -> tuple[ContrastSpec, ...]:
    """Contrasts of strategies whose model may fall back to others: they compare systems, and say so."""
    return tuple(
        replace(contrast, varies=(*contrast.varies, "model"))
        if "model" not in contrast.varies and any(falls_back(benches[name].model) for name in (contrast.a, contrast.b))
        else contrast
        for contrast in contrasts
    )


def expires(strategy: Strategy, recipe: Recipe, benches: Mapping[str, Bench]) -> bool:
    """Whether a hosted model has a part in a strategy's answers, itself or through a strategy it uses."""
    pending, seen = [strategy.name], {strategy.name}
    while pending:
        name = pending.pop()
        if isinstance(benches[name].model, RemoteModel):
            return True
        used = [other for other in recipe.strategy(name).uses if other not in seen]
        pending += used
        seen |= set(used)
    return False


def replayed_seconds(models: Iterable[FoundationModel]) -> float:
    """What answers taken from hosted models' journals took when they were given, one after another."""
    return sum(model.replayed_seconds for model in _hosted(models))


def replayed_wall_seconds(models: Iterable[FoundationModel]) -> float:
    """The same as it passed on a clock, with each model's `concurrency` under way."""
    return sum(model.replayed_seconds / model.endpoint.concurrency for model in _hosted(models))


def tell_accounts(models: Iterable[FoundationModel], meter: Meter) -> None:
    """A notice a hosted model: what it answered, what was kept from before and how old that is."""
    for model in _hosted(models):
        account = model.account
        said = [f"{account.answered} answers from {model.endpoint.url}"]
        if account.repeated:
            said.append(f"{account.repeated} requests repeated")
        if account.kept:
            age = _age(account.oldest_seconds)
            said.append(f"{account.kept} answers kept from before, the oldest {age} old (`--fresh` asks again)")
        said += [f"{count} answers by the fallback {name}" for name, count in account.fallbacks.items()]
        if account.uncounted:
            said.append(f"of {account.uncounted} answers the server did not tell the tokens, which stand as 0")
        meter.event("notice", text=f"{model.name}: {'; '.join(said)}", settled=True)


def _age(seconds: float) -> str:
    hours = seconds / HOUR_SECONDS
    return (
        f"{hours / 24:.1f} days" if hours >= 24 else f"{hours:.1f} hours" if hours >= 1 else f"{seconds / 60:.0f} min"
    )


def _hosted(models: Iterable[FoundationModel]) -> list[RemoteModel]:
    return [model for model in models if isinstance(model, RemoteModel)]
