"""The common layouts of conversations and texts in rows of JSON or of a table.

The tables at the top list the field names; `read_row` tries them in order. `data.sources[].columns` maps any other layout.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bulletlm.text.documents import Message

ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "customer", "student", "questioner", "usr"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "chatgpt", "chatbot", "model", "ai", "agent", "teacher", "answerer"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    # The output of a tool is treated as a message of the user.
    **dict.fromkeys(("tool", "function", "observation", "ipython", "tool_response", "tool_result"), "user"),
    **dict.fromkeys(("function_call", "tool_call"), "assistant"),
}
"""Names of roles, in lower case."""

_LISTS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns", "utterances")
_ROLE_KEYS = ("role", "from", "speaker", "author", "sender")
_CONTENT_KEYS = ("content", "value", "text", "message", "utterance", "body")
_SYSTEM_KEYS = ("system", "system_prompt")
_HISTORY_KEYS = ("history",)

_PAIRS: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    (("prompt", "instruction"), ("response", "completion", "output", "answer", "chosen"), ("input", "context")),
    (("question", "query", "q"), ("answer", "response", "output", "reply", "a"), ("context",)),
    (("input",), ("output", "target", "response", "answer"), ()),
    (("user", "human"), ("assistant", "gpt", "bot", "ai", "response"), ()),
)
"""Names of the request, of the answer, and of text that belongs to the request."""

_REQUESTS = {name for requests, _, _ in _PAIRS for name in requests}

MAIN_NAMES = {"translation"} | set(_LISTS) | _REQUESTS
"""Column names of which one is enough to recognize a layout."""

USED_NAMES = (
    {"translation"} | set(_LISTS) | set(_SYSTEM_KEYS) | set(_HISTORY_KEYS) | {name for pair in _PAIRS for names in pair for name in names}
)
"""All column names that `read_row` uses, except the name of the text column."""

COLUMN_ROLES = ("user", "assistant", "system", "text", "messages", "role", "content")
"""The keys of `data.sources[].columns` in addition to language codes."""


@dataclass
class Row:
    """The content of a row: `messages`, `text`, or one text in each of several languages; or the reason why there is none."""

    messages: list[Message] = field(default_factory=list)
    text: str | None = None
    translations: dict[str, str] = field(default_factory=dict)
    reason: str | None = None
    layout: str = ""


def read_row(value: Any, text: str = "text", columns: Mapping[str, str | int] | None = None) -> Row:
    """Recognize the layout of a row of JSON.

    Args:
        value: the parsed row.
        text: name of the column that holds plain text.
        columns: the column mapping of the configuration: "user", "assistant", "system", "text", "messages", "role", "content"
            or a language code -> name of a column.
    """
    if isinstance(value, list):
        return _from_list(value, columns or {}, "a list of messages")
    if not isinstance(value, Mapping):
        return Row(reason="not_a_json_object")
    row = {str(name): item for name, item in value.items() if item is not None and item != []}
    if columns:
        return _mapped(row, columns)
    if text != "text" and isinstance(row.get(text), str):
        return Row(text=row[text], layout=text)
    names = {name.strip().lower(): name for name in reversed(row)}
    named = {lower: row[name] for lower, name in names.items()}
    for name in _LISTS:
        if isinstance(named.get(name), list):
            found = _from_list(named[name], {}, names[name])
            return _with_system(found, named)
    if isinstance(named.get("translation"), Mapping):
        found = _translations(named["translation"])
        if found.translations:
            return found
    reason: str | None = None
    for requests, answers, extras in _PAIRS:
        request = next((name for name in requests if name in named), None)
        if request is None:
            continue
        answer = next((name for name in answers if name in named and name != request), None)
        if answer is not None:
            found = _pair(named, request, answer, extras)
            if not found.reason:
                return found
        reason = "prompt_without_response"
    if isinstance(row.get(text), str):
        return _text_beside_a_request(named, row[text], text)
    if any(name in named and isinstance(value.get(names[name]), (list, str, Mapping)) for name in _LISTS):
        return Row(reason="messages_without_role_and_content")
    if any(name in value for name in _LISTS) and not any(name in named for name in _REQUESTS):
        return Row(reason="messages_without_role_and_content")
    return Row(reason=reason or "no_text_or_messages")


def keys_found(value: Any) -> str:
    """The keys of a row in one line, for messages."""
    if isinstance(value, list):
        return "a list of " + (keys_found(value[0]) if value and isinstance(value[0], (list, Mapping)) else "values")
    if not isinstance(value, Mapping):
        return "no keys"
    names = [str(name) for name in value]
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")


def mapping_advice(names: Sequence[str]) -> str:
    """Advice for messages on how to map columns with these names."""
    if len(names) == 1:
        return f'name the text column in data.sources, as in {{"path": ..., "text": "{names[0]}"}}'
    first, second = names[:2] if names else ("q", "a")
    return (
        f'map the columns in data.sources, as in {{"path": ..., "columns": {{"user": "{first}", "assistant": "{second}"}}}} '
        f'or {{"path": ..., "text": "{first}"}}'
    )


def to_text(value: Any) -> str | None:
    """Text of a message: a string, a number, or a list of parts that are all text. None for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, Mapping):
        inner = next((value[name] for name in ("text", "content", "value", "parts") if name in value), None)
        return to_text(inner) if inner is not None else None
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        parts = [to_text(part) for part in value]
        if parts and all(isinstance(part, str) for part in parts):
            return "\n".join(part for part in parts if part)
    return None


