"""The LLM provider monitor."""

__version__ = "0.1.0"
