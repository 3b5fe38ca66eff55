"""Plain checks of an answer's text: is it garbled, does it decline, which numbers and sentences are in it."""

import re

ALLOWED = re.compile(
    r"[\x20-\x7e\n\t\u00a1-\u024f\u2010-\u201f\u2022\u2026\u2190-\u21ff\u2500-\u257f\u2705\u2764]"
)
EMOJI = re.compile(r"[\u2600-\u27bf\ufe0f\U0001f300-\U0001faff]")
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”")
DECLINES = re.compile(
    r"\bI(?: am|'m| was) (?:not able|unable|afraid|sorry|not allowed|too (?:small|tiny|little))"
    r"|\bI(?: really| just| simply)? (?:do not|don't|can't|cannot|can not|won't|could not|couldn't)\b"
    r"|\bI (?:did not|didn't|(?:never|have not|haven't) learn(?:ed|t)?|(?:know|have) (?:nothing|no))\b"
    r"|(?:^|[.!,]\s*)(?:sorry|unable to|no idea)\b|\b(?:outside (?:of )?what I|not something I)\b"
    r"|\b(?:beyond (?:me|what)|too (?:big|hard|long|much) for me)\b",
    re.IGNORECASE,
)
LIMITS = re.compile(
    r"\bI (?:can |have |was )?only [a-z]+|\ball I (?:know|can)\b|\bI(?: am|'m) (?:just|only) a\b",
    re.IGNORECASE,
)
NO_SOLUTION = re.compile(
    r"\b(?:no|not any|without a|hasn't a|not have a) (?:valid )?solutions?\b|\bunsolvable\b|\bimpossible\b"
    r"|\b(?:cannot|can't|can not|could not) be (?:solved|filled|completed)"
    r"|\bnot (?:solvable|possible|valid)\b"
    r"|\bcontradict|\binvalid\b|\bconflict|\b(?:twice|two times|more than once)\b",
    re.IGNORECASE,
)
ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = [
    "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
]  # fmt: skip
NUMBER_WORDS = {word: n for n, word in enumerate(ONES)} | {word: 10 * n for n, word in enumerate(TENS, 2)}
NUMBER_WORDS |= {f"{ten}-{one}": NUMBER_WORDS[ten] + NUMBER_WORDS[one] for ten in TENS for one in ONES[1:10]}
NUMBER_WORDS["hundred"] = 100
NO_ARTICLE_CHECK = re.compile(r"^(?:one|once|uni|use|usu|euro|ewe|hour|hono|heir|u[bkr]|y)", re.IGNORECASE)


def words(text: str) -> list[str]:
    """The words in their order, as written."""
    return WORD.findall(text)


def has(text: str, pattern: str) -> bool:
    """Whether whole words match a pattern such as "fox|foxes", whatever the case; "^" and "$" may be used."""
    return re.search(rf"(?<!\w)(?:{pattern})(?!\w)", text, re.IGNORECASE) is not None


def declines(text: str, *, limits: bool = True) -> bool:
    """Whether the answer, what is said in quotes aside, refuses; with `limits` also by "I only know …"."""
    own = QUOTED.sub("", text).replace("’", "'")
    return DECLINES.search(own) is not None or (limits and LIMITS.search(own) is not None)


def numbers(text: str) -> list[str]:
    """The numbers written in digits, in order; if there are none, those written as words."""
    found = re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?", text)
    if found:
        return found
    spelled = re.sub(rf"\b({'|'.join(TENS)}) (?=(?:{'|'.join(ONES[1:10])})\b)", r"\1-", text.lower())
    return [str(NUMBER_WORDS[word]) for word in words(spelled) if word in NUMBER_WORDS]


def sentences(text: str) -> list[str]:
    """The sentences of a prose text; a question or cry inside quotes belongs to the sentence around it."""
    flat = re.sub(r"\b(Dr|Mrs?|Ms|St)\.", r"\1", " ".join(text.split()))
    flat = QUOTED.sub(lambda quoted: re.sub(r"[.!?…]+(?=.*\w)", ",", quoted.group()), flat)
    return [part for part in re.split(r"(?<=[.!?…])[\"”]?\s+(?=[\"“]?[^a-z\s])", flat) if part]


def garbled(text: str, *, exempt: str = "") -> str | None:
    """Why a text is noise whatever was asked, None if it is not; words in `exempt` may look odd."""
    if not text.strip():
        return "empty"
    strange = ALLOWED.sub("", EMOJI.sub("", text))
    if strange:
        return f"strange characters {strange[:5]!r}"
    found = words(text)
    for first, second, third in zip(found, found[1:], found[2:], strict=False):
        if first.casefold() == second.casefold() == third.casefold():
            return f"{first!r} three times"
    known = set(words(exempt))
    prose = re.sub(r"\b(?:e\.g|i\.e|etc|vs)\.", "", QUOTED.sub("Q", text))
    for start in re.findall(r"(?<!\.)[.!?] +([a-z][\w'’]*)", prose):
        if len(start) < 3 or start not in known:
            return f"a sentence begins with {start!r}"
    for word in found:
        for part in re.split(r"['’-]", word):
            if part not in known and _looks_odd(part):
                return f"{part!r} is no word"
    return None


