"""Stock vLLM and SGLang with our plug-ins, each in an environment of its own."""
