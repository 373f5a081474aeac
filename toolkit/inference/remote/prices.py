"""Prices: a dated file of what hosted models cost."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from toolkit.errors import ModelError, listing, nearest
from toolkit.models.endpoint import EndpointSource
from toolkit.resources import shipped
from toolkit.tasks.yaml_file import read_yaml

Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Price(BaseModel):
    """US dollars per million tokens, on a day, by a source.

    `host` is the server's for which it holds; any where absent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prompt: Dollars
    completion: Dollars
    date: date
    source: str
    host: str | None = None


class PriceFile(BaseModel):
    """Model name -> price."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    models: dict[str, Price]


def prices_for(endpoint: EndpointSource) -> Mapping[str, Price]:
    """The prices of an endpoint's models that the user's file, else the shipped one, knows.

    Raises:
        ModelError: the file cannot be read, where every problem names its line; or the user's does not know a model.
    """
    path = shipped("configs") / "prices.yaml" if endpoint.prices is None else Path(endpoint.prices)
    problems: list[str] = []
    found = read_yaml(path, PriceFile, problems)
    if found is None:
        raise ModelError(listing(problems, "the price file"))
    known = {
        name: price
        for name, price in found.content.models.items()
        if name in endpoint.models and (price.host or endpoint.host).lower() == endpoint.host
    }
    if endpoint.prices is not None and (unpriced := [name for name in endpoint.models if name not in known]):
        listed = list(found.content.models)
        missing = [f"'{name}' at {endpoint.host}{nearest(name, listed)}" for name in unpriced]
        raise ModelError(f"{path}: no price of {', '.join(missing)}; add it, or leave `prices` out")
    return known


def price_dollars(price: Price | None, prompt_tokens: int | None, completion_tokens: int | None) -> float | None:
    """Of one answer; None where its price or its tokens are unknown."""
    if price is None or prompt_tokens is None or completion_tokens is None:
        return None
    return (price.prompt * prompt_tokens + price.completion * completion_tokens) / 1e6
