"""What WordNet lacks of English: closed classes, kinds of words, how tags follow one another, and the Penn Treebank.

Tags: J adjective, N noun, V verb (base and finite), G its -ing form, P past form or participle, R adverb,
D determiner, M number, I preposition, C coordinating conjunction, S subordinator, O pronoun,
X a form of "be", W other auxiliary, T "to", K possessive ending, Z sign, B the edge of a sentence.

WordNet has most of the words in the lists of kinds (colours, parts of a body, …), but not that they behave alike; those
lists are of singulars.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

TAGS = "JNVGPRDMICSOXWTKZB"

POS = {
    "J": "adjective", "N": "noun", "V": "verb", "G": "verb", "P": "verb", "R": "adverb", "D": "determiner",
    "M": "number", "I": "preposition", "C": "conjunction", "S": "subordinator", "O": "pronoun",
    "X": "auxiliary", "W": "auxiliary", "T": "particle", "K": "possessive", "Z": "sign",
}  # fmt: skip
"""The name of each tag's part of speech."""

_WORDS = {
    "D": (
        "a an the this these those my your his its our their some any every each no another all both "
        "either neither whose which what half"
    ),
    "I": (
        "of in on at by with from for into onto upon over under above below behind beside besides "
        "between among amongst through across along around about against near toward towards within "
        "without inside outside off out up down during until till since per via despite beneath "
        "underneath atop amid like as than after before past beyond throughout alongside except "
        "versus"
    ),
    "C": "and or but nor & plus yet",
    "S": ("that because although though while whilst whereas if unless when where why how whether so once"),
    "O": (
        "i you he she it we they me him us them himself herself itself themselves myself yourself "
        "ourselves mine yours hers ours theirs who whom someone somebody something anyone anybody "
        "anything everyone everybody everything nobody nothing none this these those that her there "
        "others one which what other"
    ),
    "X": (
        "is are was were be been being am 's 're 'm isn't aren't wasn't weren't it's he's she's "
        "that's there's they're i'm you're"
    ),
    "W": (
        "do does did has have had having will would can could may might must shall should don't "
        "doesn't didn't hasn't haven't hadn't won't wouldn't can't cannot couldn't shouldn't i've "
        "they've you've we've 'll 've 'd ca wo"
    ),
    "T": "to",
    "R": (
        "very too also just only even still always never often here there then now not quite rather "
        "almost so again together away back out up down off over around about more most much less "
        "least well really already ever maybe perhaps once however as all no far soon instead apart "
        "ago later else"
    ),
    "K": "'s '",
    "M": (
        "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
        "sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety "
        "hundred thousand million billion dozen"
    ),
    "J": (
        "more most much many few fewer less least several other such own same various certain first "
        "second third last next nearby ok okay"
    ),
    "V": "do does did has have had let",
    "Z": "please yes oh hello hi thanks",
}

