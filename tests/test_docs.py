"""The documentation: every public name is in it and explained, and its examples run."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import offramp

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
DIRECTIVE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def directives() -> list[str]:
    """The names whose docstrings the API pages show."""
    pages = sorted((DOCS / "api").glob("*.md"))
    return [name for page in pages for name in DIRECTIVE.findall(page.read_text(encoding="utf-8"))]


def resolve(path: str) -> Any:
    """What a directive names: an attribute of offramp, or of one of its modules."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


# The API pages


def test_every_public_name_is_on_an_api_page() -> None:
    assert {f"offramp.{name}" for name in offramp.__all__} <= set(directives())


def test_every_name_on_an_api_page_is_there_once() -> None:
    listed = directives()
    assert len(listed) == len(set(listed))
    for path in listed:
        assert resolve(path).__module__.startswith("offramp."), path


MEMBERS = {
    "PretrainedModel": """
        model_config_file resource_files_names pretrained_init_configuration
        pretrained_resource_files_map model_name_list base_model_prefix base_model base_model_class
        init_config config_class config constructed_from_pretrained_config from_pretrained
        save_pretrained save_model_config from_config get_input_embeddings set_input_embeddings
        get_output_embeddings set_output_embeddings tie_weights tied_weights
        resize_token_embeddings resize_position_embeddings init_weights post_init _init_weights
        prune_heads get_memory_footprint num_parameters gradient_checkpointing_enable
        gradient_checkpointing_disable is_gradient_checkpointing can_generate generate device dtype
    """,
    "PretrainedConfig": """
        attribute_map from_pretrained save_pretrained from_dict to_dict to_diff_dict id2label
        label2id num_labels problem_type tie_word_embeddings pruned_heads exits extra validate
        model_type pretrained_init_configuration architectures
    """,
    "BertConfig": """
        vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act
        hidden_dropout_prob attention_probs_dropout_prob classifier_dropout max_position_embeddings
        type_vocab_size initializer_range layer_norm_eps pad_token_id
    """,
    "BertPreTrainedModel": "_init_weights",
    "BertModel": "forward n_layers start step finish pool",
    "GenerationMixin": "can_generate generate",
    "AutoConfig": "from_pretrained for_model",
    "AutoModel": "from_pretrained from_config",
    "Criterion": "name fits start update ask check for_task each_label to_dict from_dict",
    "Entropy": "threshold growth update to_dict from_dict",
    "NormalizedEntropy": "threshold update",
    "MaxProbability": "threshold update",
    "Margin": "threshold update",
    "Energy": "threshold temperature update",
    "Patience": "patience start update",
    "ConfidentPatience": "patience threshold start update",
    "JensenShannonPatience": "patience threshold start update",
    "RegressionPatience": "patience threshold start update",
    "Voting": "threshold power start update",
    "LearnedToExit": "threshold ask check",
    "MinDepth": "layers update",
    "RandomExit": "rate seed update",
    "AllOf": "of start update",
    "AnyOf": "of start update",
    "Classifier": "predict stream save threshold growth criterion labels",
    "Embedder": "embed stream save width prompts layout",
    "Tagger": "predict stream predict_words labels save",
    "Answerer": "answer predict n_best save",
    "Chooser": "predict stream save",
    "Reranker": "predict stream rerank save",
    "Runner": "run stream windows",
    "Tokenizer": "from_pretrained encode max_length vocab_size write_files",
}
"""Of each public class, names that a user must find explained."""


@pytest.mark.parametrize(
    ("owner", "name"), [(o, n) for o, names in MEMBERS.items() for n in names.split()]
)
def test_a_member_is_explained(owner: str, name: str) -> None:
    assert explanation(getattr(offramp, owner), name), f"{owner}.{name} has no docstring of its own"


def explanation(cls: type, name: str) -> str | None:
    """The docstring of a member, from the first of offramp's own classes that gives it one.

    torch's do not count, nor does that of a method which is overridden without a word.
    """
    for kind in own_classes(cls):
        member = vars(kind).get(name)
        function = function_of(member)
        found = function.__doc__ if function else documented_attributes(kind).get(name)
        if found:
            return found
        if name in vars(kind) and function:
            return None
    return None


@functools.cache
def documented_attributes(cls: type) -> dict[str, str]:
    """Class attributes with a text right after them, which is how they are documented."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = tree.body[0].body  # type: ignore[attr-defined]
    found = {}
    for one, two in itertools.pairwise(body):
        if isinstance(two, ast.Expr) and isinstance(two.value, ast.Constant):
            targets = one.targets if isinstance(one, ast.Assign) else [getattr(one, "target", None)]
            found |= {t.id: str(two.value.value) for t in targets if isinstance(t, ast.Name)}
    return found


def test_a_page_shows_what_the_base_class_inherits() -> None:
    page = (DOCS / "api" / "models.md").read_text(encoding="utf-8")
    shown = page.partition("::: offramp.PretrainedModel\n")[2].partition(":::")[0]
    assert "inherited_members: true" in shown
    assert "^_init_weights$" in shown


# The public surface


def own_classes(cls: type) -> list[type]:
    return [kind for kind in cls.__mro__ if kind.__module__.startswith("offramp.")]


def function_of(member: object) -> Any:
    """The function behind a method, a class method or a property; None for anything else."""
    if isinstance(member, (classmethod, staticmethod)):
        member = member.__func__
    if isinstance(member, functools.cached_property):
        member = member.func
    if isinstance(member, property):
        member = member.fget
    member = inspect.unwrap(member) if callable(member) else member  # type: ignore[arg-type]
    return member if inspect.isfunction(member) else None


def functions(thing: Any) -> Iterator[tuple[str, Any]]:
    """A function, or the public ones and the constructor that offramp's source gives a class."""
    if not isinstance(thing, type):
        yield thing.__name__, function_of(thing)
        return
    for kind in own_classes(thing):
        for name, member in vars(kind).items():
            function = function_of(member)
            written = function is not None and function.__module__.startswith("offramp.")
            if written and (not name.startswith("_") or name in ("__init__", "_init_weights")):
                yield f"{kind.__module__}.{kind.__name__}.{name}", function


