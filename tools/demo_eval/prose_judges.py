"""Judges of what is free to be worded: stories, poems, small talk, follow-ups, refusals."""

import re
from collections.abc import Sequence

from tools.demo_eval import text_checks as checks
from tools.demo_eval.verdict import RIGHT, Entry, Verdict, noise, wrong

REFUSED = Verdict("refused")
PLAIN = {
    "a", "an", "and", "are", "as", "at", "be", "because", "did", "do", "does", "for", "from", "gave",
    "give", "given", "had", "has", "have", "he", "her", "him", "his", "i", "in", "is", "it", "its",
    "name", "named", "of", "on", "or", "she", "so", "some", "that", "the", "them", "then", "there",
    "they", "this", "to", "was", "were", "what", "when", "where", "which", "who", "why", "with", "yes",
    "no", "called", "story", "my", "me", "you",
}  # fmt: skip


def wanted(entry: Entry, text: str) -> str | None:
    """What of any, all, none, most_words, upper and end the text does not hold; None if it holds them."""
    missing = [pattern for pattern in entry.get("all", []) if not checks.has(text, pattern)]
    if missing:
        return f"no {missing[0]}"
    if "any" in entry and not any(checks.has(text, pattern) for pattern in entry["any"]):
        return f"none of {', '.join(entry['any'])}"
    for pattern in entry.get("none", []):
        if checks.has(text, pattern):
            return f"has {pattern}"
    if len(checks.words(text)) > entry.get("most_words", 1000):
        return f"more than {entry['most_words']} words"
    if entry.get("upper") and text != text.upper():
        return "not in capitals"
    if "end" in entry and not text.rstrip(" .!?\n\"'").casefold().endswith(entry["end"].casefold()):
        return f"does not end with {entry['end']}"
    return None


def judge_text(entry: Entry, answers: Sequence[str]) -> Verdict:
    """Small talk and other free answers: readable, no refusal, and what is wanted is there."""
    text = answers[-1]
    exempt = " ".join([*entry["messages"], entry.get("system", "")])
    if (why := checks.garbled(text, exempt=exempt)) is not None:
        return noise(why)
    missing = wanted(entry, text)
    if checks.declines(text, limits=False) and not entry.get("may_decline"):
        return REFUSED
    return RIGHT if missing is None else wrong(missing)


def judge_scope(entry: Entry, answers: Sequence[str]) -> Verdict:
    """Out of scope: only a readable refusal is right."""
    text = answers[-1]
    if (why := checks.garbled(text, exempt=" ".join(entry["messages"]))) is not None:
        return noise(why)
    if not checks.declines(text):
        return wrong("no refusal")
    if len(checks.words(text)) > 60:
        return wrong("refuses, and goes on")
    missing = wanted(entry, text)
    return RIGHT if missing is None else wrong(missing)


def judge_story(entry: Entry, answers: Sequence[str]) -> Verdict:
    """Clean prose that keeps names, facts and the length that was asked for."""
    text = answers[-1]
    if checks.declines(text) and len(checks.sentences(text)) < 4:
        return REFUSED
    exempt = " ".join([*entry["messages"], *entry.get("names", []), entry.get("system", "")])
    if (why := checks.prose_fault(text, exempt=exempt)) is not None:
        return noise(why)
    for why in (
        name_fault(text, entry.get("names", [])),
        checks.wrong_article(text),
        length_fault(entry, text),
        wanted(entry, text),
    ):
        if why is not None:
            return wrong(why)
    for fact in entry.get("facts", []):
        if not checks.has(text, fact):
            return wrong(f"no {fact}")
    if entry.get("dialogue") and checks.QUOTED.search(text) is None:
        return wrong("nobody speaks")
    return RIGHT


def name_fault(text: str, names: Sequence[str]) -> str | None:
    """A name that is missing, misspelled or doubled; None if all are kept."""
    for name in names:
        if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text.replace(name.upper(), name)):
            return f"no {name}"
    given = {part for name in names for part in checks.words(name)}
    for sentence in checks.sentences(text):
        for word in checks.words(sentence)[1:]:
            name = re.sub(r"['’]s?$", "", word)
            if name[0].isupper() and name not in given and len(name) > 2:
                close = [right for right in given if len(right) > 3 and checks.near(name, right)]
                if close:
                    return f"{name} for {close[0]}"
    doubled = re.search(r"\b([A-Z][\w'’-]*)(?:,| and|, and| or) \1\b", text)
    return f"{doubled.group()!r}" if doubled else None


