"""Everything about llama.cpp, whose build inside the `xllamacpp` wheel is called in this process.

`api.py` is its C interface, `scorer.py` the log-probabilities of given tokens, `server.py` its HTTP server,
`engine.py` both as one engine, `gguf_file.py` the first look at a file.
"""
