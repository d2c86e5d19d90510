"""Small vocabularies: equal for equal texts, of every byte, with the ends that were asked for."""

from data_handler.small_tokenizer import small_tokenizer

TEXTS = ["the river and the road", "the road and the river"] * 20


def test_it_is_the_same_for_the_same_texts_and_reads_every_byte() -> None:
    made = [small_tokenizer(iter(TEXTS), 265, bos="<s>") for _ in range(2)]
    assert made[0].get_vocab() == made[1].get_vocab()
    assert len(made[0]) == 265
    for text in ("the river", "Straße 東京 \x00"):
        assert made[0].decode(made[0](text, add_special_tokens=False).input_ids) == text
    assert (made[0].bos_token_id, made[0].eos_token_id) == (0, 1)


def test_one_token_may_be_both_ends_and_a_beginning_is_optional() -> None:
    both = small_tokenizer(TEXTS, 270, bos="</s>")
    assert both.bos_token_id == both.eos_token_id == 0
    assert small_tokenizer(TEXTS, 270).bos_token is None
