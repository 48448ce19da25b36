"""Tokens of captions as the reference captioning scores count them, without Java.

The reference package `pycocoevalcap` runs Stanford's PTBTokenizer (CoreNLP 3.4.1, `-preserveLines -lowerCase`) and then
drops punctuation tokens. The rules here were derived from what that tokenizer returns, character by character and word
by word; no code of it is used. `tests/bench/caption_words.py` measures the agreement; docs/task-scores.md has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
"""Tokens that the package drops. It has the brackets in upper case and the tokens in lower case, so `-lrb-` stays."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ABBREVIATIONS = _words(
    """adm al ala apr ariz assn asst atty aug ave bldg blvd brig bros calif capt cf cie cmdr co col colo
    comdr conn corp cos cpl ct dak dec dept det dr drs ens esq est etc ext feb fla fri ft ga gen gov govs
    hon inc ind insp intl jan jr jul jun kan ky lieut lt ltd maj mar md messrs mfg mich minn mlle mme mo mon
    mont mr mrs ms mt neb nev nov oct okla pa penn pfc ph plc pres prof profs pte pty pvt rd rep reps rev
    sen sens sep sept seq sgt spc sq sr st ste supt tel tenn thu thurs tue tues univ va vs vt wed wis wyo
    ph.d"""
)
"""Words that keep their full stop anywhere."""
_CAPITALISED = _words("ark az del ill la mass miss ore tex wash")
"""Words that keep it if they start with a capital."""
_BEFORE_NUMBER = _words("art ca fig figs no nos op pp prop")
"""Words that keep it before a digit."""

_SPLIT = {word: (word[:3], word[3:]) for word in ("cannot", "gonna", "gotta", "wanna", "lemme", "gimme")}
_A = "['\u2019\u0092]"
"""An apostrophe."""
_NUMERALS = "\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2079\u2080-\u2089\u2150-\u218b\u2460-\u24ff\u2776-\u2793"
"""Signs such as the raised 2 and the half, which Python counts among the characters of words."""
_L = f"[^\\W\\d_{_NUMERALS}]"
"""A letter."""
_C = f"(?:[^\\W_{_NUMERALS}]|[\u0300-\u036f])"
"""A character inside a word: a letter, a digit, a combining mark."""
_END = f"(?!{_L})"
_STARTERS = _words(
    """A About According After An As At But He Her Here However If In It Last Many More Now Once One Other
    Our She Since So Some Such That The Their Then There These They This We What When While Yet You"""
)
"""Words that start a sentence: the full stop of a single letter before them ends the one before."""
_WORD = f"{_L}(?:{_C}|[.!?_](?={_L}))*"
_THING = f"{_C}+(?:(?:(?:[.,]+{_C}*)?-|_){_C}+)*"
_EITHER = f"{_L}+(?:-{_L}+)*(?:/{_C}+(?:-{_C}+)*)+"

_BLANK = re.compile(r"(?:\s|&nbsp;)+")
_PLAIN = re.compile("[A-Za-z]{2,}(?=,? |,?$)")
"""A word that no rule below is about, apart from `_SPLIT`."""
_BEFORE_NOT = re.compile(f"[^\\W_]+?(?=[nN]{_A}[tT]{_END})")
_COMPOUND = re.compile(f"-{_L}{_C}*")
_LONGEST = [
    re.compile(rule)
    for rule in (
        # Tags, entities, addresses
        r"</?[A-Za-z](?:[^<>=\"]|=\"[^\">]*\"|='[^'>]*')*>",
        "<!--.*?-->",
        r"&(?:amp|lt|gt|quot|apos|#\d+);",
        r"https?://[^\s<>\"|(){}]*[^\s<>\"|(){}.,;:!?]",
        r"www\.(?:[^\W_][\w-]*\.)+[A-Za-z]{2,}(?:/[^\s<>\"|(){}]*[^\s<>\"|(){}.,;:!?])?",
        r"(?:[^\W_][\w-]*\.)+(?:com|net|org|edu)(?![\w])(?:/[^\s<>\"|(){}]*[^\s<>\"|(){}.,;:!?])?",
        r"[A-Za-z0-9][\w.-]*@[A-Za-z0-9][\w-]*(?:\.[A-Za-z0-9-]+)*\.?(?<!\.)",
        "@[A-Za-z_]+",
        f"#{_L}+",
        # Numbers: of a telephone, dates, fractions, others
        r"(?:\(\d{2,3}\) ?|\d{2,4}[- ]\d{2,4}[- ]|\d{2,4}[- ])\d{3,4}[- ]\d{3,5}",
        r"\d{1,2}[-/]\d{1,2}[-/]\d+",
        r"\d{1,4}[- ]\d{1,4}/\d{1,4}|\d+/\d+",
        r"[-+]?(?:\d*(?:[.,:]\d+)+|\d+)",
        # Words
        _WORD,
        _THING,
        _EITHER,
        f"(?:{_C}+-)*{_L}(?:\\.{_L})+\\.(?:-{_L}{_C}*)?",
        f"(?:{_WORD}|{_THING})\\.(?=[,;:])",
        "[A-Z]+&[A-Z]+",
        r"[Cc]\+\+|[CcFf]#|[A-Z]+\$",
        # Words with an apostrophe
        f"(?:{_C}+-)*[A-HJ-XZdlno]{_A}(?!(?:re|ve|ll){_END}){_L}{_L}+(?:-{_C}+)*",
        f"{_C}+[aeiouyAEIOUY]{_A}(?!(?:[SMDT]|RE|VE|LL){_END})[aeiouA-Z]{_C}*",
        f"(?:[cC]{_A}(?:mon|est)|s{_A}mores|[qQ]u{_A}{_L}+|[cC]ap{_A}n|[mM]a{_A}am|[eE]{_A}er|[oO]{_A}o|[nN]e{_A}er|"
        f"[oO]l{_A}|[sS]omethin{_A}|Dunkin{_A}){_END}",
        f"[dljDLJ]{_A}(?=\\s|{_L}{_END})|[jJyY]{_A}(?=[^\\W\\ddlmsDLMS_])",
        f"[nN]{_A}[tT]{_END}",
        f"{_A}(?:[smdnSMDN]|re|ve|ll|RE|VE|LL|[2-9]0s){_END}",
        f"{_A}(?:em|til|cause)|\u2019(?:[smdnSMDN]|re|ve|ll)",
        f'{_A}\\d\\d(?![^\\W_]|[.:{_A[1:-1]}"])',
        f"{_A}[nN]{_A}",
        "'[tT](?=is|was)",
        # Signs
        r"[<>]?[:;=][-o*']?(?:[()\\{@|\[\]]|3(?!\d)|[DPp](?![^\W_]))",
        r"\^_\^",
        r"[!?]+",
        r"\*+|_+",
        r"-{2,}|\.{3}|''|``",
    )
]

