"""The page as a person uses it, in headless Chromium: no fault in the console, and nothing from elsewhere."""

import contextlib
import json
import shutil
import subprocess
import tarfile
import urllib.request

import pytest

from dgguf.diffusion.events import DenoisingStep
from dgguf.view.progress import LEVELS, Progress
from dgguf.view.recording import read_recording
from tests.server.conftest import STORY, serving
from tests.support.chromium import Chromium, needs_chromium
from tests.support.hostile_texts import HOSTILE
from tests.support.recordings import made_up
from tests.view.test_export import record

DONE = "[...document.querySelectorAll('#{} .actions button')].some(b => b.textContent === 'Another seed')"

BUTTONS = "[...document.querySelectorAll('#chat .actions button')]"
RECORDINGS = "Object.keys(sessionStorage).filter(name => name.startsWith('dgguf-recording-')).length"


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


@needs_chromium
@pytest.mark.slow(4)
def test_words_are_freed_and_holes_made_wider(page):
    text = "document.getElementById('fill-text').value"
    page.press("Fill")
    page.do("document.getElementById('fill-text').value = 'A blue fox slept.'")
    page.do("document.getElementById('fill-text').dispatchEvent(new Event('input'))")
    page.do("document.querySelectorAll('.word')[1].click()")
    assert page.until(text) == "A [[1]] fox slept."
    page.key("ArrowRight")
    assert page.do(text) == "A [[2]] fox slept."
    box = page.do("document.querySelector('.edge').getBoundingClientRect().toJSON()")
    x, y = box["x"] + 3, box["y"] + 8
    for kind, right in (("mousePressed", 0), ("mouseMoved", 30), ("mouseReleased", 30)):
        mouse = {"button": "left", "buttons": 1, "clickCount": 1}
        page.call("Input.dispatchMouseEvent", type=kind, x=x + right, y=y, **mouse)
    assert page.until(f"{text} === 'A [[4]] fox slept.'")
    page.do("document.querySelector('.hole').click()")
    assert page.do(text) == "A blue fox slept."


@needs_chromium
@pytest.mark.slow(6)
def test_a_link_repeats_an_answer_and_sends_nothing_by_itself(page, browser, demo):
    ask(page, "Write a story about Mia and a blue fox.", seed=11)
    done(page)
    said = page.do(f"{canvas()}.textContent")
    page.press("Link")
    address = page.until("location.hash && location.href")
    with browser.page(address) as other:
        other.until("document.getElementById('model').textContent === 'demo'")
        assert (
            other.do("document.getElementById('prompt').value") == "Write a story about Mia and a blue fox."
        )
        assert f"{demo.url}/page/answer" not in other.asked
        other.do("document.getElementById('send').click()")
        done(other)
        assert other.do(f"{canvas()}.textContent") == said


@needs_chromium
@pytest.mark.slow(4)
def test_a_link_repeats_a_chat_with_a_stopped_answer(page, browser):
    """Also where another link was read before, and the same one twice."""
    watch = """window.sent = []; window.real = window.fetch; window.fetch = (path, options) => {
      if (!String(path).includes('page/answer')) return real(path, options);
      sent.push(JSON.parse(options.body));
      if (sent.length === STOPPED) return Promise.reject(new DOMException('', 'AbortError'));
      return real(path, options);
    }; undefined"""
    page.do(watch.replace("STOPPED", "1"))
    ask(page, "One?")
    page.until("document.querySelector('.note')?.textContent === 'stopped'")
    for number, text in enumerate(("Two?", "Three?"), 1):
        ask(page, text)
        page.until(f"{BUTTONS}.filter(b => b.textContent === 'Link').length === {number}")
    page.press("Link")
    address = page.until("location.hash && location.href")
    wanted = page.do("sent[2]")
    assert [one["role"] for one in wanted["messages"]] == ["user", "user", "assistant", "user"]
    with browser.page(address) as other:
        other.until("document.getElementById('model').textContent === 'demo'")
        other.do(watch.replace("STOPPED", "0"))
        for link in ("#mode=chat&prompt=Other", address[address.index("#") :]):
            other.do(f"location.hash = {json.dumps(link)}")
            prompt = "Other" if "Other" in link else "Three?"
            other.until(f"document.getElementById('prompt').value === '{prompt}'")
        other.do("document.getElementById('send').click()")
        other.until("sent.length")
        assert other.do("sent[0]") == wanted


