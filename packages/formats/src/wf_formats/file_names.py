"""Names of the files in a model folder: Hugging Face's, and our record beside them."""

CONFIG_FILE = "config.json"
GENERATION_CONFIG_FILE = "generation_config.json"
WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX_FILE = "model.safetensors.index.json"
"""Which tensor is in which file, where the weights are several files."""
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
NAMED_TEMPLATES = "additional_chat_templates/*.jinja"
"""Pattern of a model's further templates (for tools, say)."""
META_FILE = "wrinklefree.json"
"""Where the weights come from: format, stage, conversion or export."""
CARD_FILE = "README.md"
"""The model card, as the hub shows it."""
MODEL_FILES = (
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    WEIGHTS_FILE,
    "model-?????-of-?????.safetensors",
    WEIGHTS_INDEX_FILE,
    TOKENIZER_FILE,
    TOKENIZER_CONFIG_FILE,
    "tokenizer.model",
    SPECIAL_TOKENS_FILE,
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    CHAT_TEMPLATE_FILE,
    NAMED_TEMPLATES,
    META_FILE,
)
"""Patterns of everything that a model folder of ours can hold."""