def length_fault(entry: Entry, text: str) -> str | None:
    """How the number of sentences breaks what was asked for; a story has at least three."""
    n = len(checks.sentences(text))
    if "sentences" in entry:
        return None if n == entry["sentences"] else f"{n} sentences, not {entry['sentences']}"
    least = entry.get("least_sentences", min(3, entry.get("most_sentences", 3)))
    if not least <= n <= entry.get("most_sentences", 1000):
        return f"{n} sentences"
    return None


def judge_followup(entry: Entry, answers: Sequence[str]) -> Verdict:
    """The last answer beside the one before it: another, longer or shorter story, or an answer from it."""
    relation, text = entry.get("relation"), answers[-1]
    if relation is None:
        return judge_text(entry, answers)
    if relation == "from_story":
        return judge_from_story(entry, answers)
    verdict = judge_story(entry, answers)
    if verdict.outcome != "right":
        return verdict
    before, after = (len(checks.words(answer)) for answer in answers[-2:])
    if " ".join(text.split()) == " ".join(answers[-2].split()):
        return wrong("the same again")
    if relation == "longer" and after <= before:
        return wrong(f"{after} words after {before}")
    if relation == "shorter" and after >= before:
        return wrong(f"{after} words after {before}")
    return RIGHT


def judge_from_story(entry: Entry, answers: Sequence[str]) -> Verdict:
    """A short answer whose words come from the story, one of them not from the question already."""
    verdict = judge_text(entry, answers)
    if verdict.outcome != "right":
        return verdict
    text, story, question = answers[-1], set(_folded(answers[0])), set(_folded(entry["messages"][-1]))
    own = [word for word in _folded(text) if word not in PLAIN]
    foreign = [
        word for word in own if word not in story | question and word.rstrip("s") not in story | question
    ]
    if foreign:
        return wrong(f"{foreign[0]!r} is not in the story")
    if not any(word not in question for word in own):
        return wrong("says nothing new")
    if len(checks.sentences(text)) > 2:
        return wrong("tells the story again")
    return RIGHT


def judge_poem(entry: Entry, answers: Sequence[str]) -> Verdict:
    """A haiku, lines that rhyme, or words that rhyme with one; about the topic."""
    text = answers[-1].strip()
    if checks.declines(text):
        return REFUSED
    if (why := checks.garbled(text, exempt=" ".join(entry["messages"]))) is not None:
        return noise(why)
    if "topic" in entry and not checks.has(text, entry["topic"]):
        return wrong(f"nothing about {entry['topic']}")
    if entry["form"] == "word":
        return _rhyming_words(entry["rhyme"], text)
    lines = [line for line in text.splitlines() if checks.words(line)]
    if entry["form"] == "haiku":
        counts = [sum(map(checks.syllables, checks.words(line))) for line in lines]
        fits = len(counts) == 3 and all(
            abs(n - right) < 2 for n, right in zip(counts, (5, 7, 5), strict=True)
        )
        return RIGHT if fits else wrong(f"syllables {counts}, not 5 7 5")
    if len(lines) < 2 or (entry["form"] == "couplet" and len(lines) != 2):
        return wrong(f"{len(lines)} lines")
    last = [checks.words(line)[-1] for line in lines]
    pairs = [(a, b) for i, a in enumerate(last) for b in last[i + 1 : i + 3] if checks.rhymes(a, b)]
    rhyming = {word for pair in pairs for word in pair}
    return RIGHT if len(rhyming) >= max(2, len(last) / 2) else wrong(f"{' / '.join(last)} do not rhyme")


def _rhyming_words(rhyme: str, text: str) -> Verdict:
    """Words behind a colon or "with X is", each of which must rhyme."""
    listed = re.split(rf":|\bwith [\"']?{rhyme}[\"']?,?(?: is| are)?", text, flags=re.IGNORECASE)[-1]
    if not checks.words(listed):  # "Hat rhymes with cat."
        listed = re.split(r"\brhymes?\b", text, flags=re.IGNORECASE)[0]
    found = [word for word in checks.words(listed) if word.casefold() not in ("and", "or", "a", "the", rhyme)]
    if not found:
        return wrong("no word")
    bad = [word for word in found if not checks.rhymes(word, rhyme)]
    return wrong(f"{bad[0]} does not rhyme with {rhyme}") if bad else RIGHT


def _folded(text: str) -> list[str]:
    return [re.sub(r"['’]s$", "", word).casefold() for word in checks.words(text)]
