"""The vendors' own packages, each loaded by the first test that uses it: all of them together take every process that
collects the tests four seconds and 80 MB."""

from __future__ import annotations

import importlib
from typing import Any


class Package:
    """`import name`, put off until something of it is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if not attribute[0].isalpha():  # pytest looks at all that a module holds while it collects
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)


anthropic = Package("anthropic")
api_error = Package("cohere.core.api_error")
cohere = Package("cohere")
cohere_errors = Package("cohere.errors")  # no attribute of the package before somebody has loaded it
genai = Package("google.genai")
mistral = Package("mistralai.client")
openai = Package("openai")
pydantic = Package("pydantic")
