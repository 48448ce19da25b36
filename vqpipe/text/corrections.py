"""Tags that their neighbours correct: what a tagger that looks at pairs of tags cannot see.

The rules are for English in general, and only move words between classes that they can have:

- "a living room", "the dining area": the -ing word of a compound that WordNet knows is a noun;
- "in the wild", "a girl in blue": after a determiner (colours: a preposition) and before no noun, it is a noun;
- "a red and white plane": coordination joins likes, so red is an adjective where white is
  (and grey of "the sea is calm and grey");
- "a tan wing": words of colour and shape are adjectives right before a noun ("orange juice" is a compound);
- "a black bear lies": a singular noun is not the subject of a base form, so black is an adjective, bear a noun;
- "tall towers line a canal", "a man in a red coat skiing down": a verb may follow a noun and be a noun elsewhere;
- "a snow covered roof": a participle between two nouns is an adjective where it is one of those that combine;
- "the man s hat": an s on its own is a possessive ending that lost its apostrophe.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import inf, log

from vqpipe.text.english import AFTER_NOUN, BODY_PARTS, EDIBLE, EDIBLE_PARTS, MODIFIERS, TAGS
from vqpipe.text.lexicon import lexicon
from vqpipe.text.phrases import SHADES

_ADJECTIVE, _NOUN, _ADVERB, _VERB = (TAGS.index(tag) for tag in "JNRV")
_JOINTS = frozenset({"and", "or", "/", "&", ","})
_ADJECTIVE_SHARE = 0.5
"""A word may become an adjective where WordNet has it as one at least this often for each time as a noun."""
_GERUND_WEIGHT = 2.0
"""A noun in -ing that WordNet has less often than this is taken for a verb after another noun."""
_VERB_SHARE = 0.3
"""A base form after a plural is a verb where WordNet has it as one at least this often for each time as a noun."""
_WITHIN_PHRASE = frozenset({"determiner", "adjective", "possessive", "number"})
_AFTER_NOUN_PHRASE = frozenset({"sign", "preposition"})
_AFTER_VERB = frozenset({"preposition", "determiner", "adverb", "particle", "possessive"})
_BEFORE_LONG = frozenset({"verb", "auxiliary", "preposition", "conjunction", "sign"})
_LOST_APOSTROPHE = frozenset({"s", "t"})
_BEFORE_COLOR = frozenset({"adjective", "adverb", "auxiliary", "determiner"})
_JOINING = frozenset({"verb", "conjunction", "sign"})
_BEFORE_ALONE = frozenset({"determiner", "preposition"})
_BEFORE_WRONG_VERB = _WITHIN_PHRASE | {"noun", "auxiliary", "verb", "preposition"}
_COLORED = frozenset({"colored", "coloured", "hued", "tinted", "toned"})
_HAVE = frozenset({"has", "have", "had", "having"})
_CLAUSE_STARTS = frozenset({"and", "but", "as", "while", "when"})
_ONE = frozenset({"a", "an", "each", "every", "another", "this", "that"})
_QUANTITIES = frozenset({"couple", "dozen", "lot", "bunch", "pair", "few", "many", "several"})
_GROUPS = frozenset({"people", "men", "women", "children", "sheep", "deer", "police", "cattle", "geese"})


def correct_tags(words: Sequence[str], names: list[str]) -> None:
    """Correct the parts of speech `names` of lower-case `words` in place."""
    before, last = "sign", len(names) - 1
    for at, name in enumerate(names):
        if name == "noun":
            after = names[at + 1] if at < last else "sign"
            if words[at] in MODIFIERS and _modifies(words, names, at):
                names[at] = "adjective"
            elif words[at] in _LOST_APOSTROPHE and at:
                names[at] = _ending(words, names, at)
            elif (
                before in _BEFORE_COLOR
                and after not in ("noun", "verb")
                and _predicates_color(words, names, at)
            ) or ((after in _JOINING or before == "conjunction") and _is_adjective(words, names, at)):
                names[at] = "adjective"
            elif before == "noun" and _is_verb(words, names, at, after):
                names[at] = "verb"
        elif name == "adjective":
            word = words[at]
            if (
                (before in _BEFORE_ALONE and _is_alone(words, names, at))
                or (word.endswith("ing") and _compound(words, names, at))
                or (word in EDIBLE and _edible(words, names, at))
            ):
                names[at] = "noun"
            elif before == "noun" and word in _COLORED and words[at - 1] in lexicon().colors:
                names[at - 1] = "adjective"
        elif name == "verb":
            if before in _BEFORE_WRONG_VERB:
                _correct_verb(words, names, at)
        elif name == "adverb":
            if words[at] == "back" and before in ("adjective", "determiner"):
                names[at] = "noun"
            elif _is_adjective_for_adverb(words, names, at):
                names[at] = "adjective"
        before = names[at]


def _ending(words: Sequence[str], names: Sequence[str], at: int) -> str:
    """What an s or t is that lost its apostrophe: "the man s hat", "it s", "doesn t"."""
    if words[at] == "s":
        return {"noun": "possessive", "pronoun": "auxiliary"}.get(names[at - 1], "noun")
    return "adverb" if words[at - 1].endswith("n") or names[at - 1] == "auxiliary" else "noun"


def _modifies(words: Sequence[str], names: Sequence[str], at: int) -> bool:
    """Whether a word of colour or shape is an adjective here."""
    after = names[at + 1] if at + 1 < len(names) else "sign"
    if after in ("noun", "adjective") or (after == "verb" and words[at + 1] in AFTER_NOUN):
        if at and names[at - 1] == "noun" and _joined(words[at - 1], words[at]):
            return False  # "ice cream truck"
        return not _edible(words, names, at) and not _parted(words, at)
    return False


def _predicates_color(words: Sequence[str], names: Sequence[str], at: int) -> bool:
    """Whether a colour before no noun describes a subject: "is tan", "is pale yellow", "is all black"."""
    known = lexicon()
    if words[at] not in known.colors or not known.weight(words[at], "J"):
        return False
    start = at - (2 if words[at - 1] == "all" else 1)
    while start > 0 and names[start] in ("adjective", "adverb"):
        start -= 1
    return names[start] == "auxiliary"


def _edible(words: Sequence[str], names: Sequence[str], at: int) -> bool:
    """Whether a colour is the thing it is named after: "orange juice", "orange slices"."""
    if words[at] not in EDIBLE or at + 1 == len(words) or names[at + 1] != "noun":
        return False
    known = lexicon()
    thing = known.noun_lemma(words[at + 1])
    return thing in EDIBLE_PARTS or (f"{words[at]} {thing}" in known.compounds and thing not in known.colors)


def _parted(words: Sequence[str], at: int) -> bool:
    """Whether two words are one that WordNet writes together: "gold fish"."""
    known = lexicon()
    thing = known.noun_lemma(words[at + 1])
    return thing not in BODY_PARTS and known.weight(words[at] + thing, "N") > 0


def _is_verb(words: Sequence[str], names: Sequence[str], at: int, after: str) -> bool:
    """Whether a word that is tagged as a noun, after another noun and before `after`, is the verb of that noun."""
    word, subject, known = words[at], words[at - 1], lexicon()
    if word.endswith("ing"):
        rare = after in _AFTER_VERB and known.weight(word, "N") < _GERUND_WEIGHT
        return rare and not _joined(subject, word)
    shares = _shares(word)
    if _VERB not in shares:
        return False
    plural = subject in _GROUPS or known.noun_lemma(subject) != subject
    if word.endswith("s"):
        if plural or known.noun_lemma(word) == word:
            return False
        if _is_one(words, names, at - 1):  # "a dog rests": it cannot be a dog's plural
            return not _has_verb(words, names, at)
        if after not in _AFTER_VERB or shares[_VERB] < shares.get(_NOUN, -inf):
            return False
    else:
        least = 0.0 if after == "determiner" else _VERB_SHARE if after in _AFTER_VERB else 1.0
        weight = known.weight(word, "V")
        if not plural or not weight or after == "verb" or weight < least * known.weight(word, "N"):
            return False
    return not _joined(subject, word) and not _has_verb(words, names, at)


def _is_one(words: Sequence[str], names: Sequence[str], at: int) -> bool:
    """Whether the noun phrase that ends with a noun begins with a determiner of one thing."""
    while at >= 0 and names[at] in ("noun", "adjective", "adverb") and words[at] not in _QUANTITIES:
        at -= 1
    return at >= 0 and words[at] in _ONE


def _joined(first: str, second: str) -> bool:
    known = lexicon()
    return f"{first} {known.noun_lemma(second)}" in known.compounds


def _has_verb(words: Sequence[str], names: Sequence[str], end: int) -> bool:
    """Whether the clause has a finite verb before a position."""
    for at in range(end - 1, -1, -1):
        if names[at] in ("subordinator", "sign", "pronoun") or words[at] in _CLAUSE_STARTS:
            return False
        if names[at] == "auxiliary" or (names[at] == "verb" and not words[at].endswith(("ing", "ed", "en"))):
            return True
    return False


def _correct_verb(words: Sequence[str], names: list[str], at: int) -> None:
    before, word = names[at - 1], words[at]
    after = names[at + 1] if at + 1 < len(names) else "sign"
    known = lexicon()
    if before in _WITHIN_PHRASE and _compound(words, names, at):
        names[at] = "noun"
    elif before == "noun":
        if after in ("noun", "adjective") and word in AFTER_NOUN:
            names[at] = "adjective"
            if _mostly_adjective(words[at - 1]):
                names[at - 1] = "adjective"  # "dark spotted bird"
        elif after not in ("noun", "verb") and word.endswith(("ing", "ed")):
            return
        elif known.weight(known.noun_lemma(word), "N"):
            subject = words[at - 1]
            single = subject not in _GROUPS and known.noun_lemma(subject) == subject
            base = single and known.weight(word, "V") > 0
            if (base and after == "verb") or ((base or after in ("noun", "verb")) and _joined(subject, word)):
                names[at] = "noun"
                if _mostly_adjective(subject):
                    names[at - 1] = "adjective"  # "large brown bears play"
    elif before == "auxiliary" or words[at - 1] in _HAVE:
        if word.endswith("s") and known.weight(known.noun_lemma(word), "N"):
            names[at] = "noun"
    elif (
        word.endswith("ed")
        and before in ("adjective", "verb", "preposition")
        and (after == "noun" or words[at + 1 : at + 2] == ["back"])
    ):
        names[at] = "adjective"


def _is_adjective_for_adverb(words: Sequence[str], names: Sequence[str], at: int) -> bool:
    """Whether an adverb that is an adjective as often is one: "it has long pink legs", "very long and straight"."""
    if at + 1 < len(names) and names[at + 1] in ("noun", "adjective"):
        before = names[at - 1] if at else "sign"
        if before not in _BEFORE_LONG or (names[at + 1] == "adjective" and not _noun_follows(names, at + 2)):
            return False
    elif not (at >= 3 and words[at - 1] in ("and", "or") and names[at - 2] == "adjective"):
        return False
    shares = _shares(words[at])
    return shares.get(_ADJECTIVE, -inf) > shares.get(_ADVERB, -inf)


def _noun_follows(names: Sequence[str], at: int) -> bool:
    while at < len(names) and names[at] == "adjective":
        at += 1
    return at < len(names) and names[at] == "noun"


def _compound(words: Sequence[str], names: Sequence[str], at: int) -> bool:
    """Whether an -ing word and the noun after it are a compound of WordNet's: "living room"."""
    if not words[at].endswith("ing") or at + 1 == len(words) or names[at + 1] != "noun":
        return False
    return _joined(words[at], words[at + 1])


