"""The OpenAI-compatible HTTP API: bodies in, `Generator` calls, OpenAI's shapes and server-sent
events out.

Generates nothing itself and knows no model: everything comes from a
`kwaai.node.generate.Generator`. The surface is described in docs/api.md.
"""
