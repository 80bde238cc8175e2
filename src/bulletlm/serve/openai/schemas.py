"""Requests and answers of OpenAI's interface, as far as a text model has it, and of a few routes of our own.

A field of OpenAI's that does not change the text (`user`, `store` ...) is accepted and ignored. A field that asks for something
unsupported is accepted with its neutral value only. An unknown field is an error, as it is at OpenAI.
"""

import re
import unicodedata
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MAX_CHOICES = 16
"""Largest number of completions of one request, for all its prompts together."""

MAX_NESTING = 32
"""How deep objects and lists of a request may be nested; the fields with a meaning need six levels."""

ANY_TOKEN = 0x7FFF_FFFF
"""Placeholder for the highest token id of the model that is served."""

MAX_COMBINING_MARKS = 30
"""Combining marks in a row: the limit of Unicode's Stream-Safe Text Format. The time of Python's normalisation grows with the
square of their number, to minutes for a megabyte."""

_MARKS = re.compile(
    f"[{''.join(chr(code) for code in range(0x300, 0x1F000) if unicodedata.combining(chr(code)))}]{{{MAX_COMBINING_MARKS + 1}}}"
)


def _valid_unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text has half of a surrogate pair, which is not Unicode") from None
    if not text.isascii() and _MARKS.search(text):
        raise ValueError(f"the text has more than {MAX_COMBINING_MARKS} combining marks in a row")
    return text


def _integral(value: Any, depth: int = 1) -> Any:
    """Convert numbers such as 1.0 to int: in JSON they are integers."""
    if isinstance(value, list | dict) and depth > MAX_NESTING:
        raise ValueError(f"objects and lists are nested more than {MAX_NESTING} deep")
    if isinstance(value, list):
        return [_integral(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {key: _integral(item, depth + 1) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


_TOKEN = r"(0|[1-9][0-9]{0,8})"
_MAX_BIAS = 100


def _bias(value: Any) -> Any:
    """Keep only the first wrong entry of an object, because pydantic would report each of them."""
    for token, bias in value.items() if isinstance(value, dict) else ():
        if not re.fullmatch(_TOKEN, token) or type(bias) not in (int, float) or not abs(bias) <= _MAX_BIAS:
            return {token: bias}
    return value


# fail_fast: each error takes a kilobyte, and a request of a megabyte can have 300,000 wrong numbers. The first error is enough.
Text = Annotated[str, AfterValidator(_valid_unicode)]
TokenId = Annotated[int, Field(ge=0, le=ANY_TOKEN)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True, min_length=1)]
Stop = Annotated[str, Field(min_length=1), AfterValidator(_valid_unicode)]
Nothing = Annotated[list[Any], Field(max_length=0)]
Zero = Annotated[float, Field(ge=0, le=0)]


class Strict(BaseModel):
    """Values are not converted ("1" is not 1), and the first unknown field is an error."""

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
    """Fields of OpenAI's interface for billing, storage and speed, which have no meaning here."""

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
    """How text is generated. Settings that are not given come from the model file."""

    model: Annotated[str, Field(description="The name that /v1/models gives.")]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Zero | None = None
    logit_bias: Annotated[
        dict[Annotated[str, Field(pattern=f"^{_TOKEN}$")], Annotated[float, Field(ge=-_MAX_BIAS, le=_MAX_BIAS)]] | None,
        BeforeValidator(_bias),
        Field(description="Token id -> number added to its logit; -100 forbids the token."),
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
    """A message. The fields after `name` are those of OpenAI's answers, so that an answer can be sent back unchanged."""

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
    echo: Annotated[bool | None, Field(description="Put the prompt before the completion; not supported together with logprobs.")] = None
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
    dimensions: Annotated[int | None, Field(description="If given, must be the model's own number.")] = None
    user: str | None = None


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


class ModelCard(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_length: Annotated[int, Field(description="Largest number of tokens of prompt and answer together.")]
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
