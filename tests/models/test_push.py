"""What is sent to the Hub, and what of a repository stays."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from senet import insert
from senet.errors import DataError
from senet.models import create_model, push_to_hub


@pytest.mark.parametrize("card", [False, True])
def test_push_makes_the_repository_and_uploads_the_folder(
    card: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card that is there stays, and the plan of an earlier network does not."""
    model = create_model("resnet20")
    insert(model, torch.zeros(1, 3, 32, 32))
    done: list[Any] = []

    class Hub:
        def __init__(self, token: str | None) -> None:
            done.append(("token", token))

        def create_repo(self, repository: str, **options: Any) -> None:
            done.append((repository, options))

        def file_exists(self, repository: str, name: str, *, revision: str | None) -> bool:
            assert (repository, name, revision) == ("me/net", "README.md", "dev")
            return card

        def upload_folder(self, **options: Any) -> Any:
            files = {path.name for path in Path(options.pop("folder_path")).iterdir()}
            done.append((files, options))
            return SimpleNamespace(commit_url="https://hub/commit/1")

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)

    address = push_to_hub(model, "me/net", private=True, token="t", revision="dev")

    assert address == "https://hub/commit/1"
    assert done == [
        ("token", "t"),
        ("me/net", {"private": True, "exist_ok": True}),
        (
            {"README.md", "config.json", "model.safetensors", "senet.json"},
            {
                "repo_id": "me/net",
                "ignore_patterns": ["README.md"] if card else None,
                "delete_patterns": ["senet.json"],
                "commit_message": "Upload a network with senet",
                "revision": "dev",
            },
        ),
    ]


def test_push_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise LocalEntryNotFoundError("no\nroute")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)

    with pytest.raises(DataError, match=r"me/net must be a repository .*but: no route; connect"):
        push_to_hub(create_model("resnet20"), "me/net")
