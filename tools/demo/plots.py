"""Sixteen plots. Each can tell every fact of a scene, and can be cut to three sentences.

A line is a mark and a sentence. "!" is told in every version; a digit says how early a sentence is added to
these as a story grows. The last line is the plot's own ending.
"""

import random
from dataclasses import dataclass

PLOTS: dict[str, tuple[str, str, tuple[str, ...]]] = {}
"""By name: the usual place, the usual thing, and the lines."""


def _plot(name: str, place: str, thing: str, lines: str) -> None:
    PLOTS[name] = place, thing, tuple(line.strip() for line in lines.strip().splitlines())


_plot("hungry", "in the forest", "ball", """
    ! {intro}
    ! One day {hero} met {a_pet} {place}.
    2 It was thin and very hungry.
    1 "I have had nothing to eat all day," said the {pet}.
    ! So {hero} gave it {food}.
    3 The {pet} ate the {foods} and felt much better.
    4 Then they played with {a_thing} until the sun went down.
    0 From that day on they were the best of friends.
""")  # fmt: skip
_plot("lost thing", "behind the house", "key", """
    ! {intro}
    ! One morning {hero} had lost {a_thing}.
    1 {Hero} looked {place}, but it was not there.
    ! Then {a_pet} came and brought {the_thing} back.
    2 "I found it in the grass," said the {pet}.
    3 {Hero} thanked the {pet} with {food}.
    0 Nothing was ever lost again.
""")  # fmt: skip
_plot("lost way", "in the forest", "lamp", """
    ! {intro}
    ! One night {hero} could not find the way home.
    4 It was dark and cold {place}.
    ! Then {a_pet} came and showed {him} the right way.
    1 "Follow me!" it said, and it carried {a_thing}.
    2 They walked for a long time.
    3 At home they ate {food} together.
    0 {Hero} never forgot the {pet}.
""")  # fmt: skip
_plot("race", "on the hill", "ring", """
    ! {intro}
    ! One summer day {a_pet} wanted to have a race with {him} {place}.
    1 "I am faster than you," said the {pet}.
    2 They ran past the trees and over the stones.
    4 The prize was {a_thing}.
    ! In the end they came in at the same time.
    3 They shared {food} and laughed.
    0 A good friend is better than a prize.
""")  # fmt: skip
_plot("storm", "by the sea", "boat", """
    ! {intro}
    4 {Hero} had {a_thing}.
    ! One day a great storm came {place}.
    ! {A_pet} was in the water, and {hero} pulled it out just in time.
    1 "You are very brave," said the {pet}.
    2 It was wet and cold.
    3 They sat by the fire and ate {food}.
    0 When the sun came out, they were friends.
""")  # fmt: skip
_plot("birthday", "in the garden", "hat", """
    ! {intro}
    ! It was the birthday of {a_pet} {place}.
    1 "Nobody has come to my party," said the {pet}.
    ! So {hero} came and brought {a_thing} and {food}.
    2 The {pet} put everything on the table.
    3 They sang and danced until the stars came out.
    0 It was the best birthday of all.
""")  # fmt: skip
_plot("treasure", "on a small island", "map", """
    ! {intro}
    ! One day {hero} found {a_thing} and followed it to a treasure.
    4 The way ended {place}.
    ! There sat {a_pet} with a box, and in it were {food}.
    1 "You may have them if you stay for a while," said the {pet}.
    2 They told each other stories.
    3 Then they ate everything under the moon.
    0 The real treasure was a new friend.
""")  # fmt: skip
_plot("flying", "over the village", "balloon", """
    ! {intro}
    ! One windy day {a_thing} carried {him} up into the sky.
    4 It flew high {place}.
    ! {A_pet} sat on a cloud and showed {him} the way home.
    1 "Come again soon!" said the {pet}.
    2 It was quiet and bright up there.
    3 The {pet} gave {him} {food}.
    0 From then on {hero} looked at the clouds every day.
""")  # fmt: skip
_plot("music", "at the market", "flute", """
    ! {intro}
    ! One morning {hero} heard {a_pet} play {a_thing} {place}.
    1 "I can only play one song," said the {pet}.
    ! {Hero} sang with it, and soon everybody danced.
    2 Old and young came to listen.
    3 The people gave them {food}.
    0 Since then there is music every day.
""")  # fmt: skip
_plot("snow", "in the snow", "scarf", """
    ! {intro}
    ! One winter day {hero} found {a_pet} {place}.
    1 "I am so cold," said the {pet}.
    ! {Hero} gave it {a_thing} and took it home.
    2 They made a fire and drank hot tea.
    3 There were {food} for both of them.
    0 In spring they went out to play.
""")  # fmt: skip
_plot("garden", "in the garden", "spoon", """
    ! {intro}
    ! One spring {hero} planted some seeds {place}.
    2 Every day {hero} gave them water.
    4 {Hero} dug with {a_thing}.
    ! In summer {a_pet} came by, and they found {food} there.
    1 "You have done well," said the {pet}.
    3 They shared everything with their friends.
    0 Good things need time.
""")  # fmt: skip
_plot("secret", "in a dark cave", "book", """
    ! {intro}
    ! One day {a_pet} told {him} a secret.
    1 "There is {a_thing} {place}," it said.
    2 {Hero} did not tell anybody.
    ! They went there at night and found it.
    3 Then they sat down and ate {food}.
    0 Some secrets are best when two know them.
""")  # fmt: skip
_plot("shy", "near the school", "drum", """
    ! {intro}
    ! There was {a_pet} {place} that was afraid of everything.
    1 "Even {a_thing} makes me shake," said the {pet}.
    ! {Hero} came to it every day and stayed until night.
    2 They read stories and ate {food}.
    3 One day the {pet} laughed for the first time.
    0 After that it was not afraid any more.
""")  # fmt: skip
_plot("wish", "by the lake", "shell", """
    ! {intro}
    ! One evening {hero} found {a_thing} {place}, and it could grant a wish.
    1 "I want a friend," said {hero}.
    ! At once {a_pet} stood there and smiled.
    2 They told each other stories.
    3 Then they shared {food}.
    0 It was a wish that came true.
""")  # fmt: skip
_plot("work", "on the farm", "clock", """
    ! {intro}
    4 {Hero} worked {place} from morning to night.
    ! There was too much to do, and {a_thing} was broken, too.
    ! Then {a_pet} came and helped, and soon everything was done.
    1 "We can do it together," said the {pet}.
    2 {Hero} could not believe it.
    3 In the evening they had {food}.
    0 Work is easy with a friend.
""")  # fmt: skip
_plot("trick", "under the bridge", "coat", """
    ! {intro}
    ! {A_pet} lived {place} and took {a_thing} from {him}.
    1 "Give it back!" said {hero}.
    2 The {pet} only laughed.
    ! So {hero} put {food} on the ground, and the {pet} came out to eat.
    3 While it ate, it felt sorry and gave everything back.
    0 From then on the {pet} was good.
""")  # fmt: skip