_WEIGHTS = {
    "that": "S3 D2 O2", "this": "D3 O1.5", "these": "D3 O1", "those": "D3 O1", "which": "O3 D.4",
    "what": "O3 D1", "all": "D4 R.6", "both": "D3 R1", "half": "N1 D.6", "no": "D4 R.3", "her": "D3 O1.5",
    "his": "D4 O.1", "one": "M3 O1.5", "other": "J5 O.3", "there": "O2 R2", "like": "I4 V2",
    "as": "I4 R1.5", "so": "R3 S2", "about": "I4 R1", "over": "I4 R.7", "around": "I3 R1", "up": "I1.5 R2",
    "down": "I1.5 R2", "out": "R2 I1", "off": "R1.5 I1", "past": "I3 J1 N.5", "near": "I6 J.2",
    "outside": "I2 R1 J.3 N.3", "inside": "I2 R1 J.3", "plus": "C2 N.5 J.3", "yet": "R3 C1",
    "since": "I1.5 S2", "until": "I1 S1.5", "till": "I1 S1", "before": "I2 S1.5", "after": "I2.5 S1.5",
    "than": "I3 S1", "while": "S4 N.1", "if": "S1", "once": "R1 S1", "though": "S1 R.6", "more": "J2 R3",
    "most": "J2 R2", "much": "J1 R3", "less": "J1 R1.5", "least": "J1 R1", "well": "R5 N.3 J.5",
    "only": "R4 J1", "even": "R5 J.2", "still": "R5 J.4 N.3", "just": "R5 J.1", "very": "R5 J.1",
    "too": "R1", "back": "R2 N2 J.5 V.2", "away": "R1", "far": "R3 J1", "together": "R1", "later": "R2 J.7",
    "rather": "R1", "first": "J4 R1 N.3", "second": "J3 N1.5", "third": "J3 N.6", "last": "J4 R.3 V.3",
    "next": "J4 R1", "few": "J3", "many": "J3", "several": "J3", "own": "J4 V.6", "same": "J4",
    "such": "J3", "various": "J1", "certain": "J1", "dozen": "M1 N1", "hundred": "M1 N.4",
    "thousand": "M1 N.3", "million": "M1 N.3", "billion": "M1 N.3", "can": "W6 N.5", "will": "W6 N.5",
    "may": "W4", "might": "W4 N.1", "must": "W4", "do": "W2 V1.5", "does": "W2 V.6", "did": "W2 V.8",
    "has": "W1.2 V1.5", "have": "W1.5 V1.5", "had": "W1.5 V1.2", "having": "W1 V1", "being": "X4 N.3",
    "'s": "K3 X2", "'": "K1 Z2", "ok": "J1 Z1", "okay": "J1 Z1", "except": "I1", "ago": "R1",
    "else": "J1 R1", "to": "T3 I2", "not": "R1", "n't": "R1", "nearby": "J2 R2", "please": "Z2 V.5",
    "thanks": "Z1 N1", "here": "R1", "mine": "O1 N.7", "apart": "R1", "instead": "R1", "certainly": "R1",
    "pretty": "J3 R2", "kind": "N3 J1", "right": "J2 N2 R2", "left": "J2 N2 P3", "front": "N3 J2",
    "top": "N3 J2", "open": "J4 V1.5", "close": "R1 J2 V1", "full": "J1", "people": "N1", "sort": "N1 V.1",
    "lot": "N1", "lots": "N1", "great": "J1", "good": "J9 N.4", "fun": "N2 J1", "let": "V1", "upon": "I1",
    "round": "J3 N.5 I.5", "long": "J5 R2", "early": "J3 R1.5", "late": "J3 R1", "hard": "J3 R1.5",
    "high": "J5 R.7 N.3", "low": "J3 R.5", "fast": "J1.5 R1.5", "daily": "J2 R1", "overall": "J1 R1",
    "enough": "J1 R1.5", "little": "J4 R1", "ever": "R1", "via": "I1", "worth": "J1 N.4", "due": "J1",
    "able": "J1", "online": "J1 R1", "home": "N4 R1", "someone": "O1", "anyone": "O1", "whole": "J3 N.6",
    "sure": "J3 R.7", "us": "O1", "i": "O1", "a": "D1", "in": "I9 R.5", "on": "I9 R.5", "at": "I1",
    "by": "I9 R.1", "an": "D1", "am": "X1", "are": "X1", "was": "X1", "he": "O1", "it": "O1", "who": "O1",
    "or": "C1", "be": "X1",
}  # fmt: skip
"""Words of more than one class, or that running text uses otherwise than WordNet: relative weights by tag."""

BE = frozenset(word for word in _WORDS["X"].split())
"""Forms of "be", by themselves or contracted with "not" or a pronoun."""

FIXED = {
    "next": {"to": "R"}, "close": {"to": "R", "up": "N"}, "such": {"as": "I"}, "other": {"than": "R"},
    "more": {"than": "R"}, "less": {"than": "R"}, "due": {"to": "R"}, "each": {"other": "O"},
}  # fmt: skip
"""The tag of a word by the word that follows it, where the two act as one word."""
_BEFORE_T = "don doesn didn hasn haven hadn won wouldn can couldn shouldn isn aren wasn weren"
FIXED |= {word: {"t": "W"} for word in _BEFORE_T.split()}


