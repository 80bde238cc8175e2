"""What requests may say, and what answers look like: the parts of OpenAI's interface that a text model has, and a few of our own.

A field of OpenAI's that changes nothing about the text (`user`, `store` ...) is taken and ignored. One that asks for something
we do not do is only taken with its neutral value, and a name that nobody knows is an error, as it is there.
"""

import re
import unicodedata
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MAX_CHOICES = 16
"""Completions that one request may ask for, in all its prompts together."""


MOST_NESTED = 32
"""Objects and lists inside each other that a request may have; what has a meaning here takes six."""

ANY_TOKEN = 0x7FFF_FFFF
"""Stands for the highest token id of the model that is served."""

MOST_SIGNS = 30
"""Combining signs in a row: as many as Unicode's Stream-Safe Text Format allows. Python's normalisation takes quadratic time in
them, minutes for a megabyte."""

_SIGNS = re.compile(f"[{''.join(chr(code) for code in range(0x300, 0x1F000) if unicodedata.combining(chr(code)))}]{{{MOST_SIGNS + 1}}}")


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text holds half of a surrogate pair, which is not Unicode") from None
    if not text.isascii() and _SIGNS.search(text):
        raise ValueError(f"the text has more than {MOST_SIGNS} combining signs in a row")
    return text


def _integral(value: Any, depth: int = 1) -> Any:
    """1.0 is an integer in JSON, and so it is one here."""
    if isinstance(value, list | dict) and depth > MOST_NESTED:
        raise ValueError(f"objects and lists are nested more than {MOST_NESTED} deep")
    if isinstance(value, list):
        return [_integral(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {key: _integral(item, depth + 1) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


_TOKEN = r"(0|[1-9][0-9]{0,8})"
_MOST_BIAS = 100


def _bias(value: Any) -> Any:
    """Of an object with wrong entries, the first of them: an object's own check goes on to the end."""
    for token, bias in value.items() if isinstance(value, dict) else ():
        if not re.fullmatch(_TOKEN, token) or type(bias) not in (int, float) or not abs(bias) <= _MOST_BIAS:
            return {token: bias}
    return value


# fail_fast: an error takes a kilobyte and some microseconds, and a megabyte has room for 300,000 wrong numbers. The first one says it.
Text = Annotated[str, AfterValidator(_whole)]
TokenId = Annotated[int, Field(ge=0, le=ANY_TOKEN)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True, min_length=1)]
Stop = Annotated[str, Field(min_length=1), AfterValidator(_whole)]
Nothing = Annotated[list[Any], Field(max_length=0)]
Zero = Annotated[float, Field(ge=0, le=0)]


class Strict(BaseModel):
    """Nothing is converted ("1" is not 1), and an unknown field is an error: the first one, of how many there may be."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _integers(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        unknown = next((key for key in value if key not in cls.model_fields), None)
        return {key: _integral(item, 2) for key, item in value.items() if key in cls.model_fields or key == unknown}


class StreamOptions(Strict):
    """Options of a streamed answer."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[bool | None, Field(description="Ignored.")] = None


class Ignored(Strict):
    """What OpenAI's interface has for billing, storage and speed, and what means nothing here."""

    metadata: Any = None
    moderation: None = None
    parallel_tool_calls: bool | None = None
    prediction: Any = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: str | None = None
    reasoning_effort: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    user: str | None = None
    verbosity: str | None = None


class Generation(Ignored):
    """How text is generated. What is not given is taken from the model file."""

    model: Annotated[str, Field(description="The name that /v1/models gives.")]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Zero | None = None
    logit_bias: Annotated[
        dict[Annotated[str, Field(pattern=f"^{_TOKEN}$")], Annotated[float, Field(ge=-_MOST_BIAS, le=_MOST_BIAS)]] | None,
        BeforeValidator(_bias),
        Field(description="Token id -> what is added to its logit; -100 forbids it."),
    ] = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Field(fail_fast=True, max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    top_k: Annotated[int, Field(ge=0, le=1 << 20), Field(description="Not in OpenAI's interface. 0 keeps all.")] | None = None
    min_p: Annotated[float, Field(ge=0, le=1), Field(description="Not in OpenAI's interface.")] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10), Field(description="Not in OpenAI's interface.")] | None = None


class TextPart(Strict):
    type: Literal["text"]
    text: Text


class ChatMessage(Strict):
    """A message; the fields after `name` are those that an answer of OpenAI's carries, so that it can be sent back as it came."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(fail_fast=True, min_length=1)]
    name: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None
    refusal: str | None = None
    tool_calls: Nothing | None = None


class PlainText(Strict):
    type: Literal["text"]


class ChatRequest(Generation):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: PlainText | None = None
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True, max_length=1)] | None = None
    audio: None = None
    web_search_options: None = None
    tools: Nothing | None = None
    tool_choice: Literal["none", "auto"] | None = None
    functions: Nothing | None = None
    function_call: Literal["none", "auto"] | None = None


class CompletionRequest(Generation):
    """POST /v1/completions."""

    prompt: (
        Text
        | TokenIds
        | Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=MAX_CHOICES)]
        | Annotated[list[TokenIds], Field(fail_fast=True, min_length=1, max_length=MAX_CHOICES)]
    )
    echo: Annotated[bool | None, Field(description="Put the prompt before the completion; not together with logprobs.")] = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    suffix: None = None


class EmbeddingRequest(Strict):
    """POST /v1/embeddings."""

    model: str
    input: (
        Text
        | TokenIds
        | Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=256)]
        | Annotated[list[TokenIds], Field(fail_fast=True, min_length=1, max_length=256)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int | None, Field(description="Must be the model's own, if given.")] = None
    user: str | None = None


class TokenizeRequest(Strict):
    """POST /tokenize."""

    content: Text
    add_special: Annotated[bool, Field(description="Put <s> first, as /v1/completions does.")] = False
    with_pieces: Annotated[bool, Field(description="Say the text of each token too.")] = False


class TokenPiece(BaseModel):
    id: int
    piece: Annotated[str | list[int], Field(description="Its text, or its bytes where they are not whole characters.")]


class TokenizeResponse(BaseModel):
    tokens: list[int] | list[TokenPiece]


class DetokenizeRequest(Strict):
    """POST /detokenize."""

    tokens: Annotated[list[TokenId], Field(fail_fast=True, max_length=1_000_000)]


class DetokenizeResponse(BaseModel):
    content: str


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    error: ErrorDetail


class Health(BaseModel):
    status: Literal["ok", "stopping"]


class ModelCard(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_length: Annotated[int, Field(description="Tokens of prompt and answer together.")]
    parameters: int


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelCard]


class PromptTokensDetails(BaseModel):
    cached_tokens: int


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None


class AssistantMessage(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None


FinishReason = Literal["stop", "length"]


class ChatChoice(BaseModel):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class TextLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class TextChoice(BaseModel):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: Annotated[list[float] | str, Field(description="Numbers, or little-endian float32 in base64.")]


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage
