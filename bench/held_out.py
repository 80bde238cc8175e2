"""Chooses the Tatoeba sentences that bench/model.py tests translation with and that no model of this repository is trained on.

    python bench/held_out.py DATA/parallel/en-mr-tatoeba.tsv > bench/questions/translations.tsv

A cluster is a set of sentences that are connected by translations: all wordings of one meaning. Whole clusters are held out, so
that no other wording of a tested sentence is trained on. Clusters of 2 to 8 pairs whose English sentences have 4 to 10 words are
candidates; a hash of their sentences chooses 250 of them. The recipe names the file in `data.held_out`.
"""

import hashlib
import sys
from pathlib import Path

CLUSTERS = 250


def clusters(pairs: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Group pairs that share a sentence, directly or through others."""
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for english, marathi in pairs:
        parent[root("mr:" + marathi)] = root("en:" + english)
    found: dict[str, list[tuple[str, str]]] = {}
    for pair in pairs:
        found.setdefault(root("en:" + pair[0]), []).append(pair)
    return list(found.values())


def main() -> None:
    """Print the chosen pairs."""
    rows = (line.split("\t") for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines())
    pairs = list(dict.fromkeys((row[0], row[1]) for row in rows if len(row) == 2))
    candidates = [
        sorted(cluster)
        for cluster in clusters(pairs)
        if 2 <= len(cluster) <= 8 and all(4 <= len(english.split()) <= 10 for english, _ in cluster)
    ]
    candidates.sort(key=lambda cluster: hashlib.sha256(repr(cluster).encode()).digest())
    for english, marathi in sorted(pair for cluster in candidates[:CLUSTERS] for pair in cluster):
        print(f"{english}\t{marathi}")


if __name__ == "__main__":
    main()
