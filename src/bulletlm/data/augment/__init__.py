"""Data augmentation by paraphrasing and back-translation (docs/augmentation.md)."""

from bulletlm.data.augment.stage import augment_training, reproducibility_fields

__all__ = ["augment_training", "reproducibility_fields"]
