"""Policies: read from texts and files, written for the model, refused with a reason."""

from pathlib import Path

import pytest

from guardhouse.errors import PolicyError
from guardhouse.guard.policy import Category, Policy, holds_category_list

LISTED = "O1: Pies. \nShould not\n- Steal pies.\nO2: Cakes.\nCan\n- Bake cakes."


def test_a_list_is_read_into_codes_names_and_descriptions() -> None:
    policy = Policy.parse(LISTED)
    assert policy.categories == (
        Category("O1", "Pies", "Should not\n- Steal pies."),
        Category("O2", "Cakes", "Can\n- Bake cakes."),
    )
    assert policy.text == LISTED


def test_markers_bound_the_list_and_what_stands_around_them_is_dropped() -> None:
    marked = f"Be strict.\n<BEGIN UNSAFE CONTENT CATEGORIES>\n{LISTED}\n<END UNSAFE CONTENT CATEGORIES>\nO9: not this."
    assert Policy.parse(marked).text == LISTED


def test_without_markers_the_list_begins_at_its_first_line() -> None:
    assert Policy.parse(f"You enforce this:\n{LISTED}").text == LISTED


@pytest.mark.parametrize("text", [LISTED, "S1: x", "Rules\n  01: x", "S14: x"])
def test_lists_are_recognised(text: str) -> None:
    assert holds_category_list(text)


@pytest.mark.parametrize("text", ["", "12: lunch", "Q3: revenue rose", "Say O1: twice", "See O1", "No. 1: be kind"])
def test_other_texts_are_no_lists(text: str) -> None:
    assert not holds_category_list(text)


def test_categories_are_written_as_the_model_reads_them() -> None:
    policy = Policy("shop", (Category("O1", "Pies", "Should not\n- Steal pies."), Category("O2", "Cakes")))
    assert policy.text == "O1: Pies.\nShould not\n- Steal pies.\nO2: Cakes."
    assert Policy.parse(policy.text, "shop") == policy


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("no list here", "holds no line"),
        ("O1: a\nO1: b", "O1 is used twice"),
        ("O1: a\n<END CONVERSATION>", "marker <END CONVERSATION>"),
    ],
)
def test_a_bad_list_is_refused_by_name(text: str, fault: str) -> None:
    with pytest.raises(PolicyError, match=fault):
        Policy.parse(text)


def test_a_code_is_short_and_plain() -> None:
    with pytest.raises(PolicyError, match="category code"):
        Category("O 1\n", "x")


def test_a_toml_file_is_a_policy(tmp_path: Path) -> None:
    file = tmp_path / "shop.toml"
    file.write_text(
        'name = "bakery"\n[[categories]]\ncode = "O1"\nname = "Pies"\ndescription = "Should not\\n- Steal."\n'
    )
    assert Policy.load(file) == Policy("bakery", (Category("O1", "Pies", "Should not\n- Steal."),))


def test_a_text_file_is_a_policy_named_after_it(tmp_path: Path) -> None:
    file = tmp_path / "bakery.txt"
    file.write_text(LISTED)
    assert Policy.load(file) == Policy.parse(LISTED, "bakery")


@pytest.mark.parametrize(
    ("toml", "fault"),
    [
        ("name = 1\ncategories = []", "name that is text"),
        ("[[categories]]\ncode = 'O1'", "a code and a name"),
        ("[[categories]]\ncode = 'O1'\nname = 'x'\ncolour = 'red'", "unknown key in a category: colour"),
        ("colour = 'red'", "unknown key: colour"),
        ("categories = []", "at least one category"),
        ("categories = [1]", "must be tables"),
        ("[[", "policy.toml"),
    ],
)
def test_a_bad_file_is_refused_by_name_and_fault(tmp_path: Path, toml: str, fault: str) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(toml)
    with pytest.raises(PolicyError, match=fault) as refusal:
        Policy.load(file)
    assert "policy.toml" in str(refusal.value)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"absent\.toml"):
        Policy.load(tmp_path / "absent.toml")
