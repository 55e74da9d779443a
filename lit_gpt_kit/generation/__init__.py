"""A model's next tokens: sampling, the cached loop, stopping."""
