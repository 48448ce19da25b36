"""The artifact store: typed specs with versions, atomic publishing, lineage and cost next to each artifact."""