def closed_words() -> dict[str, dict[str, float]]:
    """Weights by tag for each closed-class word; they replace what WordNet has of the word."""
    weights: dict[str, dict[str, float]] = {}
    for tag, words in _WORDS.items():
        for word in words.split():
            weights.setdefault(word, {})[tag] = 1.0
    for word, text in _WEIGHTS.items():
        weights[word] = {item[0]: float(item[1:]) for item in text.split()}
    return weights


_FOLLOWS = """
     J    N    V    G    P    R    D    M    I    C    S    O    X    W    T    K    Z    B
J  0.2  1.3 -2.5 -1.2 -1.6 -1.5 -3.0 -1.0 -0.3  0.2 -0.9 -2.0 -2.0 -2.2 -0.2 -4.0 -0.1  0.0
N  -1.6  0.1 -0.1 -0.1 -0.1 -0.5 -2.0 -1.0  0.8  0.8  0.0 -0.9  0.5  0.4 -0.1  1.4  0.6  0.5
V   0.0 -0.4 -2.5 -0.2 -0.5  0.5  0.9  0.3  0.3 -0.7  0.6  0.7 -2.5 -2.5  0.8 -4.0 -0.5 -0.7
G   0.0  0.3 -3.0 -2.0 -1.5  0.4  1.0  0.0  0.7 -0.3  0.2  0.1 -2.5 -3.0  0.5 -3.0 -0.3 -0.3
P -1.0 -0.9 -3.0 -0.8 -1.5  0.4  0.7  0.0  1.1 -0.3  0.2  0.1 -2.5 -3.0  0.7 -4.0 -0.2 -0.4
R   0.8 -1.6  0.4  0.0  0.4  0.5 -0.2 -0.2  0.4 -0.5  0.1  0.0 -0.9 -0.7 -0.4 -4.0  0.3 -0.2
D  1.0  1.2 -3.5 -1.6 -2.2 -1.2 -2.5  0.5 -2.5 -4.0 -3.5 -2.5 -2.5 -3.5 -3.5 -4.0 -2.0 -4.0
M   0.2  1.0 -2.5 -1.5 -1.5 -1.5 -2.5  0.5  0.0 -0.5 -2.0 -2.0 -1.5 -2.0 -0.5 -2.0  0.4  0.0
I   0.1  0.5 -3.5  0.4 -1.8 -1.3  1.3  0.8 -1.0 -3.0 -1.2  0.4 -3.5 -3.5 -2.0 -4.0 -1.5 -2.0
C   0.3  0.2  0.3  0.0  0.0  0.4  0.1 -0.1 -0.4 -3.0  0.2  0.5 -0.8 -0.4 -0.7 -4.0 -1.0 -3.0
S  -0.2 -0.4 -0.3 -0.2 -0.8  0.2  0.7  0.0 -0.2 -2.5 -0.9  1.4  0.4  0.1 -0.2 -4.0 -0.6 -2.0
O  -1.2 -1.4  1.4 -0.7  0.2  0.5 -0.9 -1.2 -0.3 -0.7 -0.3 -0.6  1.2  1.2 -0.3 -1.0  0.1  0.0
X   0.9 -0.5 -2.5  1.3  1.4  1.1  0.6  0.0  0.2 -2.0 -0.2 -0.1 -0.5 -1.5  0.8 -4.0 -0.6 -0.8
W  -1.4 -1.4  1.8 -1.5  1.0  0.8 -0.4 -1.2 -1.5 -2.5 -1.2  0.6  1.0 -0.2  1.4 -4.0 -0.8 -1.0
T  -0.6 -0.7  2.1 -1.3 -0.9 -0.1  0.3 -0.4 -0.8 -3.0 -1.5 -0.2  0.9  0.0 -0.8 -4.0 -1.2 -1.5
K   0.7  1.3 -3.5 -1.0 -0.7 -0.8 -2.5  0.3 -2.0 -3.0 -3.0 -3.0 -3.0 -3.0 -3.0 -4.0 -0.9 -1.0
Z  -0.1  0.0 -0.2  0.0 -0.3  0.2 -0.1  0.3 -0.4  0.3  0.1  0.2 -1.0 -0.7 -0.7 -1.5  0.5  1.0
B   0.3  0.4 -0.2 -0.3 -0.9  0.4  0.6  0.4 -0.1 -0.3  0.5  0.9 -1.0 -0.4 -0.5 -4.0  0.0  0.0
"""


