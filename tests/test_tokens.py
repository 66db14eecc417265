"""Real tokenizers called directly: the same ids and texts as through transformers, whatever else uses them."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TOKENIZERS = ["mistral_tokenizer", "legacy_mistral_tokenizer", "smol_tokenizer"]
PIECES = st.one_of(st.text(max_size=8), st.sampled_from(["<s>", "</s>", "<|im_end|>", " ", "\n\n", "1 2", "é", "🙂"]))


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return request.getfixturevalue(request.param)


def encoded_by_transformers(tokenizer, text):
    return tokenizer.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PIECES, max_size=12).map("".join))
def test_ids_and_texts_are_those_of_transformers(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids == encoded_by_transformers(tokenizer, text)
    anchor = tokenizer.encode("\n")
    behind = tokenizer.tokenizer.decode(anchor + ids, clean_up_tokenization_spaces=False)
    assert tokenizer.decode(ids) == behind[len(tokenizer.tokenizer.decode(anchor)) :]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 60_000) | st.integers(0, 400), max_size=30))
def test_bytes_of_ids_are_read_as_the_backend_reads_them(smol_tokenizer, ids):
    """Control ids, ids that no token has, and bytes that are no UTF-8 among them."""
    assert smol_tokenizer._bytes_of is not None
    backend = smol_tokenizer.tokenizer.backend_tokenizer
    assert smol_tokenizer.decode(ids) == backend.decode(ids, skip_special_tokens=False)


def test_only_byte_level_tokenizers_are_read_by_their_bytes(mistral_tokenizer):
    assert mistral_tokenizer._bytes_of is None


def test_an_added_token_that_is_not_written_in_bytes_is_read_as_it_stands(smol_tokenizer):
    from copy import deepcopy

    other = deepcopy(smol_tokenizer.tokenizer)
    other.add_tokens(["<a heron é>"])
    ids = other.encode("x<a heron é> y")
    assert type(smol_tokenizer)(other).decode(ids) == "x<a heron é> y"


def test_other_users_of_the_tokenizer_leave_nothing_behind(tokenizer):
    text = "A <s> b </s> c <|im_end|> " * 5
    before = tokenizer.encode(text)
    tokenizer.tokenizer(text, truncation=True, max_length=3)
    tokenizer.tokenizer.encode(text, add_special_tokens=False)  # reads the control tokens as such
    assert tokenizer.encode(text) == before
    assert not set(before) & set(tokenizer.control_tokens.values())


def test_a_tokenizer_with_a_way_of_its_own_is_called_as_it_is(smol_tokenizer):
    class Shouting(type(smol_tokenizer.tokenizer)):
        def _encode_plus(self, text, **options):
            return super()._encode_plus(text.upper(), **options)

    loud = Shouting(tokenizer_object=smol_tokenizer.tokenizer.backend_tokenizer, eos_token="<|im_end|>")
    assert type(smol_tokenizer)(loud).encode("a heron") == smol_tokenizer.encode("A HERON")
