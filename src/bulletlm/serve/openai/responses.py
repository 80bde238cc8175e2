"""/v1/responses: OpenAI's newer interface for conversations, with text only."""

import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from bulletlm.runtime import Token
from bulletlm.serve.answers import Choice, CompletionSpec, Usage
from bulletlm.serve.errors import ApiError
from bulletlm.serve.fields import Fraction, Lenient, MaxTokens, Neutral, OneOf, Text
from bulletlm.serve.openai.formats import logprob_entries
from bulletlm.serve.openai.schemas import NO_JSON, NO_TOOLS, Content, Ignored, Role, StreamOptions, content_text
from bulletlm.serve.openapi import GENERATE, READ, also, errors
from bulletlm.serve.service import Service, ServiceOf

router = APIRouter(prefix="/v1", tags=["OpenAI"])

LOGPROBS = "message.output_text.logprobs"
"""The value in `include` that requests log-probabilities."""

TemplateMessages = list[dict[str, str]]


MESSAGE_BYTES = 500
"""Memory of a message without text."""


class StoredResponse(NamedTuple):
    """An answer as the client received it (JSON), the id of its message, and the conversation that ends with it."""

    body: bytes
    item_id: str
    messages: TemplateMessages


class ResponseStore:
    """Recent answers and their conversations, in memory, so that clients can refer to an answer by its id instead of sending it back.

    The oldest ones are forgotten.

    Args:
        max_answers: answers that are kept.
        max_bytes: memory of all answers and conversations together.
    """

    def __init__(self, max_answers: int = 1000, max_bytes: int = 64_000_000) -> None:
        self._max_answers, self._max_bytes = max_answers, max_bytes
        self._responses: OrderedDict[str, StoredResponse] = OrderedDict()
        self._items: dict[str, dict[str, str]] = {}
        self._bytes = 0

    def remember(self, response_id: str, response: StoredResponse, item: dict[str, str] | None = None) -> None:
        """Keep an answer. `item` is its message: by default the last message of its conversation."""
        self._responses[response_id] = response
        self._items[response.item_id] = item or response.messages[-1]
        self._bytes += _memory(response)
        while self._responses and (len(self._responses) > self._max_answers or self._bytes > self._max_bytes):
            self.forget(next(iter(self._responses)))

    def response(self, response_id: str, what: str = "Response", param: str = "response_id") -> StoredResponse:
        """Raises ApiError 404 if the answer is not known."""
        if response_id not in self._responses:
            raise _not_found(f"{what} with id '{response_id}' not found", param)
        return self._responses[response_id]

    def forget(self, response_id: str) -> None:
        """Delete an answer. Raises ApiError 404 if it is not known."""
        response = self.response(response_id)
        del self._responses[response_id], self._items[response.item_id]
        self._bytes -= _memory(response)

    def item(self, item_id: str | None, param: str) -> dict[str, str]:
        """Raises ApiError 404 if the item is not known."""
        if item_id not in self._items:
            raise _not_found(f"Item with id '{item_id}' not found", param)
        return self._items[item_id]


def _memory(response: StoredResponse) -> int:
    """Bytes that an answer takes, roughly. Its body counts too: log-probabilities and metadata can be far larger than the texts."""
    return len(response.body) + sum(MESSAGE_BYTES + len(message["content"].encode()) for message in response.messages)


def _not_found(what: str, param: str) -> ApiError:
    return ApiError(404, f"{what}: the server remembers recent answers only; send the whole conversation as input", param, "not_found")


_ITEMS = "only messages and references to answers are supported: leave other items out"


class InputItem(Lenient):
    """An item of a conversation: a message, or a reference to an answer of this server. Reasoning of other models is ignored."""

    type: Annotated[str, OneOf(_ITEMS, "message", "item_reference", "reasoning")] = "message"
    id: str | None = None
    role: Role | None = None
    content: Content | None = None


class TextFormatOption(Lenient):
    type: Annotated[str, OneOf(NO_JSON, "text")]


class TextOptions(Lenient):
    """The form of the answer's text."""

    format: TextFormatOption | None = None