_READ = re.compile(
    "[!-~\u00a1-\u03f6\u055a-\u0589\u061b-\u06dd\u0964\u0965\u0e3f\u2013-\u2023\u2026\u2030-\u203b\u203e-\u2042\u2044"
    "\u2070-\u20a0\u20a4\u20ac\u2100-\u214f\u2153-\u215e\u2190-\u2bff\u3001\u3002\u3012\u30fb\uff01-\uff0f\uff1a-\uffe1"
    "\uffe5\uffe6]"
)
"""Signs that the tokenizer can read; it leaves others out, pictographs among them."""
_AS_WRITTEN = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
}  # fmt: skip
_SIGNS = {
    "\u2018": "`", "\u2019": "'", "\u201c": "``", "\u201d": "''", "\"": "''", "\u00ab": "``", "\u00bb": "''",
    "\u2039": "`", "\u203a": "'", "\u2013": "--", "\u2014": "--", "\u2015": "--", "\u2026": "...",
    "\u0091": "`", "\u0092": "'", "\u0093": "``", "\u0094": "''", "\u0096": "--", "\u0097": "--",
    "\u00a3": "#", "\u20ac": "$", "\u0080": "$", "\u00a2": "cents", "\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4",
    "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''", "&apos;": "'",
}  # fmt: skip
"""Tokens that are written in another way."""
_CLITICS = frozenset(
    f"{start}\u2019{end}" for end in ("s", "m", "d", "re", "ve", "ll", "t") for start in ("", "n")
)
"""Tokens with a typographic apostrophe that become plain; in others it stays."""


def ptb_words(text: str) -> list[str]:
    """The lower-case words of a caption: tokens as Stanford's tokenizer has them, less `PUNCTUATION`.

    A contraction is two words (do, n't), a hyphenated word is one. A caption of punctuation only, or of nothing,
    has none.
    """
    return [word for word in ptb_tokens(text) if word not in PUNCTUATION]


def num_one_word(captions: Iterable[str]) -> int:
    """How many captions have one word."""
    return sum(len(ptb_words(text)) == 1 for text in captions)


def ptb_tokens(text: str) -> list[str]:
    """As `ptb_words`, with punctuation."""
    found: list[str] = []
    at = 0
    while at < len(text):
        if blank := _BLANK.match(text, at):
            at = blank.end()
            continue
        end, tokens = _next(text, at)
        found += tokens
        at = end
    return found


def _next(text: str, at: int) -> tuple[int, list[str]]:
    """Where the token at a position ends, and what it is written as: usually one token, two for `cannot`."""
    plain = _PLAIN.match(text, at)
    if plain is None:
        before = _BEFORE_NOT.match(text, at)
        if before:
            return before.end(), [before.group().lower()]
        end = max((m.end() for rule in _LONGEST if (m := rule.match(text, at))), default=at)
        end = _with_stop(text, at, end)
        if end == at:
            return at + 1, _sign(text[at])
    else:
        end = plain.end()
    token = text[at:end].lower()
    if token in _SPLIT:
        return end, list(_SPLIT[token])
    return end, [_written(token)]


def _with_stop(text: str, at: int, end: int) -> int:
    """The end of an abbreviation's full stop, where the word that ends at `end` is one."""
    if end == at or text[end : end + 1] != ".":
        return end
    word, after = text[at:end], text[end + 1 :].split(maxsplit=1)
    low = word.lower()
    known = (
        low in _ABBREVIATIONS
        or (word[0].isupper() and low in _CAPITALISED)
        or (low in _BEFORE_NUMBER and bool(after) and after[0][0].isdigit())
        or (len(word) == 1 and word.isalpha() and not (after and after[0] in _STARTERS))
    )
    if not known:
        return end
    more = _COMPOUND.match(text, end + 1)
    return more.end() if more else end + 1


def _sign(sign: str) -> list[str]:
    """A character that belongs to no longer token; what the tokenizer cannot read is left out, as it does."""
    if sign in _AS_WRITTEN:
        return [_AS_WRITTEN[sign]]
    if sign in _SIGNS:
        return [_SIGNS[sign]]
    return [sign.lower()] if _READ.match(sign) else []


def _written(token: str) -> str:
    if token in _SIGNS:
        return _SIGNS[token]
    if token[0] == "-" and set(token) == {"-"}:
        return "--" if len(token) > 1 else "-"
    if token in _CLITICS:
        return token.replace("\u2019", "'")
    if token[0] != "<" or token[1] in ":;=":
        token = token.replace("(", "-lrb-").replace(")", "-rrb-")
    return token.replace(" ", "\u00a0")
