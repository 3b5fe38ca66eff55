"""The command line as a user meets it: stdout and stderr apart, exit codes, one clear sentence."""

import json
import os
import re
import subprocess
import sys

import click
import numpy as np
import pytest
from click.testing import CliRunner

from dgguf.cli import cli, saved
from dgguf.cli.prompt import read_prompt
from dgguf.errors import ModelFileError, PromptError, sentence
from dgguf.view.recording import read_recording
from tests.support.endless import write_endless_model
from tests.support.synthetic.writer import TINY, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_model(path, TINY, "Q8_0", seed=3)
    return str(path)


def dgguf(*arguments, stdin="", environment=None, **options):
    """Run dgguf as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "dgguf", *arguments],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        env=os.environ | (environment or {}),
        **options,
    )


QUICK = ["-n", "32", "--max-steps", "3", "--seed", "5"]


def test_run_prints_the_answer_alone_to_stdout(model):
    done = dgguf("run", model, "-p", "Hello", *QUICK)
    assert done.returncode == 0
    assert done.stdout.endswith("\n")
    assert len(done.stdout.split()) > 5
    assert "step" not in done.stdout
    steps = [line for line in done.stderr.splitlines() if line.startswith("block 1 · step")]
    assert len(steps) == 3
    for word in ("step 3/3", "mean entropy", "accepted", "/32", "s/step"):
        assert word in steps[-1]
    summary = next(line for line in done.stderr.splitlines() if line.startswith("1 block of 3 steps"))
    for word in ("32 answer tokens", "tokens/s", "first block after", "seed 5"):
        assert word in summary
    assert "warning" not in done.stderr  # whoever asks for 3 steps expects no settled block


def test_the_same_seed_gives_the_same_answer_on_any_number_of_threads(model):
    one, two = (dgguf("run", model, "-p", "Hello", *QUICK, "-t", n) for n in "13")
    other = dgguf("run", model, "-p", "Hello", *QUICK[:-1], "6")
    assert one.stdout == two.stdout != other.stdout


def test_the_prompt_from_a_file_a_pipe_and_an_option_is_the_same(model, tmp_path):
    text = "Café 😀\nline two"
    file = tmp_path / "prompt.txt"
    file.write_text(text, encoding="utf-8")
    answers = {
        dgguf("run", model, *QUICK, "-p", text).stdout,
        dgguf("run", model, *QUICK, "-f", str(file)).stdout,
        dgguf("run", model, *QUICK, "-f", "-", stdin=text).stdout,
        dgguf("run", model, *QUICK, stdin=text).stdout,
    }
    assert len(answers) == 1


def test_json_is_one_object(model):
    done = dgguf("run", model, "-p", "Hello", *QUICK, "--json")
    result = json.loads(done.stdout)
    text = dgguf("run", model, "-p", "Hello", *QUICK).stdout
    assert result["text"] == text.removesuffix("\n")
    assert (result["seed"], result["steps"], result["converged"], result["reason"]) == (
        5,
        [3],
        [False],
        "length",
    )
    assert result["answer_tokens"] == 32
    assert result["settings"]["max_steps"] == 3


def test_options_change_the_prompt(model):
    plain, system, raw = (
        json.loads(dgguf("run", model, "-p", "Hello", *QUICK, "--json", *more).stdout)["prompt_tokens"]
        for more in ([], ["--system", "Be brief"], ["--raw"])
    )
    assert raw < plain < system


def test_verbose_says_model_backend_and_settings(model):
    stderr = dgguf("run", model, "-p", "Hello", *QUICK, "-v", "--entropy-bound", "0.2").stderr
    assert model in stderr
    assert "threads" in stderr
    assert "entropy_bound 0.2" in stderr
    assert "max_steps 3" in stderr


def test_environment_variables_are_options(model):
    variables = {"DGGUF_RUN_MAX_STEPS": "2", "DGGUF_RUN_SEED": "9", "DGGUF_RUN_JSON": "1"}
    done = dgguf("run", model, "-p", "Hello", environment=variables)
    assert json.loads(done.stdout)["seed"] == 9
    assert set(json.loads(done.stdout)["steps"]) == {2}


def test_info(model):
    done = dgguf("info", model)
    for word in (
        "diffusion-gemma",
        "Q8_0",
        "F32",
        "entropy_bound",
        "KV cache",
        "scratch",
        "mapped",
        "canvas",
    ):
        assert word in done.stdout
    report = json.loads(dgguf("info", model, "--json", "--tensors", "--context", "100").stdout)
    assert report["memory"]["context"] == 100
    assert report["bytes"] == os.path.getsize(model)
    assert sum(row["tensors"] for row in report["types"].values()) == len(report["tensors"])
    assert "blk.0.attn_q.weight" in dgguf("info", model, "--tensors").stdout


def one_sentence(done, *words):
    """An error as it should be: exit code 1, one line on stderr that says these words, no traceback."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    errors = [line for line in lines if line.startswith("dgguf: error: ")]
    assert len(errors) == 1, done.stderr
    assert lines[-1] == errors[0]
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in errors[0]


