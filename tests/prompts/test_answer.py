"""Which option an answer means; where it could be two, nothing is guessed."""

from __future__ import annotations

import pytest

from avflow.errors import InputError
from avflow.prompts.answer import check_order, option_index, without_letters

SPECIES = ["E. coli", "B. subtilis", "D. melanogaster", "C. elegans"]


@pytest.mark.parametrize(
    "options, answer, number",
    [
        (SPECIES, "C. elegans", 3),
        (SPECIES, "C. Elegans", 3),
        (SPECIES, "e. coli.", 0),
        (SPECIES, "B", 1),  # subtilis stands second and carries a B: both say the same
        (["red", "green"], "b) Green.", 1),
        (["red", "green"], "GREEN", 1),
        (["b", "a"], "A", 0),  # a capital letter is a letter; neither option is "A"
        (["C. Smith", "C. Jones", "D. Brown"], "C", 2),  # two of one letter: initials
        (["B. red", "A. blue"], "A. blue", 1),
        (["A.D.", "B.C."], "B.C.", 1),
    ],
)
def test_the_option_is_found(options, answer, number):
    assert option_index(answer, options) == number


@pytest.mark.parametrize(
    "options, answer, says",
    [
        (["B. red", "A. blue"], "A", "may be 'B. red', which is number 1, or 'A. blue', which carries that letter"),
        (["b) red", "a) blue"], "(B)", "write the option's text as the answer"),
        (["B. red", "C. blue"], "B", "may be 'C. blue'"),
        (SPECIES, "C", "may be 'D. melanogaster', .* or 'C. elegans'"),
        (SPECIES, "C. botulinum", "neither a letter A to D nor one of"),
        (["red", "green"], "A. blue", "neither a letter A to B nor one of"),
        (["red", "green"], "A. Green", r"fits the options \['A', 'B'\]"),
        (["Polish", "polish"], "POLISH", r"fits the options \['A', 'B'\]"),
    ],
)
def test_what_may_be_read_in_two_ways_is_refused(options, answer, says):
    with pytest.raises(InputError, match=says):
        option_index(answer, options)


@pytest.mark.parametrize(
    "options, texts",
    [
        (["A. red", "(B) green", "C: blue"], ["red", "green", "blue"]),
        (["A.red", "b.green"], ["red", "green"]),
        (["A.A man", "B.A woman"], ["A man", "A woman"]),
        (["A.D.", "B.C."], ["A.D.", "B.C."]),
        (["A.D", "B.C"], ["A.D", "B.C"]),
        (["A.M. or later", "B.M."], ["A.M. or later", "B.M."]),
        (["(A) D.", "(B) C."], ["D.", "C."]),
        (["B. red", "A. blue"], ["B. red", "A. blue"]),
    ],
)
def test_letters_are_taken_off_and_initials_are_not(options, texts):
    assert without_letters(options) == texts


def test_letters_in_another_order_are_seen():
    check_order(["A. the first image", "B. the second image"])
    check_order(["the first image", "the second image"])
    with pytest.raises(InputError, match="carry the letters B, A: put them in order"):
        check_order(["B. the first image", "A. the second image"])