def reachable() -> dict[str, Any]:
    """What the API pages show, and all classes that the signatures there name."""
    found: dict[str, Any] = {}
    todo = [resolve(path) for path in directives()]
    while todo:
        thing = todo.pop()
        path = f"{thing.__module__}.{thing.__name__}"
        if path in found or not thing.__module__.startswith("offramp."):
            continue
        if thing.__name__.startswith("_"):
            continue
        found[path] = thing
        for _, function in functions(thing):
            # Some modules import public names for type checkers alone.
            late = {n: getattr(offramp, n) for n in offramp.__all__ if n not in vars(offramp)}
            known = {n: v for n, v in vars(offramp).items() if n in offramp.__all__}
            hints = typing.get_type_hints(function, localns=known | late)
            todo += [kind for hint in hints.values() for kind in classes_in(hint)]
    return found


def classes_in(hint: object) -> Iterator[Any]:
    if isinstance(hint, type) and not typing.get_args(hint):
        yield hint
    for part in typing.get_args(hint):
        yield from classes_in(part)


@pytest.fixture(scope="module")
def surface() -> dict[str, Any]:
    return reachable()


def test_the_public_surface_is_explained(surface: dict[str, Any]) -> None:
    silent = []
    for path, thing in surface.items():
        generated = f"{thing.__name__}("  # what a dataclass or a named tuple writes itself
        if not thing.__doc__ or thing.__doc__.startswith(generated):
            silent.append(path)
        for where, function in functions(thing):
            if not function.__doc__ and not where.endswith(".__init__") and not fills(thing, where):
                silent.append(where)
    assert not sorted(set(silent))


def fills(thing: Any, where: str) -> bool:
    """Whether a family's method does what a task or the body leaves to it, and explains."""
    module, _, name = where.rsplit(".", 2)
    rooms = (".heads", ".pretraining", ".encoder")
    shared = [kind for kind in own_classes(thing) if kind.__module__.endswith(rooms)]
    return module not in {kind.__module__ for kind in shared} and any(
        getattr(vars(kind).get(name), "__doc__", None) for kind in shared
    )


def test_the_public_surface_is_typed(surface: dict[str, Any]) -> None:
    untyped = []
    for thing in surface.values():
        for where, function in functions(thing):
            signature = inspect.signature(function)
            given = list(signature.parameters.values())
            if given and given[0].name in ("self", "cls"):
                given = given[1:]
            untyped += [f"{where}: {p.name}" for p in given if p.annotation is p.empty]
            if signature.return_annotation is signature.empty:
                untyped.append(f"{where}: its result")
    assert not sorted(set(untyped))


def test_what_signatures_name_is_on_an_api_page_too(surface: dict[str, Any]) -> None:
    shown = {f"{thing.__module__}.{thing.__name__}" for thing in map(resolve, directives())}
    assert not surface.keys() - shown


# The examples

BLOCK = re.compile(r"(<!-- no run -->\n)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run_page(page: Path) -> dict[str, Any]:
    """Run a page's Python in order, as one program; its names. Those marked are compiled alone."""
    text = page.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": f"docs.{page.stem}"}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(2))
        code = compile("\n" * line + block[2], str(page), "exec", dont_inherit=True)
        if not block[1]:
            exec(code, names)
    return names


@pytest.mark.filterwarnings("ignore::offramp.NewWeightsWarning")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")], ids=name_of
)
def test_the_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        try:
            run_page(page)
        except offramp.HubError as error:  # the demo's weights are not installed
            pytest.skip(str(error))


def test_the_pages_that_tell_a_story_have_examples() -> None:
    stories = (
        "index", "tasks", "your-own-model", "training", "criteria", "from-transformers",
        "from-paddlenlp",
    )  # fmt: skip
    for name in stories:
        text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
        assert any(not block[1] for block in BLOCK.finditer(text)), name


# Links

LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in LINK.findall(text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        place = (page.parent / file).resolve() if file else page
        assert place.is_file(), f"{name_of(page)} links to {target}"
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place), f"{name_of(page)} links to {target}"


def anchors(page: Path) -> set[str]:
    """The headings of a page, as their links are written."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_has_a_place_in_the_contents() -> None:
    contents = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        assert f" {page.relative_to(DOCS).as_posix()}\n" in contents, name_of(page)
