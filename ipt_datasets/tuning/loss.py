"""The loss on the learned tokens, with logits for their positions only."""

from collections.abc import Sequence
from typing import Any

from ipt_datasets.tuning.plan import MASKED, ForwardPasses


def collate(items: Sequence[list[tuple[list[int], list[int]]]], begin: int) -> dict[str, Any]:
    """Join the sequences of forward passes into tensors, padded on the right.

    Args:
        items: what `ForwardPasses` gives; one without sequences becomes a single token that is not learned.
        begin: the id of that token, and of the padding.

    Returns:
        `input_ids`, `labels` and `keep`, all of shape (sequences, tokens); `keep` marks the positions whose next token
        is learned. `attention_mask` only where there is padding: without it attention is faster.
    """
    import torch

    sequences = [sequence for item in items for sequence in item] or [([begin], [MASKED])]
    longest = max(len(ids) for ids, _ in sequences)
    ids = torch.full((len(sequences), longest), begin)
    labels = torch.full((len(sequences), longest), MASKED)
    mask = torch.zeros((len(sequences), longest), dtype=torch.long)
    for number, (one_ids, one_labels) in enumerate(sequences):
        ids[number, : len(one_ids)] = torch.tensor(one_ids)
        labels[number, : len(one_ids)] = torch.tensor(one_labels)
        mask[number, : len(one_ids)] = 1
    keep = torch.zeros_like(labels, dtype=torch.bool)
    keep[:, :-1] = labels[:, 1:] != MASKED
    batch = {"input_ids": ids, "labels": labels, "keep": keep}
    return batch if bool(mask.all()) else batch | {"attention_mask": mask}


def compute_kept_logits_only(model: Any) -> None:
    """Let a causal language model take `keep` and compute logits for those positions only, as shape (kept, words).

    A small model spends a good part of its time on logits nobody asks for. The model needs no code of its own for
    this: what its head is called with is cut down. Where the head is not found or not called with hidden states of
    shape (sequences, tokens, size), the model gives all logits, and `sum_of_losses` takes those as well.
    """
    kept: list[Any] = [None]

    def take(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        kept[0] = kwargs.pop("keep", None)
        return args, kwargs

    def cut(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        keep = kept[0]
        if keep is None or not args or args[0].shape[:-1] != keep.shape:
            return None
        return (args[0][keep], *args[1:])

    model.register_forward_pre_hook(take, with_kwargs=True)
    head = model.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(cut)


def sum_of_losses(logits: Any, labels: Any) -> Any:
    """Sum the cross entropy over the learned tokens; `logits` are those of all positions or of the kept ones."""
    from torch.nn.functional import cross_entropy

    following = labels[:, 1:]
    if logits.dim() == 3:
        logits = logits[:, :-1][following != MASKED]
    return cross_entropy(logits.float(), following[following != MASKED], reduction="sum")


def mean_loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    """Give the share of a forward pass in the mean over the learned tokens of the whole optimizer step."""
    return sum_of_losses(outputs["logits"], labels) / num_items_in_batch


def evaluate(model: Any, accelerator: Any, passes: ForwardPasses, begin: int) -> float:
    """Give the mean loss over all learned tokens, shared out over the processes there are."""
    import torch

    total = torch.zeros(2, dtype=torch.float64)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for index in range(accelerator.process_index, len(passes), accelerator.num_processes):
            if not (item := passes[index]):
                continue
            batch = {name: value.to(accelerator.device) for name, value in collate([item], begin).items()}
            labels = batch.pop("labels")
            total[0] += sum_of_losses(model(**batch)["logits"], labels).double().cpu()
            total[1] += int((labels != MASKED).sum())
    model.train(was_training)
    total = accelerator.reduce(total.float().to(accelerator.device), reduction="sum")
    return float(total[0] / total[1])
