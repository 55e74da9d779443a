"""Text to token ids and back, on Hugging Face `tokenizers`."""
