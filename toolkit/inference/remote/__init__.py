"""The `remote` back-end: any server that speaks the OpenAI protocol, asked once for every answer.

request and response are the protocol; retry, rate and client are how one request gets its answer; journal keeps every
answer; model is the `FoundationModel` over them.
"""

from toolkit.inference.remote.model import RemoteModel

__all__ = ["RemoteModel"]