@pytest.mark.parametrize("command", [["run", "-p", "Hi"], ["info"]])
def test_files_that_are_no_models(command, tmp_path, model):
    name, *options = command
    text = tmp_path / "text.gguf"
    text.write_text("hello, I am no model at all")
    one_sentence(dgguf(name, str(text), *options), str(text), "not a GGUF")
    one_sentence(dgguf(name, str(tmp_path), *options), str(tmp_path), "directory")
    one_sentence(dgguf(name, str(tmp_path / "none.gguf"), *options), "none.gguf", "demo")
    short = tmp_path / "short.gguf"
    with open(model, "rb") as file:
        short.write_bytes(file.read()[:-1000])
    one_sentence(dgguf(name, str(short), *options), str(short), "missing", "download")


BAD_MODELS = {
    "another architecture": ({"architecture": "llama"}, ["llama", "DiffusionGemma"]),
    "a missing tensor": ({"omit_tensors": ["blk.2.attn_k.weight"]}, ["blk.2.attn_k.weight"]),
    "a tensor of another shape": (
        {"shapes": {"blk.1.ffn_up.weight": (96, 32)}},
        ["blk.1.ffn_up.weight", "(96, 32)"],
    ),
    "a missing key": ({"omit_keys": ["*.expert_used_count"]}, ["expert_used_count"]),
    "a key of the wrong type": (
        {"metadata": {"diffusion-gemma.block_count": "six"}},
        ["block_count", "string"],
    ),
    "impossible geometry": (
        {"metadata": {"diffusion-gemma.attention.head_count": np.uint32(3)}},
        ["KV heads"],
    ),
    "too few layers listed": (
        {"metadata": {"diffusion-gemma.attention.head_count_kv": np.array([2, 1], np.int32)}},
        ["head_count_kv", "2 entries"],
    ),
    "no chat template": ({"omit_keys": ["tokenizer.chat_template"]}, ["chat template", "--raw"]),
    "another tokenizer": ({"metadata": {"tokenizer.ggml.model": "gpt2"}}, ["gpt2"]),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_models_that_cannot_run(case, tmp_path):
    variants, words = BAD_MODELS[case]
    path = tmp_path / "bad.gguf"
    write_model(path, TINY, "F16", **variants)
    one_sentence(dgguf("run", str(path), "-p", "Hi", *QUICK), *words)


def test_logits_that_are_no_numbers(tmp_path):
    path = tmp_path / "nan.gguf"
    write_model(path, TINY, "F32")
    from dgguf.ggufio.file import GgufFile

    offset = GgufFile(path).tensors["output_norm.weight"].offset
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(np.float32(np.nan).tobytes())
    one_sentence(dgguf("run", str(path), "-p", "Hi", *QUICK), "not finite", "output_norm.weight")


def test_a_prompt_longer_than_the_context(model):
    one_sentence(dgguf("run", model, "-p", "word " * 100, *QUICK, "-c", "64"), "64", "-c")
    one_sentence(dgguf("run", model, "-p", "Hi", *QUICK, "-c", "4096"), "4096", "2048")
    one_sentence(dgguf("run", model, "-p", "", *QUICK), "empty")


def here(*arguments):
    """Run dgguf in this process, which is quicker: its result, and its one sentence if it fails."""
    result = CliRunner().invoke(cli, [*arguments, "-t", "1"])
    failed = result.exception is not None and not isinstance(result.exception, SystemExit)
    return result, str(result.exception) if failed else ""


def test_fill_prints_the_whole_text(tmp_path):
    text = 'A "[[1]]" is \\[[x]] [[2]].\n'
    done, _ = here("fill", "demo", text, "--seed", "1")
    assert re.fullmatch(r'A ".*" is \[\[x\]\] .*\.\n', done.stdout)
    assert "positions pinned" in done.stderr
    (tmp_path / "t.txt").write_text(text)
    recording = str(tmp_path / "r.jsonl")
    found, _ = here(
        "fill", "demo", "-f", str(tmp_path / "t.txt"), "--json", "--record", recording, "--seed", "1"
    )
    found = json.loads(found.stdout)
    assert (found["text"], len(found["holes"]), found["seed"]) == (done.stdout, 2, 1)
    assert read_recording(tmp_path / "r.jsonl").started.constraints == text
    lines = here("fill", "demo", text, "--view", "jsonl", "--seed", "1")[0].stdout.splitlines()
    assert {json.loads(line)["type"] for line in lines} >= {"started", "canvas", "finished"}


def test_holes_that_are_held():
    done, _ = here("fill", "demo", "A [[1]] [[]].", "--choice", "fox", "--choice", "dog", "--seed", "1")
    assert re.fullmatch(r"A (fox|dog) (fox|dog)\.\n", done.stdout)
    assert here("fill", "demo", "A [[1]]", "--choice", "fox", "--regex", "a")[0].exit_code == 2
    assert "the regular expression" in here("fill", "demo", "A [[1]]", "--regex", "(")[1]


def test_fill_refuses_in_one_sentence(tmp_path):
    (tmp_path / "t.txt").write_text("kept")
    for words, complaint in (
        (["no hole"], "the text has no hole"),
        (["[[x]]"], "character 1"),
        (["[[1]]", "--record", str(tmp_path / "t.txt")], "is no recording"),
    ):
        assert complaint in here("fill", "demo", *words)[1]
    assert (tmp_path / "t.txt").read_text() == "kept"


def test_answers_that_begin_and_end_as_asked():
    words = ["run", "demo", "Tell me a story.", "--no-stdin", "--seed", "3"]
    done, _ = here(*words, "--begins", "A blue fox ", "--ends", " and slept.")
    assert done.stdout.startswith("A blue fox")
    assert done.stdout.endswith(" and slept.\n")
    assert here(*words, "--begins", "A blue fox")[0].stdout.startswith("A blue fox")
    short, _ = here(*words, "--ends", " and slept.", "-n", "12", "--canvas", "auto")
    assert short.stdout.endswith(" and slept.\n")
    assert "nothing is left" in here(*words, "--ends", " and slept.", "-n", "3")[1]
    assert here(*words, "--begins", "A", "--think")[0].exit_code == 2


BOARD = "21.3\n3..1\n...2\n1..."


def test_a_sudokus_givens_are_pinned():
    words = ["run", "demo", f"Solve this sudoku:\n{BOARD}", "--no-stdin", "--seed", "1", "--pin-givens"]
    done, _ = here(*words, "--view", "jsonl")
    started = json.loads(done.stdout.splitlines()[0])
    given = {place: int(digit) for place, digit in enumerate(BOARD) if digit.isdigit()}
    texts = {int(i): text for i, text in started["texts"].items()} if "texts" in started else {}
    for line in map(json.loads, done.stdout.splitlines()):
        texts |= {int(i): text for i, text in line.get("texts", {}).items()}
    pins = {int(place): texts[token] for place, token in started["pins"].items()}
    assert {place: int(pins[place]) for place in given} == given
    assert len(pins) == started["canvas_length"] - BOARD.count(".")
    assert started["constraints"] == "the sudoku's givens"
    solved, _ = here(*words, "--max-steps", "1", "--view", "none")
    assert re.fullmatch(re.escape(BOARD).replace(r"\.", ".") + "\n", solved.stdout)
    assert "needs a sudoku in the prompt" in here("run", "demo", "Hi", "--no-stdin", "--pin-givens")[1]
    for other in (["--begins", "a"], ["--choice", "a"], ["--think"]):
        assert here(*words, *other)[0].exit_code == 2


def test_canvases_as_short_as_wanted(model):
    def lengths(*options):
        done, _ = here("run", model, "-p", "Hi", "--no-stdin", *QUICK, "--view", "jsonl", *options)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return [len(line["canvas"]) for line in lines if line["type"] == "canvas"]

    assert lengths() == [32]
    assert lengths("--canvas", "16") == [16, 16]
    assert lengths("--canvas", "auto", "-n", "7") == [16]
    for command in (["run", model, "-p", "Hi", "--no-stdin"], ["chat", model]):
        assert (
            "a canvas of 48 positions does not fit the model: it takes at most 32"
            in (here(*command, "--canvas", "48")[1])
        )


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "demo", "-p", "a", "-f", "-"],
        ["run", "demo", "-p", "a", "--no-such-option"],
        ["run", "demo", "-p", "a", "-n", "0"],
        ["run", "demo", "-p", "a", "--canvas", "15"],
        ["fill", "demo"],
        ["fill", "demo", "[[1]]", "-f", "-"],
        ["run", "demo", "-p", "a", "--canvas", "long"],
        ["run", "demo", "-p", "a", "--raw", "--think"],
        ["run", "demo", "-p", "a", "-f", "no-such-file"],
        ["nonsense"],
        ["quantize", "a", "b", "--type", "Q9_9"],
    ],
)
def test_usage_errors_exit_2(arguments):
    done = dgguf(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("dgguf: error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left on device")])
