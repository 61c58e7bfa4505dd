"""`save_to_hf_hub` and `push_to_hub`: what a save would write becomes one commit on the hub."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from offramp.checkpoints.card import merged_card
from offramp.checkpoints.checked_file import check_inside, reading
from offramp.checkpoints.file_names import SAFETENSORS_FILE, replaced_by
from offramp.errors import ConfigError, ModelNotFoundError
from offramp.hub.names import Select, is_inside
from offramp.hub.upload import CARD, Target, upload
from offramp.models.card import model_card
from offramp.models.config_file import CONFIG_FILE, OLD_CONFIG_FILE, read_config
from offramp.models.names import TOKENIZER_FILES, given_path, is_file
from offramp.storage.locks import no_saver


class HubMixin:
    """What can be put on the hub: a model, or a model with its tokenizer."""

    def write_for_hub(self, directory: Path, max_shard_size: int | str | None) -> None:
        """Write all that belongs to it into an empty directory."""
        raise NotImplementedError

    def certificate_in_words(self) -> str | None:
        """What the model card says of its exits' certificate; None where none holds."""
        return None

    def save_to_hf_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        subfolder: str | None = None,
        commit_message: str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        token: str | bool | None = None,
        dry_run: bool = False,
        *,
        max_shard_size: int | str | None = None,
        commit_description: str = "",
        tags: Sequence[str] = (),
    ) -> str:
        """Put the model on the hub as one commit, and return the commit's address.

        Its configuration, weights and exits go up, and the tokenizer's files that it has; where the
        repository has no README.md there, a model card too. The repository is made if need be, and
        with `private` for its owner alone. `subfolder` is a folder in it; weights and tokenizer
        files of an earlier model there are removed by the same commit. `revision` is a branch, main
        by default, made if need be; with `create_pr` the commit becomes a pull request against it.
        `token` is a token that may write; by default it is the client's own (HF_TOKEN, or that of
        `hf auth login`). With `dry_run` nothing is sent, and what would be is returned as a text.
        `max_shard_size` is that of `save_pretrained`; `tags` are for the model card.

        An answer that is lost makes no second commit. Raises HubError; for a `revision` that is a
        commit's id it is also huggingface_hub's RevisionNotFoundError. Raises ConfigError for a
        model that cannot be saved.
        """
        with tempfile.TemporaryDirectory() as written:
            directory = Path(written)
            self.write_for_hub(directory, max_shard_size)
            files = {
                path.relative_to(directory).as_posix(): path
                for path in sorted(directory.rglob("*"))
                if path.is_file()
            }
            return share(
                files,
                directory,
                Target(repo_id, revision, create_pr, private, token),
                subfolder=subfolder,
                message=commit_message,
                description=commit_description,
                dry_run=dry_run,
                certificate=self.certificate_in_words(),
                tags=tags,
            )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str | None = "50GB",
        tags: list[str] | None = None,
    ) -> str:
        """`save_to_hf_hub` with the arguments of transformers' models; the commit's address."""
        return self.save_to_hf_hub(
            repo_id,
            private,
            None,
            f"Upload {type(self).__name__}" if commit_message is None else commit_message,
            revision,
            create_pr,
            token,
            max_shard_size=max_shard_size,
            commit_description=commit_description or "",
            tags=tags or (),
        )


def push_directory(
    directory: str | Path,
    repo_id: str,
    select: Select,
    *,
    private: bool | None = None,
    subfolder: str | None = None,
    commit_message: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | bool | None = None,
    dry_run: bool = False,
    certificate: str | None = None,
) -> str:
    """Put a model's directory on the hub: of its files those that `select` takes, and README.md.

    Arguments, result and errors are those of `HubMixin.save_to_hf_hub`. Raises ModelNotFoundError
    for a directory of no model, and CheckpointError for a file that is a link out of it. Whoever
    saves to the directory meanwhile waits until it is sent.
    """
    directory = given_path(directory)
    if not directory.is_dir():
        raise ModelNotFoundError(f"{directory} is no directory; expected that of a saved model.")
    with no_saver(directory):
        return share(
            _files_of(directory, select),
            directory,
            Target(repo_id, revision, create_pr, private, token),
            subfolder=subfolder,
            message=commit_message,
            dry_run=dry_run,
            certificate=certificate,
        )


def _files_of(directory: Path, select: Select) -> dict[str, Path]:
    """The files of a directory that are a model's, and its card."""
    listed = [path.relative_to(directory).as_posix() for path in directory.rglob("*")]
    names = select(name for name in listed if is_file(directory / name))
    if not names:
        raise ModelNotFoundError(
            f"{directory} holds no model: expected {CONFIG_FILE} and weights with all their parts."
        )
    files = {name: directory / name for name in [*names, *({CARD} & set(listed))]}
    for path in files.values():
        with reading(path, "outside"):
            check_inside(path, directory)
    return files


def share(
    files: Mapping[str, Path],
    directory: Path,
    target: Target,
    *,
    subfolder: str | None,
    message: str | None,
    description: str = "",
    dry_run: bool = False,
    certificate: str | None = None,
    tags: Sequence[str] = (),
) -> str:
    """Upload a model's files, with a card where they have none but what a save wrote of it."""
    for name, value in (("subfolder", subfolder), ("commit_message", message)):
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise ConfigError(f"{name} is a text or None; got {value!r}.")
    if subfolder is not None and (not is_inside(subfolder) or "\\" in subfolder):
        raise ConfigError(f"subfolder is a path inside the repository; got {subfolder!r}.")
    if not isinstance(dry_run, bool):
        raise ConfigError(f"dry_run is True or False; got {dry_run!r}.")
    folder = "" if subfolder is None else f"{Path(subfolder).as_posix().rstrip('/')}/"
    with tempfile.TemporaryDirectory() as place:
        if CARD not in files or merged_card(files[CARD].read_bytes(), None) is None:
            card = Path(place) / CARD
            values = _config(directory)
            text = model_card(values, target.repo_id, subfolder, certificate, tags)
            card.write_text(text, encoding="utf-8")
            files = {**files, CARD: card}
        sent = {folder + name: path for name, path in files.items()}
        if dry_run:
            return _told(sent, target)
        replaced = replaced_by(SAFETENSORS_FILE)

        def replaces(path: str) -> bool:
            name = path.removeprefix(folder)
            is_here = path.startswith(folder) and "/" not in name
            tokenizer = name in TOKENIZER_FILES and any(n in TOKENIZER_FILES for n in files)
            return is_here and (tokenizer or replaced.fullmatch(name) is not None)

        default = f"Upload {folder.rstrip('/') or '.'} with huggingface_hub"
        return upload(sent, target, message or default, description, replaces)


def _config(directory: Path) -> Mapping[str, Any]:
    there = any(is_file(directory / name) for name in (CONFIG_FILE, OLD_CONFIG_FILE))
    return read_config(directory) if there else {}


def _told(sent: Mapping[str, Path], target: Target) -> str:
    """What an upload would send, one file a line."""
    what = "a pull request against " if target.create_pr else ""
    lines = [f"To {target.repo_id}, {what}{target.branch}:"]
    for name in sorted(sent):
        unless = ", unless there is one" if name.rpartition("/")[2] == CARD else ""
        lines.append(f"  {name} ({sent[name].stat().st_size:,} bytes{unless})")
    return "\n".join(lines)