def prose_fault(text: str, *, exempt: str = "") -> str | None:
    """Why a text is no plain prose: quotes, capitals, ends of sentences, doubled small words."""
    if (why := garbled(text, exempt=exempt)) is not None:
        return why
    if text.count('"') % 2 or text.count("“") != text.count("”"):
        return "quotes are not balanced"
    if not re.search(r"[.!?…][\"”')*]*\s*$", EMOJI.sub("", text)):
        return "the last sentence does not end"
    for sentence in sentences(text):
        opening = re.search(r"\w", sentence)
        if opening is not None and opening.group().islower():
            return f"{sentence[:20]!r} begins without a capital"
    doubled = re.search(
        r"\b(a|an|the|and|to|of|in|was|were|is|it|he|she|they|with|for|at|on) \1\b", text, re.I
    )
    if doubled is not None:
        return f"{doubled.group()!r} doubled"
    if re.search(r"\s[,.!?;](?!\.)|[,;]{2}|[,;][.!?]|(?<!\.)\.\.(?!\.)", text):
        return "stray punctuation"
    return None


def wrong_article(text: str) -> str | None:
    """The first "a owl" or "an fox"; None if there is none."""
    for article, word in re.findall(r"\b([Aa]n?) ([a-z]+)", text):
        if NO_ARTICLE_CHECK.match(word) is None and (word[0] in "aeiou") != (article[1:] == "n"):
            return f"{article} {word}"
    return None


def syllables(word: str) -> int:
    """An estimate for an English word."""
    word = word.casefold()
    n = len(re.findall(r"[aeiouy]+", word))
    if re.search(r"[^aeiouyl]e$|[^aeiouydt]ed$|[^aeiouysxzcg]es$", word) and n > 1:
        n -= 1
    return max(n, 1)


RHYME_SPELLINGS = (
    (r"(?<!e)igh(?=t|$)", "i"),
    (r"ite$", "it"),
    (r"(?<=[aeiou])y$", "y"),
    (r"(?:ough|ew|ue|oo|o)$", "u"),
    (r"ie$", "i"),
    (r"ye$", "i"),
    (r"(?:ay|eigh|ey)$", "ai"),
    (r"(?:ea|ee)$|(?<=^[^aeiou])e$|(?<=^[^aeiou]{2})e$", "ii"),
    (r"ee(?=.)", "ea"),
    (r"oa(?=.)", "o"),
    (r"ai(?=.)", "a"),
    (r"(?<=[^aeiou])e$", ""),
    (r"ow$", "u"),
    (r"ou(?=.)", "ow"),
    (r"(?:air|are|ear|ere)$", "air"),
    (r"(.)\1$", r"\1"),
    (r"y$", "i"),
    (r"ck$", "k"),
)


def rhymes(one: str, other: str) -> bool:
    """Whether two different words end alike, by their spelling: the same last vowels and all behind them."""
    one, other = one.casefold(), other.casefold()
    if one == other:
        return False
    endings = [re.search(r"[aeiouy]+[^aeiouy]*e?s?$", word) for word in (one, other)]
    if endings[0] and endings[1] and endings[0].group() == endings[1].group():
        return True
    return len(one) > 1 and _ending(one) == _ending(other)


def near(one: str, other: str) -> bool:
    """Whether one word becomes the other by one letter more, less, other, or two letters exchanged."""
    if one == other or abs(len(one) - len(other)) > 1:
        return one == other
    start = next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    rest, rest_other = one[start:], other[start:]
    exchanged = rest[:2] == rest_other[1::-1] and rest[2:] == rest_other[2:] and len(rest) > 1
    return exchanged or rest[1:] == rest_other or rest == rest_other[1:] or rest[1:] == rest_other[1:]


def _ending(word: str) -> str:
    for pattern, sound in RHYME_SPELLINGS:
        word = re.sub(pattern, sound, word)
    found = re.search(r"[aeiouy]+[^aeiouy]*$", word)
    return found.group() if found else word


def _looks_odd(word: str) -> bool:
    """No vowel in a long word, a capital inside, a letter four times, or far too long."""
    lower = word.casefold()
    if re.fullmatch(r"([bcfghjlmnprstvwxz])\1*|[bgmhpstrz]+[bhmrstz]", lower):  # hmm, brrr, psst
        return False
    if word.isupper():
        return False
    if len(word) > 20 or re.search(r"([^\W\d_])\1{3}", lower):
        return True
    if re.search(r"[a-z][A-Z]", word) and not re.match(
        r"(?:Mc|Mac|[Jj]ava[Ss]|De|La|Di|i[A-Z]|e[A-Z])", word
    ):
        return True
    return len(word) > 3 and lower.isascii() and not re.search(r"[aeiouy]", lower)