def test_errors_of_the_machine_are_sentences(error, monkeypatch, capsys):
    import dgguf.cli

    def fail(**_):
        raise error

    monkeypatch.setattr(dgguf.cli.cli, "main", fail)
    with pytest.raises(SystemExit) as end:
        dgguf.cli.main()
    assert end.value.code == 1
    assert re.fullmatch(r"dgguf: error: .*(enough memory|No space left).*\n", capsys.readouterr().err)


@pytest.mark.posix
@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file that cannot be read")
def test_a_file_that_cannot_be_read_is_named():
    """Where opening it succeeds: the system's errors of reading name no file."""
    with open("/proc/self/mem", "rb") as file:
        for read in (lambda: read_prompt([], file, use_stdin=False), lambda: saved.read(file.name)):
            with pytest.raises(PromptError, match=r"^/proc/self/mem: cannot read the file: Input"):
                read()


@pytest.mark.posix
def test_a_full_disk_behind_stdout():
    command = f"'{sys.executable}' -m dgguf run demo -p Hi -n 1 --max-steps 1 --seed 1 > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "No space left" in done.stderr


@pytest.mark.parametrize("closed", ["1", "2"])
@pytest.mark.posix
def test_a_closed_output_is_no_other(closed, model):
    """What belongs to a closed stream goes nowhere, above all not to the other stream."""
    command = f"'{sys.executable}' -m dgguf run '{model}' -p Hi {' '.join(QUICK)} {closed}>&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "step" not in done.stdout
    assert bool(done.stdout) == (closed == "2")
    assert bool(done.stderr) == (closed == "1")


