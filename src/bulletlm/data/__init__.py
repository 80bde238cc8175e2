"""Turning files of text into a clean, split and tokenised corpus."""
