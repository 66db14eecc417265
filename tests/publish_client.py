"""What test_publish.py runs in processes of its own, to kill them."""

import os


def publish_in_child(endpoint: str, folder: str, repo_id: str, **options: object) -> None:
    """Publish with the loopback Hub's settings; a forked server may have been started with others."""
    import huggingface_hub.constants as constants
    from huggingface_hub.utils import disable_progress_bars

    from ipt_datasets.corpus.publish import publish

    constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_XET = False, True
    os.environ["HF_TOKEN"] = "hf_writer"
    disable_progress_bars()
    publish(folder, repo_id, endpoint=endpoint, **options)