def reload(page):
    page.do("window.before = true; location.reload()")
    page.until("!window.before && document.getElementById('model')?.textContent === 'demo'")


@needs_chromium
@pytest.mark.slow(8)
def test_a_conversation_is_there_when_the_page_is_loaded_anew(page):
    """Its answers can be scrubbed, gone on from and repeated; a new chat leaves nothing."""
    page.do("document.getElementById('system').value = 'Be brief.'")
    ask(page)
    done(page)
    ask(page, "Another one?", seed=4)
    page.until(f"{BUTTONS}.filter(b => b.textContent === 'Link').length === 2")
    page.until(f"{RECORDINGS} === 2")
    shown = "[...document.querySelectorAll('.asked, .canvas, .facts')].map(each => each.textContent)"
    before = page.do(shown)
    page.press("Link")  # whose address must not be taken for a question to come
    reload(page)
    page.until("document.querySelectorAll('.facts').length === 2")
    assert page.do(shown) == before
    assert page.do("document.getElementById('prompt').value") == ""
    assert page.do("document.getElementById('system').value") == "Be brief."
    assert page.do("document.getElementById('set-seed').value") == "4"
    assert page.do("document.querySelector('[aria-live=polite]').textContent") in before[1]
    assert page.do("JSON.stringify(localStorage)") == "{}"
    scrub(page, 1)
    page.until("[...document.querySelectorAll('.step')].at(-1).textContent === 'block 1 · step 1/48'")
    page.press("Go on from this step", "[...document.querySelectorAll('.exchange')].at(-1)")
    page.until("document.querySelector('.pager:not(:empty)')?.textContent.includes('2 of 2')")
    page.until(f"{RECORDINGS} === 3")
    page.press("New chat")
    page.until("!Object.keys(sessionStorage).length")
    assert page.do("document.querySelectorAll('.exchange').length") == 0
    reload(page)
    page.until("!document.getElementById('empty').hidden")
    assert page.do("document.querySelectorAll('.exchange').length + location.hash") == "0"


@needs_chromium
@pytest.mark.slow(6)
def test_what_is_kept_of_a_conversation_has_bounds(page):
    """The last recordings, the last texts; what comes back is shown as text, and a cut one does no harm."""
    page.do("""(async () => {
      const {keep, kept} = await import('/page/kept.js');
      const bytes = n => new Blob([crypto.getRandomValues(new Uint8Array(n))]);
      const exchange = (id, text = '<img src=x onerror=pwned=1>', size = 60000) => ({text, current: 0,
        lost: ['<b>a.png'], versions: [{id, text: 'answer', blocks: [], packed: bytes(size)}]});
      const others = [...'cdefghijklmnopqrstuvwxyzABCDEFG'].map(id => exchange(id));
      keep('think=1', [exchange('a', 'x'.repeat(3 << 20), 9), exchange('b', 'older'), ...others]);
      await new Promise(done => setTimeout(done, 1000));
      window.found = kept();
    })()""")
    page.until("window.found?.exchanges.length")
    assert page.do("found.isCut") is True
    assert page.do("found.exchanges.length") == 32
    recordings = page.do("found.exchanges.map(each => each.versions[0].packed?.size ?? 0)")
    assert recordings == sorted(recordings)
    assert 10 < recordings.count(60000) < 32
    assert page.do("Object.entries(sessionStorage).flat().join('').length") < 2.15e6
    reload(page)
    page.until("document.querySelectorAll('.exchange').length === 32")
    assert page.do("document.querySelectorAll('main img').length") == 0
    assert page.do("document.querySelector('#exchanges').firstChild.textContent").startswith("What was said")
    assert "<b>a.png (the image is not kept)" in page.do("document.querySelector('.asked').textContent")
    assert page.do("window.pwned === undefined")
    page.do("sessionStorage.setItem('dgguf-chat', '{')")
    reload(page)
    ask(page)
    done(page)