def _from_list(items: Sequence[Any], columns: Mapping[str, str | int], layout: str) -> Row:
    """Messages with roles, pairs of request and answer, or plain strings of two speakers in turn."""
    bad = Row(reason="messages_without_role_and_content")
    if not items:
        return bad
    if all(isinstance(item, str) for item in items):
        if len(items) < 2:
            return bad
        return Row(_in_turn(list(items)), layout=f"{layout}: texts of two speakers in turn")
    if all(isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 2 for item in items):
        texts = [to_text(part) for item in items for part in item]
        return bad if None in texts else Row(_in_turn([part or "" for part in texts]), layout=f"{layout}: pairs")
    messages: list[Message] = []
    role_key = content_key = ""
    for item in items:
        if not isinstance(item, Mapping):
            return bad
        role_key = _key(item, _ROLE_KEYS, columns.get("role"))
        content_key = _key(item, _CONTENT_KEYS, columns.get("content"))
        role = item.get(role_key)
        known = ROLES.get(role.strip().lower()) if isinstance(role, str) else None
        content = "" if item.get(content_key) is None else to_text(item[content_key])
        if known is None or content is None or (not content_key and not _calls_a_tool(item)):
            return bad
        # A tool call is not text; an empty message is left out here and its neighbours are joined.
        if content or not _calls_a_tool(item):
            messages.append({"role": known, "content": content})
    return Row(messages, layout=f"{layout}: {role_key}, {content_key}")


def _key(item: Mapping[str, Any], names: Sequence[str], chosen: str | int | None) -> str:
    if chosen is not None:
        return str(chosen) if chosen in item else ""
    return next((name for name in names if name in item), "")


def _calls_a_tool(item: Mapping[str, Any]) -> bool:
    return any(name in item for name in ("tool_calls", "function_call"))


def _in_turn(texts: Sequence[str]) -> list[Message]:
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


def _with_system(found: Row, named: Mapping[str, Any]) -> Row:
    """Add the system text of the row, if the list of messages has none."""
    system = next((named[name] for name in _SYSTEM_KEYS if isinstance(named.get(name), str) and named[name].strip()), None)
    if system and found.messages and found.messages[0]["role"] != "system":
        found.messages.insert(0, {"role": "system", "content": system})
    return found