def _is_alone(words: Sequence[str], names: Sequence[str], at: int) -> bool:
    """Whether an adjective is a noun: after a determiner or, of colours, a preposition, and before no noun.

    Superlatives are none ("the best"), nor are words of the closed classes.
    """
    if at == 0 or names[at - 1] not in ("determiner", "preposition"):
        return False
    if at + 1 < len(words) and (names[at + 1] not in _AFTER_NOUN_PHRASE or words[at + 1] in _JOINTS):
        return False
    if words[at - 1] == "all" and at > 1 and names[at - 2] == "auxiliary":
        return False  # "is all black"
    word, known = words[at], lexicon()
    if not known.weight(word, "N") or known.is_closed(word):
        return False
    if names[at - 1] == "preposition":
        return word in known.colors
    return not word.endswith("est") and word != "worst"


def _is_adjective(words: Sequence[str], names: list[str], at: int) -> bool:
    """Whether a word that is tagged as a noun is an adjective after all; corrects a verb after it too."""
    before = names[at - 1] if at else "sign"
    after = names[at + 1] if at + 1 < len(names) else "sign"
    if after == "verb" and before in ("determiner", "adjective", "possessive"):
        if _base_and_noun(words[at + 1]) and _mostly_adjective(words[at]):
            names[at + 1] = "noun"
            return True
    elif at + 3 < len(names) and words[at + 1] in _JOINTS and names[at + 2] == "adjective":
        in_phrase = names[at + 3] in ("adjective", "noun", "conjunction")
        if before == "conjunction" and names[at - 2] == "noun":
            return False  # "raw mango and orange and ripe bananas"
        if words[at] in MODIFIERS and (before != "adjective" or words[at - 1] in SHADES):
            return in_phrase and before != "noun"
        return in_phrase and before != "noun" and _mostly_adjective(words[at])
    elif at >= 3 and words[at - 1] in ("and", "or") and names[at - 2] == "adjective":
        predicative = names[at - 3] in ("auxiliary", "adverb")
        return predicative and after in _AFTER_NOUN_PHRASE and _mostly_adjective(words[at])
    return False


