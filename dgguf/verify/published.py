"""What the published files say: ids of known texts in their vocabulary, and a conversation as rendered."""

from collections.abc import Sequence

from dgguf.text.chat import ChatTemplate, Message
from dgguf.text.tokenizer import Tokenizer

# Tokens by which the published vocabulary of 262,144 tokens is known.
_N_TOKENS = 262_144
_KNOWN_BY = {2: "<bos>", 105: "<|turn>", 818: "The", 1902: " world", 9259: "Hello", 236761: "."}

# Texts and their ids, no BOS token before them; special tokens in the last one count as such.
_TEXTS: tuple[tuple[str, tuple[int, ...]], ...] = (
    (
        "The quick brown fox jumps over the lazy dog.",
        (818, 3823, 8864, 37423, 38167, 1024, 506, 31770, 4799, 236761),
    ),
    ("Hello, world! How are you today?", (9259, 236764, 1902, 236888, 2088, 659, 611, 3124, 236881)),
    (
        "Café naïve façade über Straße żółw język",
        (160319, 236859, 120362, 96008, 8046, 80176, 207635, 236765, 119116, 90838),
    ),
    (
        "Hello 😀🔥 world 🌍✨ test 🤖",
        (9259, 163543, 240785, 1902, 236743, 244906, 239794, 1594, 236743, 246143),
    ),
    ("   leading spaces", (139, 26016, 9952)),
    ("a  b   c    d", (236746, 138, 236763, 139, 236755, 140, 236753)),
    ("\n" * 20, (126,)),
    (
        "line1\nline2\n\nline3\n\n\n\tindented\ttabs\t\n",
        (
            *(1257, 236770, 107, 1257, 236778, 108, 1257, 236800, 109, 255968, 724, 16764, 255968, 39218),
            *(255968, 107),
        ),
    ),
    (
        "<|turn>user\nHello there<turn|>\n<|turn>model\n",
        (105, 2364, 107, 9259, 993, 106, 107, 105, 4368, 107),
    ),
)

_CONVERSATION: Sequence[Message] = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Spell cat."},
)
_TURNS = (
    "Be brief.<turn|>\n<|turn>user\nHi<turn|>\n<|turn>model\nHello.<turn|>\n"
    "<|turn>user\nSpell cat.<turn|>\n<|turn>model\n"
)
# With thoughts, and without: the first published template then writes an empty thought, the second none.
_RENDERED = {
    True: ("<bos><|turn>system\n<|think|>\n" + _TURNS,),
    False: tuple("<bos><|turn>system\n" + _TURNS + end for end in ("<|channel>thought\n<channel|>", "")),
}


def is_published_vocabulary(tokenizer: Tokenizer) -> bool:
    """Whether a vocabulary is that of the published files, by some of its tokens."""
    return tokenizer.n_tokens == _N_TOKENS and all(
        tokenizer.token_text(token) == text for token, text in _KNOWN_BY.items()
    )


def token_faults(tokenizer: Tokenizer) -> list[str]:
    """The known texts that the published vocabulary's ids do not come out for, a sentence each."""
    found = [(text, wanted, tokenizer.encode(text, special="<|turn>" in text)) for text, wanted in _TEXTS]
    return [f"{text!r} gives {ids}, not {list(wanted)}" for text, wanted, ids in found if ids != [*wanted]]


def template_faults(template: ChatTemplate) -> list[str]:
    """Where a template renders the known conversation as neither published one does, a sentence each."""
    faults = []
    for think, wanted in _RENDERED.items():
        text = template.render(_CONVERSATION, think=think, special_tokens={"bos_token": "<bos>"})
        if text not in wanted:
            faults.append(f"with{'out' * (not think)} thoughts: {text!r}")
    return faults
