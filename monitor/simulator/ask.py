"""What a client wants of a simulated provider, whatever the dialect it was said in. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from monitor.probing.question import Tool


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. What is None, False or empty was not asked for."""

    upstream: str
    prompt: str  # the text of the last message
    stream: bool
    include_usage: bool  # True as well where the API tells usage without being asked
    max_tokens: int
    key: str = ""  # the credential that was sent
    image: bytes | None = None  # a PNG
    tool: Tool | None = None  # the function that is to be called
    schema: Mapping[str, object] | None = None  # the answer is to be JSON that it describes; {}: any JSON object
    wants_vector: bool = False
    form: str = ""  # whatever the speech itself has to remember: `base64`, a framing that was chosen

    @property
    def nonce(self) -> str:
        """The code word of the prompt, else its first word: a right answer repeats it."""
        before, is_told, _ = self.prompt.partition(" is a code word")
        words = before.split()
        word = words[-1 if is_told else 0] if words else "nothing"
        return word.strip(".,:;!?\"'")