@lru_cache(maxsize=100_000)
def _shares(word: str) -> dict[int, float]:
    """How often a word has each of its tags, as logarithms of shares of its uses; a tag it cannot have is absent."""
    return dict(lexicon().candidates(word))


def _mostly_adjective(word: str) -> bool:
    shares = _shares(word)
    adjective = shares.get(_ADJECTIVE, -inf)
    return adjective > -inf and adjective >= shares.get(_NOUN, -inf) + log(_ADJECTIVE_SHARE)


def _base_and_noun(word: str) -> bool:
    known = lexicon()
    return known.weight(word, "V") > 0 and known.weight(word, "N") > 0


def correct_before_nouns(words: Sequence[str], names: list[str]) -> None:
    """Make adjectives, in place, of nouns before an adjective or noun that WordNet has more often as adjectives.

    For taggers that take "blue" of "a large blue train" for the first half of a compound.
    """
    known = lexicon()
    for at in range(len(names) - 2, -1, -1):
        if names[at] == "noun" and names[at + 1] in ("noun", "adjective") and known.knows(words[at]):
            shares = _shares(words[at])
            more_often = shares.get(_ADJECTIVE, -inf) > shares.get(_NOUN, -inf)
            if more_often and not _compound(words, names, at):
                names[at] = "adjective"