class ResponsesRequest(Ignored):
    """POST /v1/responses."""

    model: str | None = None
    input: Text | Annotated[list[InputItem], Field(fail_fast=True, min_length=1)]
    instructions: Text | None = None
    previous_response_id: str | None = None
    max_output_tokens: MaxTokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Fraction | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    text: TextOptions | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    truncation: Annotated[Literal["auto", "disabled"] | None, Field(description='"auto" leaves out the oldest messages.')] = None
    tools: Annotated[list[Any], Field(description='Accepted if empty, or together with tool_choice "none".')] | None = None
    tool_choice: Annotated[Any, Neutral(f"{NO_TOOLS}: only 'none' and 'auto' are supported", "none", "auto")] = None
    max_tool_calls: int | None = None
    background: Annotated[Any, Neutral("answers are not computed in the background", False)] = None
    conversation: Annotated[Any, Neutral("the server stores no conversations: send the messages as input")] = None
    context_management: Annotated[Any, Neutral("the server does not summarize conversations", [])] = None
    prompt: Annotated[Any, Neutral("the server stores no prompts: send the text as input")] = None


class OutputText(BaseModel):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[Any]


class OutputMessage(BaseModel):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[OutputText]


class ResponsesUsage(BaseModel):
    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class ResponsesAnswer(BaseModel):
    """An answer. OpenAI's other fields are there too, with their neutral values."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete"]
    incomplete_details: dict[str, str] | None
    model: str
    output: list[OutputMessage]
    usage: ResponsesUsage | None


class DeletedResponse(BaseModel):
    """The answer to a deletion."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class ResponsesFormat:
    """Answers of /v1/responses.

    Args:
        service: the service, whose store remembers the answer if the request does not forbid it.
        body: the request.
        messages: the conversation before the answer.
        top: number of likeliest tokens reported with each token; None reports no log-probabilities.
    """

    media_type = "text/event-stream"

    def __init__(self, service: Service, store: ResponseStore, body: ResponsesRequest, messages: TemplateMessages, top: int | None) -> None:
        self.id, self.item_id = f"resp_{secrets.token_hex(24)}", f"msg_{secrets.token_hex(24)}"
        self.tokenizer, self.model, self.store, self.request = service.tokenizer, service.name, store, body
        self.messages, self.top = messages, top
        self.created = int(time.time())
        self._events, self._text, self._logprobs, self._reason = 0, "", list[Any](), ""

    def body(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        self._add(choices[0].tokens)
        self._reason = choices[0].finish_reason
        return self._finished(usage)

    def opening(self) -> bytes:
        response, item = self._response("in_progress", [], None), self._item("in_progress", [])
        return (
            self._event("response.created", response=response)
            + self._event("response.in_progress", response=response)
            + self._event("response.output_item.added", output_index=0, item=item)
            + self._event("response.content_part.added", **self._place(), part=self._part("", []))
        )

    def batch(self, index: int, tokens: Sequence[Token]) -> bytes:
        text, logprobs = self._add(tokens)
        if not text and not logprobs:
            return b""
        return self._event("response.output_text.delta", **self._place(), delta=text, logprobs=logprobs)

    def finish(self, index: int, finish_reason: str) -> bytes:
        self._reason = finish_reason
        part, item = self._part(self._text, self._logprobs), self._item(self._status(), [self._part(self._text, self._logprobs)])
        return (
            self._event("response.output_text.done", **self._place(), text=self._text, logprobs=self._logprobs)
            + self._event("response.content_part.done", **self._place(), part=part)
            + self._event("response.output_item.done", output_index=0, item=item)
        )

    def closing(self, usage: Usage) -> bytes:
        # OpenAI's own client fails without "response.completed". It is ready for "response.incomplete" only if it has set a limit.
        kind = "completed" if self.request.max_output_tokens is None else self._status()
        return self._event(f"response.{kind}", response=self._finished(usage))

    def error(self, error: ApiError) -> bytes:
        return self._event("error", code=error.code, message=error.message, param=error.param)

    def _add(self, tokens: Sequence[Token]) -> tuple[str, list[Any]]:
        """Note new tokens: their text and their log-probabilities."""
        text = "".join(token.text for token in tokens)
        logprobs = [] if self.top is None else logprob_entries(self.tokenizer, tokens)
        self._text += text
        self._logprobs += logprobs
        return text, logprobs

    def _status(self) -> str:
        return "incomplete" if self._reason == "length" else "completed"

    def _finished(self, usage: Usage) -> dict[str, Any]:
        """The complete answer; the store remembers it."""
        body = self._response(self._status(), [self._item(self._status(), [self._part(self._text, self._logprobs)])], usage)
        if self.request.store is not False:
            answer = {"role": "assistant", "content": self._text}
            messages = [*self.messages, answer]
            if len(messages) > 1 and messages[-2]["role"] == "assistant":  # the model has continued this text
                messages[-2:] = [{"role": "assistant", "content": messages[-2]["content"] + self._text}]
            self.store.remember(self.id, StoredResponse(bytes(JSONResponse(body).body), self.item_id, messages), answer)
        return body

    def _event(self, kind: str, **data: Any) -> bytes:
        self._events += 1
        data = {"type": kind, "sequence_number": self._events - 1, **data}
        return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.item_id, "output_index": 0, "content_index": 0}

    def _part(self, text: str, logprobs: list[Any]) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}

    def _item(self, status: str, content: list[Any]) -> dict[str, Any]:
        return {"id": self.item_id, "type": "message", "role": "assistant", "status": status, "content": content}

    def _response(self, status: str, output: list[Any], usage: Usage | None) -> dict[str, Any]:
        body = self.request
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": self.model,
            "output": output,
            "parallel_tool_calls": False,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": None, "summary": None},
            "store": body.store is not False,
            "temperature": body.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": body.top_p,
            "truncation": body.truncation or "auto",
            "usage": None if usage is None else _usage_object(usage),
            "user": body.user,
        }


