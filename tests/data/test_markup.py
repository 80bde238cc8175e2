"""Tests the removal of entities, tags, wiki markup and Markdown."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulletlm.data.markup import decode_entities, markup_of, remove_markup, shorten_rulers


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Engg &amp; Medical", "Engg & Medical"),
        ("a&nbsp;b &#2350;&#x0930; &lt;b&gt;", "a\u00a0b मर <b>"),
        ("T&amp;amp;C", "T&C"),
        ("R&D, a & b; AT&T &unknown;", "R&D, a & b; AT&T &unknown;"),
    ],
)
def test_entities(before: str, after: str) -> None:
    assert decode_entities(before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('<p class="x">हा <b>ठळक</b> मजकूर</p>', " हा ठळक मजकूर "),
        ("एक<br/>दोन", "एक दोन"),
        ("<script>var a = 1 < 2;</script>मजकूर<!-- टीप -->", "मजकूर"),
        ("a < b and c > d <tool> <- </end>", "a < b and c > d <tool> <- </end>"),
        ("== बाह्य दुवे ==", "बाह्य दुवे"),
        ("[[पुणे|पुण्यात]] [[मुंबई]] {{साचा|१}} '''ठळक''' ''तिरके''", 'पुण्यात मुंबई  ठळक "तिरके"'),
        ("[[File:a.jpg|thumb]] [https://a.in दुवा]", " दुवा"),
        ("## शीर्षक", "शीर्षक"),
        ("हे [येथे](https://a.in/b) **पहा** ![चित्र](/c.png) __नाव:__", "हे येथे पहा चित्र नाव:"),
        ("आहे.[[2,3]](../..)", "आहे."),
        ("```python", ""),
        ("x = a[i](j) ** 2 and a == b", "x = a[i](j) ** 2 and a == b"),
        ("snake__case__name and 'quoted' and don''t", "snake__case__name and 'quoted' and don''t"),
    ],
)
def test_markup(before: str, after: str) -> None:
    assert remove_markup(before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("------ | शीर्षक | ------", "  | शीर्षक |  "),
        ("थांबा......", "थांबा..."),
        ("अरे!!!!!! काय??????", "अरे!!! काय???"),
        ("--- ... !!! a--b", "--- ... !!! a--b"),
    ],
)
def test_rulers(before: str, after: str) -> None:
    assert shorten_rulers(before) == after


@settings(max_examples=300, deadline=None)
@given(st.text("<>/bpr[]{}()'=#*_` |htps:.aक&;amp!-", max_size=40))
def test_doing_it_again_changes_nothing(text: str) -> None:
    for apply in (remove_markup, shorten_rulers):
        once = apply(text)
        assert apply(once) == once


@pytest.mark.parametrize(
    "part", ["<!--", "<ref>", "<ref ", "<script>", "{{", "[[a|", "'''a", "[http://a", "[a](", "**a", "__a ", "# ", "<b ", "{{a}}", "== a "]
)
def test_a_line_that_is_made_to_take_long(part: str) -> None:
    """Each of these took the square of its length, which is hours for a line of megabytes."""
    line = part * (300_000 // len(part))
    assert isinstance(remove_markup(line), str)
    assert markup_of([line[:30_000]]) <= {"html", "wiki", "markdown"}


def test_what_is_hidden_is_removed_and_what_does_not_end_stays() -> None:
    text = 'a<!-- x --> b<ref name="n"/> c<ref>y</ref> d<script>if (a < b) z()</script> e<ref>f <!-- g'
    assert remove_markup(text, frozenset({"html"})).replace("<ref>", "") == "a b c d e" + "f <!-- g"