@needs_chromium
@pytest.mark.slow(4)
def test_an_answer_that_was_not_there_yet_is_asked_for_again(page):
    page.do("window.fetch = () => new Promise(() => {}); undefined")
    ask(page)
    page.until("document.querySelector('.exchange')")
    page.until("sessionStorage.getItem('dgguf-chat')")
    reload(page)
    page.until("document.querySelector('.note').textContent.includes('before this answer was there')")
    page.press("Try again")
    done(page)
    assert page.do("document.querySelector('.asked').textContent") == "Tell me a story."


def watch(page, then="real(path, options)"):
    """Keep what is asked for as `sent`; `then` says what comes of it, `real` being the true fetch."""
    page.do(f"""window.sent = []; window.real = window.fetch; window.fetch = (path, options) => {{
      if (!String(path).includes('page/answer')) return real(path, options);
      sent.push(JSON.parse(options.body));
      return {then};
    }}; undefined""")


AGAIN = f"{BUTTONS}.filter(b => b.textContent === 'Another seed' || b.textContent === 'Try again').length"
FAILS = """Promise.resolve(new Response('{"error": {"message": "no luck"}}', {status: 400}))"""


@needs_chromium
@pytest.mark.slow(8)
def test_a_link_wins_over_the_chat_that_was_kept(page, demo):
    """Its settings stay, its chat begins anew, and it is still there where it was not sent."""
    set_to = "['seed', 'max_steps'].map(name => document.getElementById('set-' + name).value)"
    prompt = "document.getElementById('prompt').value"
    watch(page, FAILS)
    ask(page)
    page.until(f"{AGAIN} === 1 && sessionStorage.getItem('dgguf-chat')")
    link = "#mode=decide&seed=9&max_steps=3&turbo=1"
    for anew in (lambda: page.go(f"{demo.url}/?{link}"), lambda: reload(page)):
        anew()
        page.until("document.querySelectorAll('.exchange').length === 1")
        assert page.do(set_to) == ["9", "3"]
        assert page.do("document.getElementById('turbo').checked")
        assert not page.do("document.getElementById('decide').hidden")
    link = "#mode=chat&prompt=Now%3F&seed=9&before=" + json.dumps([["Before?", "Yes."]]).replace(" ", "")
    for anew in (lambda: page.do(f"location.hash = {json.dumps(link)}"), lambda: reload(page)):
        anew()
        page.until(f"{prompt} === 'Now?'")
        page.until("document.querySelectorAll('.exchange').length === 1")
        assert "begins a new chat" in page.do("document.getElementById('composer-note').textContent")
        assert page.do(set_to) == ["9", ""]
    watch(page, FAILS)
    page.do("document.getElementById('send').click()")
    page.until(f"{AGAIN} === 1")
    assert page.do("sent[0].seed") == 9
    assert page.do("sent[0].messages.map(each => each.content)") == ["Before?", "Yes.", "Now?"]
    page.until("sessionStorage.getItem('dgguf-chat').includes('Now?')")
    reload(page)
    page.until("document.querySelectorAll('.exchange').length === 2")
    assert page.do(prompt) == ""


@needs_chromium
@pytest.mark.slow(8)
def test_the_chosen_answer_and_why_others_ended_are_kept(page):
    first = "document.querySelector('.exchange')"
    watch(page, f"sent.length === 1 ? {FAILS} : real(path, options)")
    ask(page)
    for number, name in ((1, "Try again"), (2, "Another seed")):
        page.until(f"{AGAIN} === 1")
        page.press(name)
        page.until(f"document.querySelector('.pager').textContent.includes('of {number + 1}')")
        done(page)
    page.press("‹")
    chosen = page.do(f"{canvas()}.textContent")
    page.until(f"{RECORDINGS} === 2")
    page.until("JSON.parse(sessionStorage.getItem('dgguf-chat')).exchanges[0].current === 1")
    reload(page)
    page.until(f"{first}?.querySelector('.pager')?.textContent.includes('2 of 3')")
    assert page.do(f"{canvas()}.textContent") == chosen
    watch(page, FAILS)
    ask(page, "And then?")
    page.until("sent.length")
    assert page.do("sent[0].messages[1].content") == chosen
    page.press("‹", first)
    assert page.do(f"{first}.querySelector('.note').textContent") == "no luck"


