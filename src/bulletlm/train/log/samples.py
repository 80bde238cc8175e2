"""Answers of the model to a few prompts during training."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from bulletlm.runtime import Model, NumpyEngine, Sampling, Session
from bulletlm.shape import ModelShape
from bulletlm.text.chat import encode_prompt
from bulletlm.text.tokenizer import Tokenizer

MAX_TOKENS = 24
"""Tokens in an answer at most: enough to see whether it is language, and computed in a fraction of a second."""


@dataclass(frozen=True)
class SamplePrompts:
    """The prompts of a run, and its tokenizer."""

    tokenizer: Tokenizer
    prompts: tuple[str, ...]


def answers(weights: Mapping[str, Tensor], shape: ModelShape, asked: SamplePrompts) -> Iterator[tuple[str, str]]:
    """Answer every prompt, always with the most probable token.

    Args:
        weights: float tensors of the model by name, each of the shape that `shape` says.

    Yields:
        prompt and answer, the answer without line breaks.
    """
    engine = NumpyEngine(shape, {name: weight.float().cpu().numpy() for name, weight in weights.items()})
    model = Model(engine, asked.tokenizer, shape, Sampling(), {})
    sampling = Sampling(temperature=0, max_tokens=MAX_TOKENS)
    for prompt in asked.prompts:
        ids = encode_prompt(asked.tokenizer, [{"role": "user", "content": prompt}])
        text = "".join(token.text for token in Session(model).generate(ids, sampling))
        yield prompt, " ".join(text.split())
