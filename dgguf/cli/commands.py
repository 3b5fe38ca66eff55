"""The group of commands: names of before still work, and a name that is nearly one is guessed."""

from typing import Any

import click

from dgguf.errors import did_you_mean

# Names that commands had, or have elsewhere; they work, and no list shows them.
_ALIASES = {"models": "list", "ls": "list", "info": "show", "remove": "rm"}


class Commands(click.Group):
    """Commands that are found by an old name, too."""

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return super().get_command(context, _ALIASES.get(name, name))

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(context, args)
        except click.UsageError as error:
            names = {name: _ALIASES.get(name, name) for name in (*self.commands, *_ALIASES)}
            hint = did_you_mean(args[0], names)
            raise click.UsageError(f"{error.message}{hint}", context) from None


def name_variables(command: click.Command) -> None:
    """Let each option have its variable: DGGUF_RUN_MAX_TOKENS for `run --max-tokens`, whatever we call it."""
    names = [str(command.name), *(alias for alias, name in _ALIASES.items() if name == command.name)]
    for option in command.params:
        if isinstance(option, click.Option):
            long = max(option.opts, key=len).lstrip("-").replace("-", "_")
            option.envvar = [f"DGGUF_{name}_{long}".upper() for name in names]


def complete_models(context: click.Context, parameter: click.Parameter, begun: str) -> list[Any]:
    """What a shell offers where a model belongs: the names of models.txt, and files."""
    from click.shell_completion import CompletionItem

    from dgguf.catalog import known_models

    names = [CompletionItem(known.name) for known in known_models() if known.name.startswith(begun)]
    # The file comes first: bash's script forgets what stood before one, and then offers files beside names.
    return [CompletionItem(begun, type="file"), *names]


model_argument = click.argument("model", shell_complete=complete_models)


# What `run --help` and `chat --help` show, by purpose; what is rare is shown by --help-all alone.
_GROUPS = {
    "Prompt": (
        "at",
        "by_option",
        "prompt",
        "file",
        "no_stdin",
        "images",
        "videos",
        "image_tokens",
        "go_on",
        "tools",
        "system",
        "think",
        "raw",
        "special",
    ),
    "Batch": ("out", "form", "column", "questions", "strict", "ray", "workers"),
    "Questions": ("lines", "questions_file", "samples", "permute", "joint"),
    "Answer": (
        "keep",
        "strength",
        "write",
        "begins",
        "ends",
        "pin_givens",
        "schema",
        "regex",
        "choice",
        "max_tokens",
        "canvas",
        "seed",
        "context",
        "when_full",
        "as_json",
        "stats",
        "verbose",
    ),
    "View": ("view", "pace", "markdown", "thoughts", "preview"),
    "Recording and drawing": ("record", "record_top", "export", "force"),
    "Machine": ("model", "threads", "cuda", "gpu_layers", "device", "exact", "keep_weights", "mmproj"),
    "Sampler": (
        "max_steps",
        "t_min",
        "t_max",
        "entropy_bound",
        "stability_threshold",
        "confidence_threshold",
        "turbo",
    ),
}
_RARE = (
    "mmproj",
    "image_tokens",
    "videos",
    "preview",
    "begins",
    "ends",
    "pin_givens",
    "raw",
    "special",
    "thoughts",
    "record_top",
    "force",
    "regex",
    "choice",
    "gpu_layers",
    "device",
    "keep_weights",
    *_GROUPS["Sampler"],
)
_ALL = "dgguf.help_all"  # in a context's meta
# Options whose value may be left out, which follows "=" then: else the next word would be taken for it.
_ALONE = {"--turbo": "--turbo=tail,frozen,end"}


class WithParts(click.Command):
    """A command with an option of `_ALONE`."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        n_options = args.index("--") if "--" in args else len(args)
        options = [_ALONE.get(arg, arg) for arg in args[:n_options]]
        return super().parse_args(context, options + args[n_options:])


class Grouped(WithParts):
    """A command whose options are listed by purpose, the rarer ones behind --help-all."""

    def get_params(self, context: click.Context) -> list[click.Parameter]:
        return [*super().get_params(context), _HELP_ALL]

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        options = [p for p in self.get_params(context) if isinstance(p, click.Option)]
        records = {option.name: option.get_help_record(context) for option in options}
        left = dict(records)
        for title, names in _GROUPS.items():
            known = [name for name in names if left.pop(name, None)]
            shown = [name for name in known if context.meta.get(_ALL) or name not in _RARE]
            rows = [record for name in shown if (record := records[name])]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
        with formatter.section("Help"):
            formatter.write_dl([record for record in left.values() if record])


def _help_all(context: click.Context, parameter: click.Parameter, given: bool) -> None:
    if given:
        context.meta[_ALL] = True
        click.echo(context.get_help())
        context.exit()


_HELP_ALL = click.Option(
    ["--help-all"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_help_all,
    help="Show the sampler's settings and the rarer options, too.",
)


@click.command(short_help="Print what completes commands in a shell.")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print what lets SHELL complete commands, options and models.

    \b
    Examples:
      dgguf completion bash >> ~/.bashrc
      dgguf completion zsh >> ~/.zshrc
      dgguf completion fish > ~/.config/fish/completions/dgguf.fish
    """
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root().command
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(root, {}, "dgguf", "_DGGUF_COMPLETE").source())
