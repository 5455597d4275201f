"""The probe kinds: what each asks, and whether the answer is the one that was asked for. Pure.

kind        what is asked                                        the answer is ok if
chat        to write the nonce and to count                      it holds the nonce
long        to write the nonce that stands before a long text    it holds the nonce
cache       to write the nonce behind a prefix that stays        it holds the nonce
vision      which colour an image has                            it names that colour and no other
tools       to call a function with the nonce                    the call's arguments hold the nonce
json        for an object with the nonce                         it is JSON, as the schema says, with the nonce
embeddings  for the vector of a short text                       the vector has dimensions
"""

from __future__ import annotations

import random
import re
import struct
import zlib
from collections.abc import Mapping

import msgspec

from monitor.observation import CHAT
from monitor.probing.measure import Tape
from monitor.probing.prompt import contains_nonce, prompt_text
from monitor.probing.question import Question, Tool

CACHE = "cache"
EMBEDDINGS = "embeddings"
KINDS = (CHAT, "long", "vision", "tools", "json", EMBEDDINGS, CACHE)

LONG_PROMPT_TOKENS = 4000
# The least prefix that providers cache is 1,024 tokens with most and 2,048 with some models of Anthropic and Google.
PREFIX_WORDS = 2200
# A call or an object takes some 30 tokens; under a smaller cap it would be cut for our own sake.
LEAST_STRUCTURED_TOKENS = 64
_DAY_SECONDS = 86400.0

# Plain words behind a blank: each is at least one token to every tokenizer, and few are more.
_VOCABULARY = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work night point home water room mother area money story "
    "fact month lot right study book eye job word business issue side kind head house service friend father power hour "
    "game line end member law car city name team minute idea body back parent face level office door health person art "
    "war history party result change morning reason research girl guy moment air teacher force education foot boy age "
    "policy music market sense nation plan college interest death course someone experience behind voice field paper "
    "river garden window summer winter letter street corner bridge island forest mountain valley road train ship horse "
    "bird fish stone wood glass iron gold silver bread salt sugar milk tea coffee apple table chair lamp clock wall "
    "floor roof stair cup plate knife spoon coat shoe hat ring bell drum song dance smile dream sleep walk run jump"
)
_WORDS = _VOCABULARY.split()
_WORDS_A_SENTENCE = 14

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (255, 0, 0),
    "green": (0, 128, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "orange": (255, 165, 0),
    "purple": (128, 0, 128),
}
_COLOUR_NAMES = tuple(COLOURS)
_COLOUR = re.compile(rf"\b({'|'.join(_COLOUR_NAMES)})\b")
IMAGE_PIXELS = 64  # a side; smaller ones are refused by some hosts

TOOL = Tool(
    "record_code_word",
    "Records a code word.",
    {
        "type": "object",
        "properties": {"code_word": {"type": "string", "description": "The code word"}},
        "required": ["code_word"],
        "additionalProperties": False,
    },
)
SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {"code_word": {"type": "string"}, "characters": {"type": "integer"}},
    "required": ["code_word", "characters"],
    "additionalProperties": False,
}


def question_of(
    kind: str, nonce: str, *, max_tokens: int, endpoint: str, now: float, prompt_tokens: int = LONG_PROMPT_TOKENS
) -> Question:
    """What a probe of `kind` asks. `endpoint` (its id) and the UTC day of `now` make the prefix that a cache shall
    hold; `prompt_tokens` is the length of a long prompt. KeyError for an unknown kind."""
    if kind == CHAT:
        return Question(prompt_text(nonce), max_tokens)
    said = f"{nonce} is a code word. "
    structured_tokens = max(max_tokens, LEAST_STRUCTURED_TOKENS)
    if kind == "long":
        text = filler(nonce, prompt_tokens)
        return Question(f"{said}Here is a text.\n{text}\n{_WRITE}", max_tokens, kind)
    if kind == CACHE:
        prefix = f"{filler(f'{endpoint} {int(now // _DAY_SECONDS)}', PREFIX_WORDS)}\n"
        return Question(f"{prefix}{said}{_WRITE}", max_tokens, kind, prefix_bytes=len(prefix))
    if kind == "vision":
        prompt = f"{said}Forget it. Which colour has the image? Answer with one of: {', '.join(_COLOUR_NAMES)}."
        return Question(prompt, max_tokens, kind, image=solid_png(*COLOURS[colour_of(nonce)]))
    if kind == "tools":
        return Question(f"{said}Call the function {TOOL.name} with it.", structured_tokens, kind, tool=TOOL)
    if kind == "json":
        prompt = (
            f"{said}Answer with a JSON object: `code_word` is the code word, `characters` how many characters it has. "
            "Write nothing but the JSON."
        )
        return Question(prompt, structured_tokens, kind, schema=SCHEMA)
    if kind == EMBEDDINGS:
        return Question(f"{said}It stands for a river in the mountains.", max_tokens, kind)
    raise KeyError(kind)


_WRITE = "Write the code word and nothing else."


def answer_ok(kind: str, nonce: str, tape: Tape) -> bool:
    """Whether a successful probe got what it asked for; see the module's table."""
    if kind == "tools":
        return contains_nonce(tape.called, nonce)
    if kind == EMBEDDINGS:
        return bool(tape.dimensions)
    if kind == "vision":
        return set(_COLOUR.findall(tape.answer.lower())) == {colour_of(nonce)}
    if kind == "json":
        return _is_object_with(tape.answer, nonce)
    return contains_nonce(tape.answer, nonce)


def _is_object_with(answer: str, nonce: str) -> bool:
    try:
        value = msgspec.json.decode(answer.encode("utf-8", "replace"))
    except msgspec.DecodeError:
        return False
    return satisfies(value, SCHEMA) and contains_nonce(value["code_word"], nonce)


def satisfies(value: object, schema: Mapping[str, object]) -> bool:
    """Whether `value` is what a schema of objects, strings and integers says: what SCHEMA needs, and no more."""
    kind = schema["type"]
    if kind == "string":
        return isinstance(value, str)
    if kind == "integer":
        # JSON schema counts 10.0 as an integer.
        if isinstance(value, float):
            return value.is_integer()
        return isinstance(value, int) and not isinstance(value, bool)
    assert kind == "object"
    properties = schema["properties"]
    assert isinstance(properties, Mapping)
    if not isinstance(value, dict) or value.keys() - properties.keys():
        return False
    required = schema["required"]
    assert isinstance(required, list)
    return all(name in value for name in required) and all(satisfies(value[name], properties[name]) for name in value)


def filler(seed: str, words: int) -> str:
    """The same English-looking words for the same seed: no fewer tokens than `words`, and seldom a fifth more."""
    drawn = random.Random(seed).choices(_WORDS, k=words)
    sentences = (drawn[at : at + _WORDS_A_SENTENCE] for at in range(0, words, _WORDS_A_SENTENCE))
    return " ".join(f"{' '.join(each).capitalize()}." for each in sentences)


def colour_of(nonce: str) -> str:
    return _COLOUR_NAMES[zlib.crc32(nonce.encode()) % len(_COLOUR_NAMES)]


def solid_png(red: int, green: int, blue: int) -> bytes:
    """A square of one colour as an 8-bit RGB PNG."""
    side = IMAGE_PIXELS
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = (b"\0" + bytes((red, green, blue)) * side) * side
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(name, data) for name, data in chunks)


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
