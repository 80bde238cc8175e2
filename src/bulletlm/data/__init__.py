"""The data stage: reads text files and writes a clean, split and tokenized corpus."""
