from __future__ import annotations

import dataclasses
import re

from vlmheads_demo.views.sharing import link_view, page_link
from vlmheads_demo.views.standalone import standalone_page


def test_a_saved_page_needs_nothing_and_asks_nobody(result):
    page = standalone_page(result)
    assert result.key not in page
    assert not re.findall(r'(?:src|href)="(?!data:)[^"#]', page)
    assert "url(http" not in page
    objects = sum(w.object is not None for one in result.captions for w in one.measured.words)
    assert page.count('<div class="vh-page-detail" data-set="') == objects
    assert page.count('class="vh-page-detail"') - page.count('" hidden><div>') == 1
    assert "vh-cursor" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S)


def test_what_a_model_says_is_escaped_on_a_saved_page(result):
    evil = dataclasses.replace(result, prompt="<script>alert(1)</script>", model="<b>m</b>")
    page = standalone_page(evil)
    assert "<script>alert" not in page
    assert "<b>m</b>" not in page


def test_a_link_is_relative_so_that_a_proxy_may_serve_it(result):
    assert f'data-link="?result={result.key}"' in link_view(result)
    assert 'download="vlmheads.html"' in page_link(result, "<p>x</p>")
