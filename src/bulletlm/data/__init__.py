"""Turning files of text into a clean, split and tokenised corpus."""

from bulletlm.data.prepare import prepare_data
from bulletlm.data.vocabulary import prepare_tokenizer

__all__ = ["prepare_data", "prepare_tokenizer"]
