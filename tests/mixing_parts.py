"""What the tests of mixing and of packing share: a small tokenizer, small corpora, and a kill at a chosen rename."""

import hashlib
import json
import os
import random
import signal
from pathlib import Path

from forking import in_child
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

WORDS = [*"harbour stone water light every of the carried under winter".split(), "<|im_end|>", "café", "12", "345"]  # noqa: SIM905


def small_tokenizer(folder):
    """Write a byte-level BPE with BOS (id 0) and EOS (id 1) that loads in no time."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[1])
    whole.save_pretrained(folder)
    return str(folder)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def texts(number, longest=60, seed=0):
    draws = random.Random(seed)
    return [" ".join(draws.choices(WORDS, k=draws.randint(1, longest))) for _ in range(number)]


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def forked(task, kill_at):
    """Run a task in a child that is killed around its (kill_at // 2)-th rename, before it for even numbers.

    Returns:
        Whether it was killed; False: it came to its end.
    """

    def work():
        left, rename = [kill_at // 2], os.rename

        def rename_or_die(*args):
            left[0] -= 1
            if left[0] < 0 and kill_at % 2 == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(*args)
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        os.rename = rename_or_die
        task()

    status = in_child(work)
    assert status in (0, -signal.SIGKILL)
    return status != 0