@pytest.mark.posix
def test_beside_plain_lines_on_a_terminal_the_answer_comes_whole(model):
    """Progress and answer share the screen: the answer is not torn apart by progress lines."""
    import pty

    command = [
        sys.executable,
        "-m",
        "dgguf",
        "run",
        model,
        "-p",
        "Hi",
        "--max-steps",
        "2",
        "--seed",
        "5",
        "-n",
        "64",
        "--view",
        "plain",
    ]
    piped = subprocess.run(command, capture_output=True, text=True).stdout
    controller, terminal = pty.openpty()
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(controller, 1 << 16)
        except OSError:  # how Linux says that nobody writes any more
            break
        if not part:
            break
        shown += part
    assert process.wait() == 0
    os.close(controller)
    lines = shown.decode().split("\r\n")
    committed = max(i for i, line in enumerate(lines) if "committed" in line)
    assert lines[committed + 1] == piped.splitlines()[0]


@pytest.mark.posix
def test_quantize_never_replaces_a_pipe(tmp_path):
    from tests.support.checkpoints import Checkpoint

    source = Checkpoint(tmp_path / "source").write()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    one_sentence(dgguf("quantize", str(source), str(pipe), "--type", "Q8_0", "--force"), str(pipe), "pipe")
    assert not pipe.is_file()
    one_sentence(dgguf("quantize", str(tmp_path / "none"), "out", "--type", "Q8_0"), "none", "config.json")


