"""Files of people as text with structure: documents, and the passages that they are cut into.

`loader` runs `load` in a process of its own, because files come from anywhere and parsers break.
`chunk` cuts. Knows nothing of bases, vectors or networks. docs/knowledge.md.
"""
