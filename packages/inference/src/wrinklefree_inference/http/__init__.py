"""An OpenAI-compatible HTTP server over any `AsyncEngine`, or in front of another server.

One request: `protocol` (time-outs, limits of connections) -> `boundary` (id, log line, metrics, last resort
for errors) -> `guard` (host, key, draining, shares, body size) -> a handler that `operations` names, as in
`chat` -> `generation` (engine requests, cancelled when the client leaves) -> whole answer or `sse` stream.
"""