def _usage_object(usage: Usage) -> dict[str, Any]:
    details = {"cached_tokens": usage.cached, "cache_write_tokens": 0, "omitted_messages": usage.omitted}
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": details,
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt + usage.completion,
    }


@router.post("/responses", responses={**also("text/event-stream"), **errors(404, *GENERATE)}, response_model=ResponsesAnswer)
async def create_response(request: Request, body: ResponsesRequest, service: ServiceOf) -> Response:
    """Answer a conversation."""
    if body.tools and body.tool_choice != "none":
        raise ApiError(400, f'tools: {NO_TOOLS}: leave them out, or set tool_choice to "none"', "tools", "unsupported_value")
    top = (body.top_logprobs or 0) if body.top_logprobs is not None or LOGPROBS in (body.include or ()) else None
    store: ResponseStore = request.app.state.response_store
    messages = _messages(body, store)
    settings = {"temperature": body.temperature, "top_p": body.top_p}
    sampling = service.sampling(settings, max_tokens=body.max_output_tokens, seed=None, logit_bias={})
    overflow = {None: None, "auto": "drop", "disabled": "error"}[body.truncation]
    instructions = [{"role": "system", "content": body.instructions}] if body.instructions else []
    ids, usage = await run_in_threadpool(service.chat_prompt, [*instructions, *messages], sampling, "input", overflow)
    answer_format = ResponsesFormat(service, store, body, messages, top)
    spec = CompletionSpec(ids, sampling, logprobs=top)
    return await service.answer(request, [spec], usage=usage, answer_format=answer_format, stream=bool(body.stream))


@router.get("/responses/{response_id}", responses=errors(404, *READ), response_model=ResponsesAnswer)
async def get_response(request: Request, response_id: str) -> Response:
    """A recent answer again."""
    store: ResponseStore = request.app.state.response_store
    return Response(store.response(response_id).body, media_type="application/json")


@router.delete("/responses/{response_id}", responses=errors(404, *READ), response_model=DeletedResponse)
async def delete_response(request: Request, response_id: str) -> Response:
    """Forget an answer."""
    store: ResponseStore = request.app.state.response_store
    store.forget(response_id)
    return JSONResponse({"id": response_id, "object": "response", "deleted": True})


def _messages(body: ResponsesRequest, store: ResponseStore) -> TemplateMessages:
    """The conversation of a request, without its instructions, which hold for one answer only."""
    before = body.previous_response_id
    messages = list(store.response(before, "Previous response", "previous_response_id").messages) if before else []
    if isinstance(body.input, str):
        return [*messages, {"role": "user", "content": body.input}]
    for number, item in enumerate(body.input):
        if item.type == "item_reference":
            messages.append(store.item(item.id, f"input[{number}].id"))
        elif item.type == "message":
            if item.role is None:
                raise ApiError(
                    400, f"Missing required parameter: 'input[{number}].role'.", f"input[{number}].role", "missing_required_parameter"
                )
            messages.append({"role": item.role, "content": content_text(item.content)})
    return messages