def test_quantize_and_run(tmp_path):
    from tests.support.checkpoints import Checkpoint

    source, out = Checkpoint(tmp_path / "source").write(), tmp_path / "out.gguf"
    done = dgguf("quantize", str(source), str(out), "--type", "q8_0")
    assert (done.returncode, done.stdout) == (0, "")
    assert str(out) in done.stderr.splitlines()[-1]
    assert "Q8_0" in dgguf("info", str(out)).stdout
    one_sentence(dgguf("quantize", str(source), str(out), "--type", "q8_0"), "exists", "--force")


def test_debug_shows_the_traceback(tmp_path):
    for arguments in (("--debug", "info", str(tmp_path)), ("info", str(tmp_path), "--debug")):
        assert "Traceback" in dgguf(*arguments).stderr


@pytest.mark.posix
def test_a_closed_pipe_is_quiet(model):
    command = f"'{sys.executable}' -m dgguf info '{model}' --tensors | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout == f"{model}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["info", "-h"], ["quantize", "--help"]])
def test_help_teaches_by_example(arguments):
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0
    assert "Examples:" in done.output
    assert "dgguf " in done.output


def test_help_is_quick():
    """It loads no package but click, and less than 250 modules (numpy alone has 100)."""
    code = (
        "import sys, dgguf.cli\n"
        "dgguf.cli.cli.main(['--help'], standalone_mode=False)\n"
        "print(len(sys.modules), *{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-Ic", code], capture_output=True, text=True, check=True)
    count, *names = done.stdout.splitlines()[-1].split()
    assert int(count) < 250
    assert {"dgguf", "click"} <= {*names}
    assert not {"numpy", "numba", "rich", "jinja2", "httpx", "huggingface_hub", "prompt_toolkit"} & {*names}


@pytest.mark.posix
def test_ctrl_c_ends_with_130_and_what_is_settled(tmp_path):
    import signal

    model = write_endless_model(tmp_path / "endless.gguf")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "dgguf",
            "run",
            model,
            "-p",
            "Hi",
            "--seed",
            "5",
            "-n",
            "9999",
            "--max-steps",
            "40",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    for line in process.stderr:
        if line.startswith("block 2 · step"):
            break
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 130
    whole = dgguf("run", model, "-p", "Hi", "--seed", "5", "-n", "32", "--max-steps", "40").stdout
    assert stdout.startswith(whole.rstrip("\n"))
    assert "Traceback" not in stderr
    assert "seed 5" in stderr


def test_quantize_offers_every_recipe():
    from dgguf.convert import RECIPES

    (option,) = (p for p in cli.commands["quantize"].params if p.name == "type_name")
    assert list(option.type.choices) == list(RECIPES)


def test_more_threads_than_run_at_once_are_said(model):
    done = dgguf("run", model, "-p", "Hi", "-n", "1", "--max-steps", "1", "-t", "1000")
    assert done.returncode == 0
    note = done.stderr.splitlines()[0]
    assert note.startswith("note: ")
    assert note.endswith("as many as run at once here, not 1000")
    assert "note:" not in dgguf("run", model, "-p", "Hi", "-n", "1", "--max-steps", "1", "-t", "1").stderr


