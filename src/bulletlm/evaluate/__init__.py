"""Judging a finished model: FP32 against 4-bit, in numbers, in generations and in a report."""

from bulletlm.evaluate.report import evaluate_run

__all__ = ["evaluate_run"]
