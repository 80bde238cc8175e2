"""Requests and answers of OpenAI's interface: the part that applies to a text model.

- A field that does not change the text (`user`, `store`, `cache_prompt` ...) is accepted and ignored.
- A field that asks for something unsupported is accepted with its neutral value only; any other value is an error that names it.
- An unknown field of a request is an error, as it is at OpenAI. Unknown fields of messages are ignored, because clients send
  messages back with whatever fields other servers have added to them.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from bulletlm.serve.fields import (
    Fraction,
    Lenient,
    LogitBias,
    MaxTokens,
    Neutral,
    OneOf,
    Penalty,
    RepetitionPenalty,
    Stop,
    Stops,
    Strict,
    Text,
    TokenIds,
    TopK,
)

MAX_CHOICES = 16
"""Largest number of completions of one request, for all its prompts together."""

MAX_TEXTS = 2048
"""Largest number of texts of one request for embeddings, as at OpenAI."""

NO_TOOLS = "this model cannot call tools"
NO_JSON = "only plain text is supported, not JSON: leave it out"


class StreamOptions(Lenient):
    """Options of a streamed answer."""

    include_usage: bool | None = None


class Ignored(Strict):
    """Fields for billing, storage, caching and speed, of OpenAI's interface and of other servers. They do not change the text."""

    add_generation_prompt: Annotated[Any, Neutral("an answer is always begun", True)] = None
    cache_prompt: Any = None
    chat_template_kwargs: Any = None
    id_slot: Any = None
    keep_alive: Any = None
    metadata: Any = None
    moderation: Any = None
    parallel_tool_calls: bool | None = None
    prediction: Any = None
    priority: Any = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: str | None = None
    reasoning: Any = None
    reasoning_effort: str | None = None
    reasoning_format: str | None = None
    request_id: str | None = None
    return_progress: Any = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    skip_special_tokens: Annotated[Any, Neutral("special tokens are never part of the text", True)] = None
    store: bool | None = None
    think: Any = None
    timings_per_token: Any = None
    user: str | None = None
    verbosity: str | None = None


_SAMPLER = "the server does not have this sampling method: leave it out"


class OtherSamplers(Strict):
    """Sampling settings of other servers that have no counterpart here."""

    best_of: Annotated[Any, Neutral("only 1 is supported: ask for n completions and choose one", 1)] = None
    dry_multiplier: Annotated[Any, Neutral(_SAMPLER, 0)] = None
    dynatemp_range: Annotated[Any, Neutral(_SAMPLER, 0)] = None
    grammar: Annotated[Any, Neutral("the server cannot restrict an answer to a grammar", "")] = None
    guided_json: Annotated[Any, Neutral(NO_JSON)] = None
    ignore_eos: Annotated[Any, Neutral("forbid the end tokens with logit_bias instead", False)] = None
    include_stop_str_in_output: Annotated[Any, Neutral("a stop string is never part of the answer", False)] = None
    json_schema: Annotated[Any, Neutral(NO_JSON)] = None
    length_penalty: Annotated[Any, Neutral(_SAMPLER, 1)] = None
    min_tokens: Annotated[Any, Neutral("a lowest number of tokens is not supported", 0)] = None
    mirostat: Annotated[Any, Neutral(_SAMPLER, 0)] = None
    repeat_last_n: Annotated[Any, Neutral("the penalties always look at the last 64 tokens", 64)] = None
    tfs_z: Annotated[Any, Neutral(_SAMPLER, 1)] = None
    top_a: Annotated[Any, Neutral(_SAMPLER, 0)] = None
    typical_p: Annotated[Any, Neutral(_SAMPLER, 1)] = None
    use_beam_search: Annotated[Any, Neutral(_SAMPLER, False)] = None
    xtc_probability: Annotated[Any, Neutral(_SAMPLER, 0)] = None


class OllamaOptions(OtherSamplers, Lenient):
    """Sampling settings in an object, with Ollama's names. Unknown ones are ignored: most of them are about memory and speed."""

    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    top_k: TopK | None = None
    top_p: Fraction | None = None
    min_p: Fraction | None = None
    repeat_penalty: RepetitionPenalty | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    num_predict: Annotated[int, Field(ge=-2, description="-1 or -2: up to the context length.")] | None = None
    seed: int | None = None
    stop: Stop | Stops | None = None