def follows() -> list[list[float]]:
    """How much more often a tag follows another than by chance: natural logarithms, set by hand.

    `follows()[i][j]` is log p(j after i) / p(j), with tags numbered as in `TAGS`.
    """
    lines = [line.split() for line in _FOLLOWS.strip().splitlines()]
    columns = [TAGS.index(tag) for tag in lines[0]]
    table = [[0.0] * len(TAGS) for _ in TAGS]
    for tag, *values in lines[1:]:
        for column, value in zip(columns, values, strict=True):
            table[TAGS.index(tag)][column] = float(value)
    return table


_MODIFIERS = (
    # colours that WordNet has more often as nouns, or as nouns alone
    "amber amethyst aqua azure beige bronze buff burgundy carmine charcoal chestnut cream crimson cyan "
    "ebony emerald fuchsia gilt gold golden gray grey indigo ivory jade khaki lavender lilac lime "
    "magenta maroon mauve mustard ocher ochre olive orange pastel peach plum purple ruby russet rust "
    "sable sapphire scarlet sepia sienna silver tan tangerine taupe teal turquoise ultramarine umber "
    "vermilion violet "
    # shapes, sizes and makes
    "antique giant female jumbo male medium mini miniature oval rectangular retro square triangular "
    "twin vintage "
    # peoples and faiths
    "african american arab arabian argentine argentinian asian australian austrian belgian brazilian "
    "british canadian catholic chilean christian colombian cuban dutch egyptian european french german "
    "greek hindu hungarian indian indonesian iranian iraqi irish israeli italian japanese jordanian "
    "korean kurdish kuwaiti lebanese mexican moroccan muslim norwegian pakistani palestinian persian "
    "peruvian polish portuguese roman russian saudi scottish shia shiite sikh somali soviet spanish "
    "sunni swedish swiss syrian thai tibetan turkish ukrainian vietnamese welsh"
)
MODIFIERS = frozenset(_MODIFIERS.split())
"""Words that are adjectives right before a noun, although WordNet has them rather as nouns."""

_EDIBLE = "chestnut cream lavender lime mustard olive orange peach plum tangerine violet"
EDIBLE = frozenset(_EDIBLE.split())
"""Colours named after what one eats or grows: before another such word they are nouns ("orange slices")."""

_EDIBLE_PARTS = (
    "blossom bush cake cheese chunk crop dressing drink flavor garden grove half icing jam juice leaf "
    "marmalade oil orchard peel pie piece pit pulp rind salad sauce seed segment slice smoothie soda "
    "soup tart tea tree wedge wine zest"
)
EDIBLE_PARTS = frozenset(_EDIBLE_PARTS.split())
"""What edible and grown things have or become."""

_BODY_PARTS = (
    "abdomen ankle antenna antler arm auricular back beak beard belly bill body breast brow calf cap "
    "cheek cheekpatch chest chin claw collar covert crest crown ear elbow eye eyebrow eyelash eyelid "
    "eyering face feather finger fin flank foot forehead fur hair hand haunch head hind hoof horn knee "
    "leg limb lip lore mane mantle mouth moustache mustache muzzle nail nape neck nose nostril paw "
    "pectoral plumage primary rectrix retrice rump scapular secondary shoulder side snout sternum "
    "stomach superciliary tail talon tarsal tarsus thigh throat toe tongue tooth torso trunk tusk tummy "
    "underbelly underpart underside undertail underwing upperpart vent whisker wing wingbar wingtip "
    "wrist"
)
BODY_PARTS = frozenset(_BODY_PARTS.split())
"""Parts of people and animals, those of birds among them."""

