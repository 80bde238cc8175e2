"""What the model says to a few prompts while it learns."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from bulletlm.runtime import Model, NumpyEngine, Sampling, Session
from bulletlm.shape import ModelShape
from bulletlm.text.chat import encode_prompt
from bulletlm.text.tokenizer import Tokenizer

MAX_TOKENS = 24
"""Of an answer: enough to see whether it is language, and done in a fraction of a second."""


@dataclass(frozen=True)
class SamplePrompts:
    """The prompts of a run, and the tokenizer for them."""

    tokenizer: Tokenizer
    prompts: tuple[str, ...]


def answers(weights: Mapping[str, Tensor], shape: ModelShape, asked: SamplePrompts) -> Iterator[tuple[str, str]]:
    """(prompt, answer) for every prompt, always the likeliest token, on one line each."""
    engine = NumpyEngine(shape, {name: weight.float().cpu().numpy() for name, weight in weights.items()})
    model = Model(engine, asked.tokenizer, shape, Sampling(), {})
    sampling = Sampling(temperature=0, max_tokens=MAX_TOKENS)
    for prompt in asked.prompts:
        ids = encode_prompt(asked.tokenizer, [{"role": "user", "content": prompt}])
        text = "".join(token.text for token in Session(model).generate(ids, sampling))
        yield prompt, " ".join(text.split())