def options_settings(options: OllamaOptions) -> dict[str, Any]:
    """The fields of Sampling that `options` has; None where it does not set them."""
    names = ("temperature", "top_k", "top_p", "min_p", "presence_penalty", "frequency_penalty")
    return {**{name: getattr(options, name) for name in names}, "repetition_penalty": options.repeat_penalty}


class Generation(Ignored, OtherSamplers):
    """How text is generated. Settings that are not given come from the model file."""

    model: Annotated[str | None, Field(description="Any name: the server has one model, whose name is in the answer.")] = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Fraction | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    max_tokens: MaxTokens | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    seed: int | None = None
    stop: Stop | Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    top_k: TopK | None = None
    min_p: Annotated[Fraction, Field(description="Not in OpenAI's interface.")] | None = None
    repetition_penalty: RepetitionPenalty | None = None
    repeat_penalty: Annotated[RepetitionPenalty, Field(description="Another name of repetition_penalty.")] | None = None
    options: OllamaOptions | None = None


class TextPart(Lenient):
    """A part of a message's content."""

    type: Annotated[str, OneOf("this model reads text only", "text", "input_text", "output_text")]
    text: Text


Content = Text | Annotated[list[TextPart], Field(fail_fast=True)]


_NO_TOOL_ROLE = f"{NO_TOOLS}, so it cannot read messages of this role: leave them out"
Role = Annotated[
    str,
    OneOf(
        "it must be system, developer, user or assistant",
        *("system", "developer", "user", "assistant"),
        refused={"tool": _NO_TOOL_ROLE, "function": _NO_TOOL_ROLE},
    ),
]


class ChatMessage(Lenient):
    """A message. Its content may be null or empty, as some clients send answers without text."""

    role: Role
    content: Content | None = None
    audio: Annotated[Any, Neutral("this model reads text only")] = None
    function_call: Annotated[Any, Neutral(NO_TOOLS)] = None
    tool_calls: Annotated[Any, Neutral(NO_TOOLS, [])] = None

    def to_template(self) -> dict[str, str]:
        """The message as the chat template needs it, with the texts of its parts joined by line breaks."""
        return {"role": self.role, "content": content_text(self.content)}


def content_text(content: str | list[TextPart] | None) -> str:
    """The text of a message's content."""
    return content if isinstance(content, str) else "\n".join(part.text for part in content or ())


class ResponseFormat(Lenient):
    """The form of the answer's text."""

    type: Annotated[str, OneOf(NO_JSON, "text")]


class ChatRequest(Generation):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1)]
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    modalities: Annotated[Any, Neutral("this model writes text only", ["text"])] = None
    audio: Annotated[Any, Neutral("this model writes text only")] = None
    web_search_options: Annotated[Any, Neutral("this model cannot search the web")] = None
    tools: Annotated[list[Any], Field(description='Accepted if empty, or together with tool_choice "none".')] | None = None
    tool_choice: Annotated[Any, Neutral(f"{NO_TOOLS}: only 'none' and 'auto' are supported", "none", "auto")] = None
    functions: Annotated[list[Any], Field(description='Accepted if empty, or together with function_call "none".')] | None = None
    function_call: Annotated[Any, Neutral(f"{NO_TOOLS}: only 'none' and 'auto' are supported", "none", "auto")] = None


class CompletionRequest(Generation):
    """POST /v1/completions."""

    prompt: (
        Text
        | TokenIds
        | Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=MAX_CHOICES)]
        | Annotated[list[TokenIds], Field(fail_fast=True, min_length=1, max_length=MAX_CHOICES)]
    )
    max_tokens: Annotated[int, Field(ge=-1, description="0 generates nothing; -1: up to the context length.")] | None = None
    echo: Annotated[bool | None, Field(description="Put the prompt before the completion, with log-probabilities if requested.")] = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    suffix: Annotated[Any, Neutral("this model cannot insert text before a suffix", "")] = None


class EmbeddingRequest(Ignored):
    """POST /v1/embeddings."""

    model: str | None = None
    input: (
        Text
        | TokenIds
        | Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=MAX_TEXTS)]
        | Annotated[list[TokenIds], Field(fail_fast=True, min_length=1, max_length=MAX_TEXTS)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int | None, Field(description="If given, must be the model's own number.")] = None


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
    cached_tokens: Annotated[int, Field(description="Tokens that did not have to be read again.")]
    omitted_messages: Annotated[int, Field(description="Oldest messages that were left out because the context is full.")]


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
    """Of each token; of the first token of an echoed prompt, the log-probabilities are null."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
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
