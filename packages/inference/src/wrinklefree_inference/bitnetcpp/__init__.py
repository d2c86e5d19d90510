"""bitnet.cpp, which is nobody's dependency: a build of the user's own, by its llama-server."""