ENDINGS = {
    "happy": "And they all lived happily ever after.",
    "sad": "But in the autumn the {pet} had to go far away, and {hero} cried for a long time.",
    "funny": "Then the {pet} sneezed so loudly that everybody fell over and laughed.",
    "scary": "But that night something knocked at the door, and nobody was there.",
}


@dataclass(frozen=True)
class Version:
    """A telling of a plot: its sentences, in order, and the marks they have in the plot."""

    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.lines)


def _mark(line: str) -> int:
    return -1 if line[0] == "!" else int(line[0])


def sentences(
    plot: str,
    fields: dict[str, str],
    length: int,
    needed: tuple[str, ...] = (),
    rng: random.Random | None = None,
) -> Version:
    """Tell a plot in so many sentences, or in more if facts need them.

    Args:
        fields: the words of the scene, "ending" among them: "" for the plot's own.
        length: 3 for the shortest.
        needed: names of fields that must be told.
        rng: draws which sentences are left out, the last one only where there is no room for it; without it
            they are those whose digits are the highest.
    """
    lines = list(PLOTS[plot][2])
    ending = fields.get("ending", "")
    if ending:
        lines[-1] = "! " + ending
    kept = {line for line in lines if _mark(line) < 0}
    told = "".join(kept)
    for name in needed:
        if name != "hero" and f"{{{name}}}" not in told.replace("{A_", "{a_"):  # the intro names the hero
            more = [line for line in lines if f"{{{name}}}" in line.replace("{A_", "{a_")]
            kept.add(more[0])
            told += more[0]
    by_turn = sorted(lines, key=_mark)
    if rng:
        by_turn = sorted(rng.sample(lines, len(lines)), key=lambda line: _mark(line) != 0)
    for line in by_turn:
        if len(kept) >= length:
            break
        kept.add(line)
    return Version(tuple(line[2:].format_map(fields) for line in lines if line in kept))


# The second sentence of two, and what ends the first one where it is the only one.
_SECOND = (
    "One day {hero} met {a_pet} {place}, and they shared {food}.",
    "{Hero} found {a_thing} {place} and gave it to {a_pet}.",
    "{A_pet} came by, and {hero} played with it {place} until the sun went down.",
    "One night {a_pet} brought {a_thing} {place}, and {hero} never felt sad again.",
    "{Hero} had {food} {place} and gave them all to {a_pet}.",
)
_ONLY = (
    " who met {a_pet} {place} and shared {food} with it.",
    " who found {a_thing} {place} and gave it to {a_pet}.",
    " who sang for {a_pet} {place} every night.",
    " who took {a_thing}, met {a_pet} {place} and never felt sad again.",
    " who gave {food} to {a_pet} and played with it {place}.",
)


def told_briefly(
    fields: dict[str, str], length: int, needed: tuple[str, ...], topic: str, rng: random.Random
) -> str:
    """Tell a story of no plot in one or two sentences; "" where what is asked for needs more.

    Args:
        fields: the words of the scene, "ending" among them: "" for none.
        needed: names of fields that must be told.
        topic: of which a sentence of its own in the introduction speaks; "" for none.
    """
    ending = fields.get("ending", "")
    intro = fields["intro"]
    n_only = length - bool(topic) - bool(ending)
    lines = _SECOND if n_only == 2 else _ONLY
    lines = tuple(line for line in lines if all(
        name == "hero" or f"{{{name}}}" in line.replace("{A_", "{a_") for name in needed))  # fmt: skip
    if n_only < 1 or not lines:
        return ""
    line = rng.choice(lines).format_map(fields)
    told = f"{intro} {line}" if n_only == 2 else intro.removesuffix(".") + line
    return f"{told} {ending}".strip()
