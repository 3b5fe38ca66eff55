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
            hint = did_you_mean(args[0], [*self.commands, *_ALIASES])
            for alias, name in _ALIASES.items():
                hint = hint.replace(f" {alias}", f" {name}")
            raise click.UsageError(f"{error.message}{hint}", context) from None


def complete_models(context: click.Context, parameter: click.Parameter, begun: str) -> list[Any]:
    """What a shell offers where a model belongs: the names of models.txt, and files."""
    from click.shell_completion import CompletionItem

    from dgguf.catalog import known_models

    names = [CompletionItem(known.name) for known in known_models() if known.name.startswith(begun)]
    return [*names, CompletionItem(begun, type="file")]


model_argument = click.argument("model", shell_complete=complete_models)


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
