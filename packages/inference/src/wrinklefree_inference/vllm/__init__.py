"""vLLM with the plug-in wrinklefree-vllm, in an environment of its own."""
