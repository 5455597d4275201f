"""What a client wants of a simulated provider, whatever the dialect it was said in. Pure values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from monitor.probing.question import Tool

_CODE_WORD = re.compile(r"(\S+) is a code word")


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
        if (told := _CODE_WORD.search(self.prompt)) is not None:
            return told[1].strip(".,:;!?\"'")
        return self.prompt.split(maxsplit=1)[0].strip(".,:;!?\"'") if self.prompt.strip() else "nothing"