@pytest.mark.posix
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("run demo", "the prompt is empty"),
        ("run demo -f -", "the prompt is empty"),
        ("run nosuch -p Hi", "no file 'nosuch'"),
        ("chat nosuch", "no file 'nosuch'"),
    ],
)
def test_a_closed_stdin_is_an_empty_one(command, words):
    line = f"exec {sys.executable} -m dgguf {command} <&-"
    done = subprocess.run(["sh", "-c", line], capture_output=True, encoding="utf-8")
    one_sentence(done, words)


def test_what_numba_is_told_not_to_compile(model):
    without = {"NUMBA_DISABLE_JIT": "1"}
    assert dgguf("info", model, environment=without).returncode == 0
    one_sentence(dgguf("run", model, "-p", "Hi", environment=without), "NUMBA_DISABLE_JIT", "unset it")


def test_long_messages_are_cut():
    text = sentence(ModelFileError(f"m.gguf: the token {'x' * 10**6!r} is strange: do this"))
    assert text.startswith("m.gguf: the token 'xxx")
    assert text.endswith("xxx' is strange: do this")
    assert len(text) < 2100


@pytest.mark.parametrize(
    ("arguments", "guess"),
    [
        (["chatt"], "Did you mean chat?"),
        (["modells"], "Did you mean list?"),
        (["lst"], "Did you mean list?"),
        (["run", "diffusiongema", "Hi"], "Did you mean diffusiongemma"),
        (["pull", "diffusiongemma-q4"], "Did you mean diffusiongemma"),
    ],
)
def test_a_name_that_is_nearly_one_is_guessed(arguments, guess):
    done = dgguf(*arguments)
    assert done.returncode in (1, 2)
    assert guess in done.stderr


def test_shells_complete_commands_and_models(tmp_path):
    shim = tmp_path / "dgguf"
    shim.write_text(
        f"#!{sys.executable}\nimport sys; sys.argv[0] = 'dgguf'\nfrom dgguf.cli import main\nmain()\n"
    )
    shim.chmod(0o755)

    def completed(words, number):
        variables = {"_DGGUF_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(number)}
        done = subprocess.run([shim], env=os.environ | variables, capture_output=True, text=True)
        return done.stdout.split()

    assert completed("dgguf ch", 1) == ["plain,chat", "plain,check"]
    assert completed("dgguf run de", 2) == ["file,de", "plain,demo"]
    for shell in ("bash", "zsh", "fish"):
        done = dgguf("completion", shell)
        assert done.returncode == 0
        assert "_DGGUF_COMPLETE" in done.stdout


def test_help_lists_every_command_in_whole_sentences():
    text = dgguf("--help").stdout
    listed = re.search(r"Commands:\n(.*?)\n\n", text, re.DOTALL)[1].splitlines()
    assert len(listed) == len(cli.commands)
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)


@pytest.mark.parametrize("command", ["run", "chat"])
def test_the_help_of_answers_is_short_and_the_whole_of_it_is_there(command):
    from dgguf.cli.commands import _GROUPS, _RARE

    wide = {"COLUMNS": "100"}
    short = dgguf(command, "--help", environment=wide).stdout
    whole = dgguf(command, "--help-all", environment=wide).stdout
    assert len(short.splitlines()) <= 60
    options = [p for p in cli.commands[command].params if isinstance(p, click.Option) and not p.hidden]
    assert len(options) >= 20
    for option in options:
        name = option.opts[-1] if option.opts[-1].startswith("--") else option.opts[0]
        assert f"{name} " in whole or f"{name}\n" in whole
        assert (f"{name} " in short) == (option.name not in _RARE), name
        if option.name != "debug":
            assert sum(option.name in names for names in _GROUPS.values()) == 1


def test_every_option_has_its_variable():
    for name, command in cli.commands.items():
        for option in command.params:
            if isinstance(option, click.Option) and option.name != "debug":
                long = max(option.opts, key=len).lstrip("-").replace("-", "_").upper()
                assert f"DGGUF_{name.upper()}_{long}" in option.envvar
    variables = {"DGGUF_RUN_PROMPT": "Hi", "DGGUF_INFO_JSON": "1"}
    assert json.loads(dgguf("info", "demo", environment=variables).stdout)["types"]
