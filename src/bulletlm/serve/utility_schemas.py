"""Requests and answers of the server's own routes."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from bulletlm.serve.fields import Strict, Text, TokenId


class TokenizeRequest(Strict):
    """POST /tokenize."""

    content: Text
    add_special: Annotated[bool, Field(description="Put <s> first, as /v1/completions does.")] = False
    with_pieces: Annotated[bool, Field(description="Also return the text of each token.")] = False


class TokenPiece(BaseModel):
    id: int
    piece: Annotated[str | list[int], Field(description="The token's text, or its bytes if they are not whole characters.")]


class TokenizeResponse(BaseModel):
    tokens: list[int] | list[TokenPiece]


class DetokenizeRequest(Strict):
    """POST /detokenize."""

    tokens: Annotated[list[TokenId], Field(fail_fast=True, max_length=1_000_000)]


class DetokenizeResponse(BaseModel):
    content: str


class Health(BaseModel):
    status: Literal["ok", "stopping"]
