"""Names to methods: what is unknown, claimed twice or broken is said clearly and harms nothing else."""

from __future__ import annotations

import pytest
from helpers_plugins import PluginFolder

from recbench.contracts.errors import ConfigError
from recbench.methods.listing import list_methods
from recbench.methods.load import build_method, load_method_class
from recbench.methods.popularity import Popularity

GOOD = """
from recbench.methods.popularity import Popularity

class Mine(Popularity):
    "A plugin's method."
"""


def problem_of(name: str) -> list[str | None]:
    return [record["problem"] for record in list_methods()["methods"] if record["name"] == name]


def test_a_plugin_is_found_by_name(plugins: PluginFolder) -> None:
    plugins.add("good-plugin", {"mine": "good_plugin:Mine"}, {"good_plugin.py": GOOD})
    assert issubclass(load_method_class("mine"), Popularity)
    assert problem_of("mine") == [None]


def test_unknown_name_names_the_closest() -> None:
    with pytest.raises(ConfigError, match=r"Unknown method 'popularty'\. Did you mean 'popularity'\?") as caught:
        load_method_class("popularty")
    assert "recbench methods list" in str(caught.value)


def test_clash_names_both_packages_and_leaves_others_alone(plugins: PluginFolder) -> None:
    plugins.add("one", {"twice": "one:Mine"}, {"one.py": GOOD})
    plugins.add("two", {"twice": "two:Mine"}, {"two.py": GOOD})
    with pytest.raises(ConfigError, match="claimed by 2 packages") as caught:
        load_method_class("twice")
    assert "one 1.0" in str(caught.value)
    assert "two 1.0" in str(caught.value)
    assert all(problem and "claimed by 2 packages" in problem for problem in problem_of("twice"))
    assert load_method_class("popularity") is Popularity


def test_clash_with_a_built_in_name_is_a_clash_too(plugins: PluginFolder) -> None:
    plugins.add("thief", {"popularity": "thief:Mine"}, {"thief.py": GOOD})
    with pytest.raises(ConfigError, match="claimed by 2 packages"):
        load_method_class("popularity")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import a_package_that_is_not_there\n" + GOOD, "ModuleNotFoundError"),
        ("raise RuntimeError('at import')", "at import"),
        ("def broken(:\n", "SyntaxError"),
        ("Mine = 3", "is not a subclass"),
        ("class Mine: pass", "is not a subclass"),
        (
            "from recbench.contracts.method import Method\nclass Mine(Method): pass",
            "does not define fit, load, rank, save",
        ),
        (GOOD + "\nMine.config_class = dict", "config_class that is not a subclass of MethodConfig"),
        (GOOD + "\nMine.capabilities = {}", "capabilities that are not an instance of Capabilities"),
    ],
)
def test_broken_plugin(plugins: PluginFolder, source: str, message: str, request: pytest.FixtureRequest) -> None:
    # One module name per case: Python keeps modules that were imported.
    module = f"bad_{abs(hash(request.node.name))}"
    plugins.add("bad", {"bad": f"{module}:Mine"}, {f"{module}.py": source})
    with pytest.raises(ConfigError, match=message) as caught:
        load_method_class("bad")
    assert "bad 1.0" in str(caught.value)
    assert load_method_class("popularity") is Popularity


@pytest.mark.parametrize(
    ("target", "source", "message"),
    [
        ("nowhere:Mine", "", "there is no module 'nowhere'"),
        ("nowhere.inner:Mine", "", "there is no module 'nowhere.inner'"),
        ("listed:Other", GOOD, "has no 'Other'"),
        ("listed:Mine", "def broken(:\n", "cannot be read"),
        ("listed:Mine", "try:\n    from other import Mine\nexcept ImportError:\n    Mine = None", None),
        ("listed:Mine", GOOD + "raise RuntimeError", None),
    ],
)
def test_listing_sees_what_the_source_shows(plugins: PluginFolder, target: str, source: str, message: str) -> None:
    plugins.add("p", {"p": target}, {"listed.py": source})
    (problem,) = problem_of("p")
    assert (problem is None) if message is None else (problem is not None and message in problem)


def test_every_built_in_method_is_there() -> None:
    problems = {record["name"]: record["problem"] for record in list_methods()["methods"]}
    expected = {"random", "popularity", "caser", "gru4rec", "sasrec", "bigrec", "latentr3"}
    assert expected <= set(problems)
    assert [record["name"] for record in list_methods()["families"]] == ["recbole:<name>"]
    assert all(problem is None for problem in problems.values())


def test_build_method_refuses_unknown_keys() -> None:
    with pytest.raises(ConfigError, match=r"cuont: unknown key\. Did you mean 'count'\?"):
        build_method("popularity", {"cuont": "events"})
    with pytest.raises(ConfigError, match="count: got 'everything'"):
        build_method("popularity", {"count": "everything"})


def test_family_needs_a_name() -> None:
    with pytest.raises(ConfigError, match="needs a name after the colon"):
        load_method_class("recbole:")
    with pytest.raises(ConfigError, match="Unknown method 'rekbole:NARM'"):
        load_method_class("rekbole:NARM")
