"""Tokens of captions as the reference captioning scores count them, without Java.

The reference package `pycocoevalcap` runs Stanford's PTBTokenizer (CoreNLP 3.4.1, `-preserveLines -lowerCase`) and then
drops punctuation tokens. The rules here were derived from what that tokenizer returns, character by character and word
by word; no code of it is used. `tests/bench/caption_words.py` measures the agreement (docs/tasks.md has the numbers).
"""

from __future__ import annotations

import re
import unicodedata

PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
"""Tokens that the package drops. It has the brackets in upper case and the tokens in lower case, so `-lrb-` stays."""

_ABBREVIATIONS = frozenset(
    """adm al ala apr ariz assn asst atty aug ave bldg blvd brig bros calif capt cf cie cmdr co col colo comdr conn corp
    cos cpl ct dak dec dept det dr drs ens esq est etc ext feb fla fri ft ga gen gov govs hon inc ind insp intl jan jr jul
    jun kan ky lieut lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms mt neb nev nov oct okla pa penn
    pfc ph plc pres prof profs pte pty pvt rd rep reps rev sen sens sep sept seq sgt spc sq sr st ste supt tel tenn thu
    thurs tue tues univ va vs vt wed wis wyo""".split()
)
"""Words that keep their full stop anywhere; and every single letter does."""
_CAPITALISED = frozenset("ark az del ill la mass miss ore tex wash".split())
"""Words that keep it if they start with a capital."""
_BEFORE_NUMBER = frozenset("art ca fig figs no nos op pp prop".split())
"""Words that keep it before a digit."""

_SPLIT = {word: (word[:3], word[3:]) for word in ("cannot", "gonna", "gotta", "wanna", "lemme", "gimme")}
_A = "['\u2019\u0092]"
"""An apostrophe."""
_L = "[^\\W\\d_]"
"""A letter."""
_END = "(?![^\\W_])"
_WORD = f"{_L}(?:[^\\W_]|[.!?_](?={_L}))*"
_THING = f"[^\\W_]+(?:-[^\\W_]+)*(?:/{_L}[^\\W_]*(?:-[^\\W_]+)*)*"

_PLAIN = re.compile("[A-Za-z]{2,}(?=[ ,]|$)")
"""A word that no rule below is about, apart from `_SPLIT`."""
_BEFORE_NOT = re.compile(f"(?:[^\\W_]+-)*[^\\W_]+?(?=[nN]{_A}[tT]{_END})")
_LONGEST = [
    re.compile(rule)
    for rule in (
        # Tags, entities, addresses
        r"</?[A-Za-z][A-Za-z0-9:_.-]*(?:\s+[A-Za-z-]+=(?:\"[^\">]*\"|'[^'>]*'))*\s*/?>",
        "<!--.*?-->",
        "&(?:amp|lt|gt|quot|apos|nbsp);",
        r"https?://[^\s<>\"|(){}]*[^\s<>\"|(){}.,;:!?]",
        r"www\.(?:[^\W_][\w-]*\.)+[A-Za-z]{2,}(?:/[^\s<>\"|(){}]*[^\s<>\"|(){}.,;:!?])?",
        r"(?:[^\W_][\w-]*\.)+(?:com|net|org|edu)(?![\w])(?:/[^\s<>\"|(){}]*[^\s<>\"|(){}.,;:!?])?",
        r"[A-Za-z0-9][\w.-]*@[A-Za-z0-9][\w-]*(?:\.[A-Za-z0-9-]+)*\.?(?<!\.)",
        "@[A-Za-z_]+",
        f"#{_L}+",
        # Numbers: of a telephone, dates, fractions, others
        r"(?:\(\d{2,3}\) ?|\d{2,4}[- ]\d{2,4}[- ]|\d{2,4}[- ])\d{3,4}[- ]\d{3,5}",
        r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}",
        r"(?:\d{1,4}[- ])?\d{1,4}/\d{1,4}",
        r"[-+]?(?:\d*(?:[.,:]\d+)+|\d+)",
        # Words
        _WORD,
        _THING,
        f"{_L}(?:\\.{_L})*\\.(?:-{_L}[^\\W_]*)?",
        f"{_WORD}\\.(?=[,;:])",
        "[A-Z]+&[A-Z]+",
        r"[Cc]\+\+|[CcFf]#|(?:US|HK|NT|[A-Z])\$",
        # Words with an apostrophe
        f"(?:[^\\W_]+-)*[A-HJ-XZdlno]{_A}{_L}{_L}+(?:-[^\\W_]+)*",
        f"[^\\W_]+(?<=[aeiouAEIOU]){_A}[aeiouAEIOU][^\\W_]*",
        f"(?:[cC]{_A}(?:mon|est)|s{_A}mores|[qQ]u{_A}{_L}+|[cC]ap{_A}n|[mM]a{_A}am|[eE]{_A}er|[nN]e{_A}er|"
        f"[oO]l{_A}|[sS]omethin{_A}|Dunkin{_A}){_END}",
        f"[dljDLJ]{_A}(?=\\s|{_L}{_END})|[jJyY]{_A}(?=[^\\W\\ddlmsDLMS_])",
        f"[nN]{_A}[tT]{_END}",
        f"{_A}(?:[smdnSMDN]|re|ve|ll|RE|VE|LL|em|til|cause|\\d\\d|[2-9]0s){_END}",
        f"{_A}[nN]{_A}",
        f"{_A}[tT](?=(?:is|was)(?:n{_A}t)?{_END})",
        # Signs
        r"[<>]?[:;=][-o*']?[()DPp\\{@|\[\]3]",
        r"\^_\^",
        r"[!?]+",
        r"\*+|_+",
        r"-{2,}|\.{3}|''|``",
    )
]

