"""A process that goes on answering holds no more than it did: tools/trust/long_nights.py in short."""

from pathlib import Path

import pytest

from dgguf.session import Session
from tests.support.process_state import process_state
from tests.support.synthetic.writer import TINY, write_model

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
WARM, MORE = 4, 12


def test_answers_leave_nothing_behind(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    write_model(tmp_path / "tiny.gguf", TINY, "Q8_0", seed=3)
    with Session(tmp_path / "tiny.gguf", threads=2) as session:
        settings = session.settings(max_steps=2)
        messages = []
        for i in range(WARM + MORE):
            if i == WARM:
                before = process_state()
            session.generate(f"Prompt {i}", settings=settings, max_tokens=32, seed=i)
            messages.append({"role": "user", "content": f"Message {i}"})
            said = session.generate(messages, settings=settings, max_tokens=32, seed=i).text
            messages.append({"role": "assistant", "content": said or "Yes."})
        after = process_state()
    assert after.private_bytes - before.private_bytes < 20e6
    assert after.descriptors == before.descriptors
    assert after.threads == before.threads
    assert not after.temporary
