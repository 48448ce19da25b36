"""The parts of a words prior's card."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vqpipe.codebooks.card_parts import QUANTILES, CardParts, clip_licence, norms, spread
from vqpipe.codebooks.markdown import bullets, escape, section, table
from vqpipe.codebooks.statistics import graph_statistics
from vqpipe.codebooks.words import Words

NUM_WORDS, NUM_PAIRS, NUM_NEAR = 6, 10, 4
"""Words whose neighbours are listed, pairs that are listed, neighbours of each word."""
_LANGUAGE = {
    "wordnet": "Parts of speech come from WordNet 3.0 (Princeton University; free for any use with its notice)",
    "nltk": "Parts of speech come from NLTK's perceptron tagger, whose data has terms of its own, and WordNet 3.0",
    "spacy": "Parts of speech come from a spaCy pipeline: see that model's licence; WordNet 3.0 helps with words",
}


def words_sections(words: Words) -> CardParts:
    """The parts of the card of a words prior."""
    facts = words.facts
    rows = [
        ("adjectives", len(words.adjectives)),
        ("nouns", len(words.nouns)),
        ("edges", words.edges.shape[1]),
        ("weight of an edge", facts["weight"]),
        ("an edge is said at least", facts["min_count"]),
        ("word vectors", facts["vectors"]),
        ("dimension", facts["dim"]),
        ("CLIP", facts["clip"]),
        ("parts of speech", facts["pos"]),
        ("what counts as modifying", facts["phrases"]),
        ("words said", sum(words.adjective_counts) + sum(words.noun_counts)),
        ("pairs said, those with words outside the vocabulary included", facts["num_pairs_said"]),
    ]
    call = f"words.nouns_of({words.adjectives[0]!r})"
    about = [
        "Adjectives and nouns that captions say, each with a vector, and a bipartite graph with an edge where an "
        "adjective modifies a noun. A word of both classes is two nodes."
    ]
    return CardParts(
        about=section("What it is", about, table(["fact", "value"], rows)),
        statistics=section("Statistics", *_graph(words), *_vectors(words)),
        loading=[
            "from vqpipe import load_codebook",
            "",
            'words = load_codebook("words")   # the folder of the prior',
            "words.adjectives, words.nouns    # lists of words",
            "words.vectors                    # (ka + kn, d) float32, adjectives first; words.names in this order",
            "words.edges, words.weights       # (2, e) indices of adjective and noun, (e,)",
            f"{call:<32} # the nouns that it modifies, with the weights",
            "words.nearest(features, 5)       # (n, d) features to the 5 nearest words of each, by cosine similarity",
        ],
        licences=bullets(_licences(words)),
        limitations=bullets(_limitations(words)),
    )


def _graph(words: Words) -> list[list[str]]:
    pairs = [(a, n) for a, n in words.edges.T.tolist()]
    shape = graph_statistics(pairs, len(words.adjectives), len(words.nouns))
    degree = shape["degree"]
    rows = [
        ("density (share of all adjective-noun pairs)", shape["density"]),
        ("connected components of two words or more", shape["num_components"]),
        ("share of all words in the largest", shape["largest_component"]),
        ("adjectives without an edge", shape["isolated_adjectives"]),
        ("nouns without an edge", shape["isolated_nouns"]),
        *((f"neighbours of {name}: median, mean, most", f"{own['median']:g}, {own['mean']:.4g}, {own['max']}")
          for name, own in degree.items()),
    ]  # fmt: skip
    named = [(words.adjectives[a], words.nouns[n]) for a, n in pairs]
    listed = list(zip(named, words.edge_counts, words.edge_pmi, strict=True))
    most = sorted(listed, key=lambda item: (-item[1], item[0]))[:NUM_PAIRS]
    surprising = sorted(listed, key=lambda item: (-item[2], item[0]))[:NUM_PAIRS]
    columns = ["adjective", "noun", "said", "PMI in nats"]

    def rows_of(items: Sequence[tuple[tuple[str, str], int, float]]) -> list[list[str]]:
        return [[a, n, f"{count:,}", f"{pmi:.2f}"] for (a, n), count, pmi in items]

    said = [f"The {len(most)} pairs that are said most:"], table(columns, rows_of(most))
    odd = [f"The {len(surprising)} pairs most above chance:"], table(columns, rows_of(surprising))
    return [table(["graph", "value"], rows), *(part for part in (*said, *odd) if listed)]


def _vectors(words: Words) -> list[list[str]]:
    sides = {
        "adjectives": (words.adjectives, words.adjective_vectors, words.adjective_counts),
        "nouns": (words.nouns, words.noun_vectors, words.noun_counts),
    }
    size = table(
        ["norms", *QUANTILES],
        [
            [name, *(f"{own:.4g}" for own in spread(norms(vectors)))]
            for name, (_, vectors, _) in sides.items()
        ],
    )
    near = []
    for names, vectors, _ in sides.values():
        unit = torch.nn.functional.normalize(vectors.double(), dim=1)
        similarity = unit[:NUM_WORDS] @ unit.T
        for row, values in enumerate(similarity):
            order = [i for i in values.argsort(descending=True, stable=True).tolist() if i != row][:NUM_NEAR]
            close = ", ".join(f"{escape(names[i])} {float(values[i]):.2f}" for i in order)
            near.append(f"{escape(names[row])}: {close or 'no other word'}")
    title = ["Nearest words of the most said ones by cosine similarity of their vectors, within each class:"]
    return [size, title, bullets(near)]


def _licences(words: Words) -> list[str]:
    clip, vectors = words.facts["clip"], words.facts["vectors"]
    notes = [
        "**Captions.** The prior holds words, counts and ids of captions, no caption. Check that the terms of the "
        "captions allow sharing what is derived from them, and whether the ids point to people's pictures.",
        f"**Language.** {_LANGUAGE.get(words.facts['pos']['kind'], 'See the tagger that was used')}.",
    ]
    if clip is not None:
        notes.append(clip_licence(clip, "the word vectors"))
    if vectors["kind"] == "glove":
        notes.append(
            f"**Word vectors.** They are rows of `{vectors['file']}` (SHA-256 `{vectors['sha256'][:16]}…`): share "
            "them under that file's terms."
        )
    return notes


def _limitations(words: Words) -> list[str]:
    kind = words.facts["vectors"]["kind"]
    own = {
        "clip": "The vectors are the text encoder's outputs as it gives them, not normalised. Those of one prompt "
        "share a large common part: compare them by rank, not by the size of a similarity.",
        "clip_tokens": "The vectors are means of input embeddings, not in the space that CLIP shares with images. "
        "Tokens that a CLIP fitted here never saw have untrained rows.",
        "glove": "The vectors know the text they were made from, not images. A word has one vector in both classes.",
        "random": "The vectors are random: an ablation, of no use for retrieval.",
    }[kind]  # fmt: skip
    return [
        "English only; parts of speech and modifiers are found by program and some are wrong.",
        "The captions decide what is in it, with their subjects, their habits and their prejudices.",
        "An edge says that captions said it, not that an image shows it. A missing edge may only be rare.",
        own,
    ]
