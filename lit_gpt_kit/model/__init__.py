"""The network: a GPT written from scratch on torch alone. Start reading at gpt.py."""
