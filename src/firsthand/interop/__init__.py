"""Models of other programs, in and out: Hugging Face folders, OpenAI's GPT-2 files, GGUF."""