def _pair(named: Mapping[str, Any], request: str, answer: str, extras: Sequence[str]) -> Row:
    asked, given = named[request], named[answer]
    if isinstance(given, list) and given and all(isinstance(item, Mapping) for item in given):
        # A preference row: the answer is a conversation, with or without the request in it.
        found = _from_list(given, {}, answer)
        if found.messages and found.messages[0]["role"] == "assistant":
            before = _from_list(asked, {}, request).messages if isinstance(asked, list) else _in_turn([to_text(asked) or ""])
            found.messages[:0] = before
        return found
    before_last: list[Message] = []
    if isinstance(asked, list) and all(isinstance(item, Mapping) for item in asked):
        listed = _from_list(asked, {}, request)
        if listed.reason:
            return Row(reason="prompt_without_response")
        before_last, question = listed.messages, None
    else:
        question = to_text(asked)
        if question is None:
            return Row(reason="prompt_without_response")
    reply = to_text(given)
    if reply is None:
        return Row(reason="prompt_without_response")
    used = [request]
    if question is not None:
        for name in extras:
            extra = to_text(named[name]) if name in named and name not in (request, answer) else ""
            if extra is None:
                return Row(reason="prompt_without_response")
            if extra.strip():
                question = f"{question}\n{extra}"
                used.append(name)
    messages: list[Message] = []
    for name in _HISTORY_KEYS:
        if named.get(name):
            history = _from_list(named[name], {}, name) if isinstance(named[name], list) else Row(reason="no_list")
            if history.reason:
                return Row(reason="prompt_without_response")
            messages += history.messages
            used.append(name)
    messages += before_last if question is None else [{"role": "user", "content": question}]
    messages.append({"role": "assistant", "content": reply})
    return _with_system(Row(messages, layout=", ".join([*used, answer])), named)


def _text_beside_a_request(named: Mapping[str, Any], written: str, name: str) -> Row:
    """A text that answers the request in the same row, unless the text contains the request."""
    request = next((named[key] for key in ("prompt", "instruction") if isinstance(named.get(key), str)), "")
    if request.strip() and written.strip() and request.strip() not in written:
        return Row(_in_turn([request, written]), layout=f"prompt, {name}")
    return Row(text=written, layout=name)


def _translations(value: Mapping[str, Any]) -> Row:
    texts = {code: text for code, text in value.items() if isinstance(text, str) and text.strip()}
    if len(texts) < 2:
        return Row(reason="no_text_or_messages")
    return Row(translations=texts, layout="translation: " + ", ".join(sorted(texts)))


def _mapped(row: Mapping[str, Any], columns: Mapping[str, str | int]) -> Row:
    """A row whose columns the user has named."""

    def value(role: str) -> Any:
        return row.get(str(columns[role])) if role in columns else None

    if "messages" in columns or "role" in columns or "content" in columns:
        items = value("messages") if "messages" in columns else next((row[name] for name in _LISTS if name in row), None)
        if not isinstance(items, list):
            return Row(reason="messages_without_role_and_content")
        return _from_list(items, columns, str(columns.get("messages", "messages")))
    layout = ", ".join(str(name) for name in columns.values())
    if "user" in columns or "assistant" in columns:
        asked, given, system = to_text(value("user")), to_text(value("assistant")), to_text(value("system"))
        if asked is None or given is None:
            return Row(reason="prompt_without_response")
        messages: list[Message] = [{"role": "system", "content": system}] if system else []
        return Row([*messages, *_in_turn([asked, given])], layout=layout)
    if "text" in columns:
        written = to_text(value("text"))
        return Row(text=written, layout=layout) if written is not None else Row(reason="no_text_or_messages")
    texts = {code: text for code in columns if isinstance(text := value(code), str) and text.strip()}
    return Row(translations=texts, layout=layout) if len(texts) > 1 else Row(reason="no_text_or_messages")