@needs_chromium
@pytest.mark.slow(5)
def test_an_answer_that_was_stopped_is_kept_with_its_steps(page):
    page.do("document.getElementById('set-confidence_threshold').value = 1e-6")
    page.do("document.getElementById('set-max_steps').value = 900")
    ask(page)
    page.until("+document.querySelector('#chat input[type=range]')?.max >= 3")
    page.key("Escape")
    page.until(f"{RECORDINGS} === 1 && sessionStorage.getItem('dgguf-chat').includes('stopped')")
    assert page.do("JSON.parse(sessionStorage.getItem('dgguf-chat')).exchanges[0].versions[0].text") == ""
    reload(page)
    page.until("document.querySelector('.note')?.textContent === 'stopped'")
    scrub(page, 1)
    page.until("document.querySelector('.step').textContent.startsWith('block 1 · step 1/900')")


@needs_chromium
@pytest.mark.slow(5)
def test_nothing_is_asked_again_without_the_images_that_are_gone(page):
    """It is said, also of what comes later."""
    page.do("""sessionStorage.setItem('dgguf-chat', JSON.stringify({settings: '', isCut: false, exchanges: [
      {text: 'What is it?', lost: ['a.png'], current: 0, versions: []}]})); undefined""")
    reload(page)
    page.until(f"{AGAIN} === 1")
    watch(page, FAILS)
    page.press("Try again")
    page.until("document.querySelector('.note').textContent.startsWith('Images are not kept')")
    assert page.do("sent.length") == 0
    ask(page, "Really?")
    page.until("sent.length")
    assert "the texts alone" in page.do("document.getElementById('composer-note').textContent")


@needs_chromium
def test_a_new_chat_forgets_the_views_of_the_chat_alone(page):
    closed = page.do("""(async () => {
      const {AnswerView, letGo} = await import('/page/answer-view.js');
      const empty = new Blob(['']).stream().pipeThrough(new CompressionStream('gzip'));
      const packed = await new Response(empty).blob();
      const add = async () => {
        const view = new AnswerView({levels: [], name: () => 'x'});
        await view.restore(packed, []);
        return view;
      };
      const fill = await add(), chat = await add();
      letGo([chat]);
      for (let i = 0; i < 6; i++) await add();
      return [fill.closed, chat.closed];
    })()""")
    assert closed == [True, False]