_MARKS = "band bar edge edging marking patch ring spot streak stripe tip"
MARKS = frozenset(_MARKS.split())
"""Marks on a part of a body: "eye ring", "wing bar"."""

_AFTER_NOUN = (
    "backed based beaked billed bladed bodied breasted bricked capped carved chested coated colored "
    "coloured cooked covered crested crowned crusted decorated dotted drawn driven dyed eared edged "
    "eaten encrusted eyed faced fed filled flavored flavoured fried framed fringed frosted glazed grown "
    "haired headed infested inspired laden legged lined lit loaded made necked operated painted paneled "
    "panelled patterned paved powered printed ridden rimmed roasted scented shaped sized soaked spotted "
    "streaked striped strewn studded stuffed swept tailed themed throated tiled tinted tipped toned "
    "topped trimmed wheeled winged worn wrapped"
)
AFTER_NOUN = frozenset(_AFTER_NOUN.split())
"""Participles that make one adjective with the noun or adjective before them: "snow covered", "red breasted"."""

_PLURAL_ONLY = (
    "binoculars boxers briefs clippers clothes doubles dungarees earnings eyeglasses goggles goods "
    "headquarters jeans khakis knickers leggings outskirts overalls pajamas pants pliers pyjamas "
    "savings scissors shears shorts slacks spectacles sunglasses suspenders sweatpants thanks tights "
    "tongs trousers trunks tweezers"
)
PLURAL_ONLY = frozenset(_PLURAL_ONLY.split())
"""Nouns that name one thing by a plural."""


_NAMES = {
    "JJ": "adjective", "NN": "noun", "VB": "verb", "RB": "adverb", "DT": "determiner", "PDT": "determiner",
    "CD": "number", "IN": "preposition", "CC": "conjunction", "MD": "auxiliary", "POS": "possessive",
    "TO": "particle", "RP": "adverb", "PRP": "pronoun", "PRP$": "determiner", "EX": "pronoun",
    "WP": "pronoun", "WP$": "determiner", "WDT": "pronoun", "WRB": "subordinator",
}  # fmt: skip
_SUBORDINATORS = frozenset(
    ("that", "because", "although", "though", "while", "whilst", "whereas", "if", "unless", "whether")
)
_SIGNS = {
    "(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-", "\u2026": "...",
    "\u201c": "``", "\u201d": "''",
}  # fmt: skip
_CONTRACTION = re.compile(r"(.+?)(n't|'re|'ve|'ll|'d|'m)|(can)(not)", re.IGNORECASE)


def part_of_speech(tag: str, word: str) -> str:
    """One of the names in `POS` for a Penn tag of a lower-case word.

    Forms of "be" are auxiliaries; foreign words, interjections and symbols are signs.
    """
    name = _NAMES.get(tag) or _NAMES.get(tag[:2], "sign")
    if name == "verb" and word in BE:
        return "auxiliary"
    if name in ("preposition", "pronoun") and word in _SUBORDINATORS:
        return "subordinator"
    return name


def penn_tokens(tokens: Sequence[str], signs: bool) -> tuple[list[str], list[int]]:
    """The tokens split as the Penn Treebank does, and where each of ours starts among them.

    "isn't" is "is" and "n't". With `signs`, a quotation mark is `` where it opens and '' where it closes,
    and a bracket is -LRB-, as in the treebank's own files.
    """
    pieces: list[str] = []
    starts = []
    opened = False
    for token in tokens:
        starts.append(len(pieces))
        found = _CONTRACTION.fullmatch(token) if "'" in token or len(token) == len("cannot") else None
        if found:
            pieces += [part for part in found.groups() if part]
        elif signs and token == '"':
            pieces.append("''" if opened else "``")
            opened = not opened
        else:
            pieces.append(_SIGNS.get(token, token) if signs else token)
    return pieces, starts
