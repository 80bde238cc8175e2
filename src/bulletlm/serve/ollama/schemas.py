"""Requests of Ollama's interface.

Unknown fields are ignored, as Ollama does. A field that asks for something unsupported is accepted with its neutral value only.
"""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from bulletlm.serve.fields import Lenient, Neutral, OneOf, Text
from bulletlm.serve.openai.schemas import MAX_TEXTS, NO_TOOLS, OllamaOptions

NO_FORMAT = "only plain text is supported, not JSON: leave it out"
NO_IMAGES = "this model reads text only"
NO_THINKING = "this model does not think before it answers"


class OllamaRequest(Lenient):
    """What all requests have in common. Any model name is accepted: the server has one model."""

    model: Annotated[str | None, Field(description="Any name: the server has one model, whose name is in the answer.")] = None
    options: OllamaOptions | None = None


class GenerationRequest(OllamaRequest):
    """How text is generated."""

    stream: Annotated[bool | None, Field(description="true by default")] = None
    format: Annotated[Any, Neutral(NO_FORMAT, "")] = None
    think: Annotated[Any, Neutral(NO_THINKING, False)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class OllamaMessage(Lenient):
    """A message of a conversation."""

    role: Annotated[
        str,
        OneOf(
            "it must be system, user or assistant",
            *("system", "user", "assistant"),
            refused={"tool": f"{NO_TOOLS}, so it cannot read messages of this role: leave them out"},
        ),
    ]
    content: Text | None = None
    images: Annotated[Any, Neutral(NO_IMAGES, [])] = None
    tool_calls: Annotated[Any, Neutral(NO_TOOLS, [])] = None


class OllamaChatRequest(GenerationRequest):
    """POST /api/chat."""

    messages: Annotated[list[OllamaMessage] | None, Field(fail_fast=True)] = None
    tools: Annotated[Any, Neutral(NO_TOOLS, [])] = None


class OllamaGenerateRequest(GenerationRequest):
    """POST /api/generate."""

    prompt: Text | None = None
    system: Text | None = None
    raw: Annotated[bool | None, Field(description="Continue the prompt as it is, without the chat template.")] = None
    suffix: Annotated[Any, Neutral("this model cannot insert text before a suffix", "")] = None
    images: Annotated[Any, Neutral(NO_IMAGES, [])] = None
    template: Annotated[Any, Neutral("the model's own chat template is always used: set raw to write your own", "")] = None
    context: Annotated[Any, Neutral("send the conversation to /api/chat instead", [])] = None


class EmbedRequest(OllamaRequest):
    """POST /api/embed."""

    input: Text | Annotated[list[Text], Field(fail_fast=True, max_length=MAX_TEXTS)]
    truncate: Annotated[bool | None, Field(description="Cut texts that are too long; true by default.")] = None
    dimensions: Annotated[int | None, Field(description="If given, must be the model's own number.")] = None


class OneEmbeddingRequest(OllamaRequest):
    """POST /api/embeddings, an older form of /api/embed."""

    prompt: Text


class ShowRequest(OllamaRequest):
    """POST /api/show."""


class OllamaError(BaseModel):
    error: str


class OllamaAnswer(BaseModel):
    """An answer, or one line of a stream. The last line has `done_reason`, times and token counts."""

    model: str
    created_at: str
    done: bool


class EmbedAnswer(BaseModel):
    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OneEmbeddingAnswer(BaseModel):
    embedding: list[float]


class ModelDetails(BaseModel):
    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaModel(BaseModel):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: ModelDetails


class OllamaModels(BaseModel):
    models: list[OllamaModel]


class RunningModel(OllamaModel):
    expires_at: str
    size_vram: int
    context_length: int


class RunningModels(BaseModel):
    models: list[RunningModel]


class ShowAnswer(BaseModel):
    license: str
    modelfile: str
    parameters: str
    template: str
    details: ModelDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class Version(BaseModel):
    version: Annotated[str, Field(description="The version of Ollama whose interface this is.")]
    bulletlm: Annotated[str, Field(description="The version of this server.")]