@needs_chromium
@pytest.mark.slow(4)
def test_keys_of_a_schema_are_underlined_in_the_canvas(page):
    """From the first step on, as the canvas always matches the schema."""
    page.press("Schema")
    page.press("Answer")
    done(page, "schema")
    pinned = "[...document.querySelectorAll('#schema .canvas .pinned')].map(e => e.textContent).join('')"
    keys = '"name""color""age""happy"'
    assert page.do(pinned) == keys
    assert page.do(f"{canvas('schema')}.textContent").count("name") == 1
    steps = page.do("+document.querySelector('#schema input[type=range]').max")
    for step in (1, steps // 2):
        scrub(page, step, "schema")
        assert page.do(pinned) == keys


@needs_chromium
def test_spans_are_cut_where_a_key_begins_and_ends(page):
    cut = page.do("""import('/page/schema.js').then(({withPinned}) => withPinned(
      [['{"na', 'sure', 0, 0], ['me":', 'likely', 1, 1], ['', 'text', 2, 0], [' "name"', 'text', null, 0]],
      /"name"(?=:)/gu))""")
    assert cut == [
        ["{", "sure", 0, 0],
        ['"na', "sure", 0, 2],
        ['me"', "likely", 1, 3],
        [":", "likely", 1, 1],
        ["", "text", 2, 0],
        [' "name"', "text", None, 0],
    ]


@needs_chromium
@pytest.mark.slow(8)
def test_a_key_is_asked_for_and_kept_for_the_tab(browser):
    with serving("demo", "--api-key", "right") as served, browser.page(served.url + "/") as opened:
        for key in ("wrong", "right"):
            opened.until("document.getElementById('key-dialog').open")
            opened.do(f"document.getElementById('key').value = '{key}'")
            opened.do("document.querySelector('#key-form .primary').click()")
            opened.until(
                "document.title.startsWith('demo') || !document.getElementById('key').value"
                " && document.getElementById('key-note').textContent.startsWith('That was not the key')"
            )
        opened.until("document.getElementById('model').textContent === 'demo'")
        assert opened.do("JSON.stringify(localStorage)") == "{}"
        assert opened.do("sessionStorage.getItem('dgguf-key')") == "right"
        ask(opened)
        done(opened)
        opened.press("New chat")
        opened.until("document.querySelectorAll('.exchange').length === 0")
        assert opened.do("JSON.stringify(sessionStorage)") == '{"dgguf-key":"right"}'


@needs_chromium
@pytest.mark.slow(12)
def test_it_waits_for_a_server_that_starts_again(browser):
    with serving("demo") as served, browser.page(served.url + "/") as opened:
        opened.until("document.getElementById('model').textContent === 'demo'")
        opened.look((390, 500))
        ask(opened)
        done(opened)
        served.process.terminate()
        served.process.wait(60)
        ask(opened, "Tell me a story.", seed=4)
        opened.until("!document.getElementById('banner').hidden")
        opened.until("[...document.querySelectorAll('.note')].at(-1).textContent.includes('does not answer')")
        seen = """(() => { const place = element => element.getBoundingClientRect();
          const note = [...document.querySelectorAll('.note')].at(-1);
          return [place(document.getElementById('banner')).top >= 0,
            place(note).bottom <= place(document.getElementById('composer')).top]; })()"""
        assert opened.do(seen) == [True, True], "it is told in sight, also of who has scrolled"
        with serving("demo", "--port", str(served.port)):
            opened.until("document.getElementById('banner').hidden")
            opened.press("Try again")
            opened.until("document.querySelectorAll('.facts')[1]?.textContent.includes('tokens/s')")


@needs_chromium
@pytest.mark.slow(20)
def test_an_image_is_dropped(page, browser, tiny):
    drop = """(async () => {
      const canvas = document.createElement('canvas');
      canvas.width = 60; canvas.height = 40;
      canvas.getContext('2d').fillRect(5, 5, 20, 20);
      const data = await new Promise(give => canvas.toBlob(give));
      const file = new File([data], 'a<b>.png', {type: 'image/png'});
      const dropped = new DataTransfer();
      dropped.items.add(file);
      const event = new DragEvent('drop', {dataTransfer: dropped, bubbles: true});
      document.getElementById('chat').dispatchEvent(event);
    })()"""
    with browser.page(tiny.url + "/") as blind:
        blind.until("document.getElementById('model').textContent === 'tiny'")
        blind.do(drop)
        blind.until(
            "document.getElementById('composer-note').textContent.includes('this model reads no images')"
        )
    page.do("document.getElementById('set-max_steps').value = 2")
    page.do("document.getElementById('set-max_tokens').value = 16")
    page.do(drop)
    page.until("/^[1-9][0-9]* tokens$/.test(document.querySelector('figcaption')?.textContent)")
    ask(page, "What is this?")
    done(page)
    assert page.do("document.querySelectorAll('.asked canvas').length") == 1
    scrub(page, 1)
    page.press("Go on from this step")
    page.until("document.querySelector('.wrong')?.textContent.includes('about an image')")
    page.faults.clear()  # Chromium notes a status of 400


@needs_chromium
@pytest.mark.slow(8)
def test_the_place_in_the_queue_is_shown_and_an_answer_can_be_given_up(browser, tiny):
    body = {
        "messages": STORY,
        "max_tokens": 4096,
        "sampler": {"max_steps": 1000, "confidence_threshold": 1e-9},
    }
    data = json.dumps(body).encode()
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            request = urllib.request.Request(
                tiny.url + "/page/answer", data, {"Content-Type": "application/json"}
            )
            stack.enter_context(urllib.request.urlopen(request, timeout=60)).readline()
        opened = stack.enter_context(browser.page(tiny.url + "/"))
        opened.until("document.getElementById('model').textContent")
        ask(opened)
        opened.until("/^[1-4] answers? before this one$/.test(document.querySelector('.wait').textContent)")
        opened.key("Escape")
        opened.until("document.querySelector('.note').textContent === 'stopped'")
        assert not opened.faults


@needs_chromium
@pytest.mark.slow(10)
def test_hostile_texts_are_shown_as_text(page):
    texts = json.dumps(HOSTILE)
    page.do(f"window.hostile = {texts}")
    # Where a person, a link, a file or the model puts a text.
    page.do("""(async () => {
      const {AnswerView} = await import('/page/answer-view.js');
      const about = await (await fetch('/page/about')).json();
      const names = {...hostile.map((text, id) => id % 3 === 2 ? {special: text} : text)};
      const ids = hostile.map((_, id) => id), entropy = ids.map(id => 3000 * (id % 5));
      for (const frame of [1, 2]) {
        const view = new AnswerView({levels: about.levels, pace: () => 0, name: () => 'x', stop() {}});
        document.getElementById('exchanges').append(view.root);
        const take = line => view.take(line, JSON.stringify(line));
        take({type: 'started', version: 2, seed: 1, settings: {max_steps: 2}, prompt: [1],
          stop_ids: [99], canvas_length: 40, vocab_size: 40, channel: [null, null], texts: names});
        take({type: 'canvas', block: 0, committed: 0, canvas: ids});
        take({type: 'step', block: 0, step: 1, tokens: ids, entropy, accepted: 'ff'.repeat(5), seconds: 1});
        take({type: 'committed', block: 0, answer_length: 40, seconds: 1});
        take({type: 'text', pieces: hostile.map((text, id) => [id % 2 ? 'answer' : 'thought', text, false])});
        view.end(hostile.join(' '));
        await view.seek(frame);
        const moved = new PointerEvent('pointermove', {bubbles: true});
        view.canvas.querySelector('[data-p]')?.dispatchEvent(moved);
      }
    })()""")
    page.do("""(() => {
      const set = (id, value) => { const field = document.getElementById(id); field.value = value;
        field.dispatchEvent(new Event('input')); };
      set('fill-text', hostile.join(' [[2]] '));
      set('decide-state', hostile.join(' '));
      set('schema-text', JSON.stringify({enum: hostile}));
      set('prompt', hostile.join(' '));
      location.hash = new URLSearchParams({mode: 'chat', prompt: hostile.join(' '), system: hostile[0],
        before: JSON.stringify([hostile.slice(0, 2)])});
    })()""")
    page.until("document.getElementById('composer-note').textContent.startsWith('From a link')")
    page.do("document.getElementById('send').click()")
    page.until("document.querySelectorAll('.asked').length === 2")
    page.press("Schema")
    page.press("Answer")
    page.until("document.querySelector('#schema-answer .actions').textContent !== 'Stop'")
    page.press("Decide")
    page.do(
        "document.querySelectorAll('.question input')"
        ".forEach((field, i) => field.value = hostile[i].replace(/[|<]/g, ''))"
    )
    page.press("Decide", "document.getElementById('decide')")
    page.until("!document.getElementById('decide-note').textContent.includes('deciding')")
    assert page.do("window.pwned === undefined")
    found = "img, iframe, object, base, meta[http-equiv], style, body script, main link, [onload], [onerror]"
    assert page.do(f"document.querySelectorAll({json.dumps(found)}).length") == 0
    shown = page.do(
        "[...document.querySelectorAll('main *, header *')].filter(e => !e.children.length && "
        "!/TEXTAREA|INPUT/.test(e.tagName)).map(e => e.textContent).join('\\n')"
    )
    for control in "\x1b\x07\x9b\x00\u202e\u2066\u200b\u2028\ue000":
        assert control not in shown, repr(control)
    assert "<img src=x onerror=pwned=1>" in shown
    page.faults[:] = [fault for fault in page.faults if "400 (Bad Request)" not in fault]


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """axe-core's source, from the npm registry."""
    folder = tmp_path_factory.mktemp("axe")
    if not shutil.which("npm"):
        pytest.skip("no npm, which brings axe-core")
    done = subprocess.run(["npm", "pack", "axe-core@4.11"], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("axe-core cannot be fetched from the npm registry")
    [archive] = folder.glob("*.tgz")
    with tarfile.open(archive) as files:
        return files.extractfile("package/axe.min.js").read().decode()


@needs_chromium
@pytest.mark.slow(25)
def test_axe_finds_nothing_serious(page, axe):
    page.do(axe)
    rules = """axe.run(document, {resultTypes: ['violations']}).then(found => found.violations
      .filter(each => each.impact === 'serious' || each.impact === 'critical')
      .map(each => each.id + each.nodes.map(node => node.target + ' ' + node.failureSummary)))"""

    def check():
        for theme in ("dark", "light"):
            for size in ((1200, 800), (390, 844)):
                page.look(size, theme, reduced=True)
                assert page.do(rules) == []

    check()
    ask(page)
    done(page)
    scrub(page, 4)
    check()
    page.press("Fill")
    page.press("Fill", "document.getElementById('fill')")
    done(page, "fill")
    check()
    page.press("Decide")
    page.press("Decide", "document.getElementById('decide')")
    page.until("document.querySelector('.chance')")
    check()
    page.press("Schema")
    page.press("Answer")
    page.until("document.querySelector('.values')")
    check()
    page.press("Sudoku")
    page.press("Solve")
    done(page, "sudoku")
    check()
    page.do("document.getElementById('settings').showModal()")
    check()


@needs_chromium
@pytest.mark.slow(6)
def test_the_keyboard_alone_is_enough(page):
    page.do("document.getElementById('prompt').focus()")
    page.type("Tell me a story.")
    page.key("Enter")
    done(page)
    for _ in range(40):
        page.key("Tab")
        if page.do("document.activeElement.type") == "range":
            break
    for _ in range(3):
        page.key("ArrowLeft")
    label = page.until("document.activeElement.getAttribute('aria-valuetext')")
    assert "step" in label
    assert label == page.do("document.querySelector('.step').textContent")
    page.do("document.getElementById('tab-chat').focus()")
    page.key("ArrowRight")
    assert page.do("document.activeElement.id + document.getElementById('fill').hidden") == "tab-fillfalse"


@needs_chromium
@pytest.mark.slow(5)
def test_less_motion_is_less_motion(page):
    page.look(reduced=True)
    page.do("window.before = true; location.reload()")
    page.until("!window.before && document.getElementById('model')?.textContent === 'demo'")
    assert page.do("document.getElementById('pace').value") == "0"
    ask(page)
    done(page)
    moving = "[...document.querySelectorAll('.canvas span')].filter(e => e.getAnimations().length)"
    assert page.do(f"{moving}.length") == 0


@needs_chromium
@pytest.mark.slow(5)
def test_the_styles_of_tokens_are_those_of_the_terminal(page, tmp_path):
    """The page decides them as `Progress` does, over every step of a recording."""
    path = record(tmp_path / "a.jsonl", *made_up(length=64, steps=12))
    read = read_recording(path)
    progress, wanted = Progress(read.tokens), []
    for event in read.events:
        progress.add(event)
        if isinstance(event, DenoisingStep):
            levels = [LEVELS[level] for level in progress.levels().tolist()]
            wanted.append(
                ["revised" if back else style for style, back in zip(levels, progress.revised, strict=True)]
            )
    text = json.dumps(path.read_text())
    found = page.do(f"""(async () => {{
      const {{Answer}} = await import('/page/recording.js');
      const answer = new Answer((await (await fetch('/page/about')).json()).levels);
      for (const line of {text}.split('\\n')) if (line) answer.take(JSON.parse(line), line);
      return answer.frames.filter(frame => frame.kind === 'step')
        .map(frame => [...frame.tokens].map((_, at) => answer.style(frame, at)));
    }})()""")
    assert found == wanted
