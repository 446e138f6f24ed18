"""The command `lml`.

Commands import what they need when they run, so that `lml --help` answers at once. A user's mistake is one line on
stderr and exit code 2, never a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from lmlangevin.install import install_hint

try:
    import click
except ModuleNotFoundError as error:  # the core installs without the command's packages
    raise SystemExit(f"lml needs packages that are not installed; {install_hint('cli')}") from error

from lmlangevin._version import __version__
from lmlangevin.commands.app import app
from lmlangevin.commands.bench import bench
from lmlangevin.commands.calibrate import calibrate
from lmlangevin.commands.compbench import compbench
from lmlangevin.commands.fid import fid
from lmlangevin.commands.generate import generate
from lmlangevin.commands.info import info
from lmlangevin.commands.plot import plot
from lmlangevin.commands.reproduce import reproduce

USER_MISTAKE = 2
INTERRUPTED = 130


class OneLineErrors(click.Group):
    """A command group that tells a user's mistake in one line."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command, see `click.Command.main`."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.exceptions.Abort as stop:
            # A command that can go on later says how.
            _fail(getattr(stop, "message", "interrupted."), getattr(stop, "code", INTERRUPTED))
        except click.ClickException as error:
            path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "lml"
            _fail(f"{error.format_message().rstrip('.')}; see '{path} --help'.")
        except ImportError as error:
            # The package's own name their extra.
            _fail(str(error) if "pip install" in str(error) else f"{error}; {install_hint('cli')}.")
        except ValueError as error:
            # Imported here: at the top it would import torch for `lml --help`.
            from lmlangevin.core.errors import LMLError

            if not isinstance(error, LMLError):
                raise
            _fail(str(error))
        else:
            sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int = USER_MISTAKE) -> None:
    click.echo(f"lml: {' '.join(message.split())}", err=True)
    sys.exit(code)


@click.group(
    "lml", cls=OneLineErrors, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="lml")
@click.pass_context
def cli(context: click.Context) -> None:
    """Diffusion sampling with the Levenberg-Marquardt-Langevin (LML) correction.

    \b
    lml generate --compare --out demo    plain and corrected images on the same seeds
    lml calibrate --out gains.json       a few-step schedule fitted to your model
    lml reproduce                        the paper's experiments, as presets
    lml compbench --help                 T2I-CompBench: layout, BLIP-VQA, paired differences
    lml app                              a page that shows both side by side
    lml plot RUN...                      images of equal seeds, differences, quality curves
    lml info                             schedulers, gains, models, versions
    """  # noqa: D301  (click knows the character itself, not the two of a raw string)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


cli.add_command(app)
cli.add_command(bench)
cli.add_command(calibrate)
cli.add_command(compbench)
cli.add_command(fid)
cli.add_command(generate)
cli.add_command(info)
cli.add_command(plot)
cli.add_command(reproduce)


def main() -> None:
    """Run `lml`."""
    cli(prog_name="lml")


if __name__ == "__main__":
    main()