_AS_WRITTEN = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
}  # fmt: skip
_SIGNS = {
    "\u2018": "`", "\u2019": "'", "\u201c": "``", "\u201d": "''", "\"": "''", "\u00ab": "``", "\u00bb": "''",
    "\u2039": "`", "\u203a": "'", "\u2013": "--", "\u2014": "--", "\u2015": "--", "\u2026": "...",
    "\u00a3": "#", "\u20ac": "$", "\u00a2": "cents", "\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4",
    "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''", "&apos;": "'", "&nbsp;": "",
}  # fmt: skip
"""Tokens that are written in another way."""


def ptb_words(text: str) -> list[str]:
    """The lower-case words of a caption: tokens as Stanford's tokenizer has them, less `PUNCTUATION`.

    A contraction is two words (do, n't), a hyphenated word is one. A caption of punctuation only, or of nothing,
    has none.
    """
    return [word for word in ptb_tokens(text) if word not in PUNCTUATION]


def ptb_tokens(text: str) -> list[str]:
    """As `ptb_words`, with punctuation."""
    found: list[str] = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
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
    word = text[at:end]
    low = word.rpartition("-")[2].lower()
    known = low in _ABBREVIATIONS or (word[0].isupper() and low in _CAPITALISED)
    if known or (low in _BEFORE_NUMBER and re.match(r"\s?\d", text[end + 1 :])):
        return end + 1
    return end


def _sign(sign: str) -> list[str]:
    """A character that belongs to no longer token; what the tokenizer cannot read is left out, as it does."""
    if sign in _AS_WRITTEN:
        return [_AS_WRITTEN[sign]]
    if sign in _SIGNS:
        return [_SIGNS[sign]]
    if ord(sign) > 0xFFFF or unicodedata.category(sign) in ("Cc", "Cf", "Cn", "Co", "Cs", "Mn"):
        return []
    return [sign.lower()]


def _written(token: str) -> str:
    if token in _SIGNS:
        return _SIGNS[token]
    if token[0] == "-" and set(token) == {"-"}:
        return "--" if len(token) > 1 else "-"
    if token[0] not in "'\u2019" or token[-1] not in "'\u2019s":
        token = token.replace("\u2019", "'")
    elif not token[1:2].isdigit() and token[1:] != "n\u2019":
        token = token.replace("\u2019", "'")
    for bracket, name in _AS_WRITTEN.items():
        if bracket in token and token[0] != "<":
            token = token.replace(bracket, name)
    return token.replace(" ", "\u00a0")
