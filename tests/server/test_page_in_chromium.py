"""The page as a person uses it, in headless Chromium: no fault in the console, and nothing from elsewhere."""

import pytest

from tests.support.chromium import Chromium, needs_chromium

DONE = "[...document.querySelectorAll('#{} .actions button')].some(b => b.textContent === 'Another seed')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def page(browser, demo):
    """The page of the demo, its console without a fault and its requests to the server alone at the end."""
    with browser.page(demo.url + "/") as opened:
        opened.until("document.getElementById('model').textContent === 'demo'")
        yield opened
        assert not opened.faults
        assert not [url for url in opened.asked if not url.startswith((demo.url, "blob:"))]


def canvas(part="chat"):
    return f"document.querySelector('#{part} .canvas')"


def done(page, part="chat"):
    page.until(DONE.format(part))
    page.until(f"!document.querySelector('#{part} .canvas.live')")


def ask(page, text="Tell me a story.", seed=3):
    page.do(f"document.getElementById('set-seed').value = '{seed}'")
    page.click("#prompt")
    page.type(text)
    page.key("Enter")


def scrub(page, at, part="chat"):
    page.do(
        f"(s => {{ s.value = {at}; s.dispatchEvent(new Event('input')); }})"
        f"([...document.querySelectorAll('#{part} input[type=range]')].at(-1))"
    )
    return page.until(f"[...document.querySelectorAll('#{part} .step')].at(-1).textContent")


@needs_chromium
def test_noise_becomes_an_answer_and_another_from_its_fourth_step(page):
    ask(page)
    page.until("document.querySelector('.canvas .noise')")
    done(page)
    said = page.do("document.querySelector('[aria-live=polite]').textContent")
    assert said == page.do(f"{canvas()}.textContent")
    assert "seed 3" in page.do("document.querySelector('.facts').textContent")
    assert scrub(page, 4) == "block 1 · step 4/48"
    page.until("document.querySelector('.canvas .noise')")
    assert page.do("document.querySelector('[aria-live=polite]').textContent") == said
    page.press("Go on from this step")
    page.until("document.querySelector('.pager').textContent.includes('2 of 2')")
    done(page)
    assert page.do(f"{canvas()}.textContent") != said
    assert "from 1:4" in page.do("document.querySelector('.facts').textContent")


@needs_chromium
@pytest.mark.slow(7)
def test_a_text_is_filled_questions_are_decided_and_a_schema_and_a_board_are_held(page):
    page.press("Fill")
    page.press("Fill", "document.getElementById('fill')")
    done(page, "fill")
    page.until("document.querySelectorAll('.hole.found').length === 2")
    page.do("document.querySelector('.hole.found').click()")
    assert "[[1]]" in page.do("document.getElementById('fill-text').value")
    assert page.do("document.querySelectorAll('.hole').length") == 1
    page.press("Decide")
    page.press("Decide", "document.getElementById('decide')")
    page.until("document.querySelectorAll('.chance').length === 8")
    page.press("Schema")
    page.press("Answer")
    done(page, "schema")
    assert page.until("document.querySelector('.values').textContent").startswith("name")
    page.press("Sudoku")
    chosen = "s.value = 4; s.dispatchEvent(new Event('change'));"
    page.do(f"(s => {{ {chosen} }})(document.getElementById('sudoku-size'))")
    page.press("Solve")
    done(page, "sudoku")
    page.until("document.getElementById('sudoku-note').textContent.startsWith('solved')")
    given = page.do("document.querySelectorAll('#sudoku .canvas .given').length")
    assert given == page.do(
        "[...document.querySelectorAll('#sudoku-givens input')].filter(i => i.value).length"
    )
